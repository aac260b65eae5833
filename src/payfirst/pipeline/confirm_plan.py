"""What one block at depth proves, item by item. Pure: logs in, decisions out."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from payfirst.chain.blocks import Head, Receipt
from payfirst.chain.evidence import MintedUnit, PaidTransfer
from payfirst.lifecycle import Finality, PaymentStatus
from payfirst.store.crediting import CreditCandidate
from payfirst.store.refunds import Refunded
from payfirst.store.transaction_items import ItemOutcome, MintItem, PaymentItem, RefundItem
from payfirst.store.transactions import MinedTransaction, UnresolvedHash
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, MintId, TxHash

PaymentKey = tuple[Address, AuthorizationNonce]


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction of ours in this block, with what it carried."""

    known: UnresolvedHash
    receipt: Receipt
    payments: tuple[PaymentItem, ...] = ()
    mints: tuple[MintItem, ...] = ()
    refunds: tuple[RefundItem, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockEvidence:
    """Everything about one block that decides something.

    `paid` are the authorized transfers to our payTo addresses; `ours` the hashes of them that payfirst signed, but for
    the payments `not_carried`, which came to the database when their transaction was on its way already;
    `minted_before` the mint ids that the token holds although this block shows no log for them. `given_back` are the
    authorized transfers in transactions of ours that refund.
    """

    head: Head
    paid: tuple[PaidTransfer, ...]
    candidates: Mapping[PaymentKey, CreditCandidate]
    ours: Collection[TxHash]
    mined: tuple[Mined, ...]
    minted: tuple[MintedUnit, ...]
    minted_before: Collection[MintId] = ()
    not_carried: Collection[uuid.UUID] = ()
    given_back: tuple[PaidTransfer, ...] = ()


@dataclass(frozen=True, slots=True)
class Caution:
    """Which evidence is not believed as soon as it is read: amounts from which payments wait, None for none."""

    large_amount: AtomicAmount | None = None  # for more depth
    agree_amount: AtomicAmount | None = None  # for a second endpoint
    two_endpoints: bool = False  # there is a second: what ends a payment waits for it too

    def kind(self, amount: AtomicAmount) -> tuple[bool, bool]:
        """Whether a payment waits for more depth, and whether for a second endpoint."""
        large, agree = self.large_amount, self.agree_amount
        return large is not None and amount >= large, agree is not None and amount >= agree

    def waits(self, amount: AtomicAmount) -> bool:
        """Whether a payment waits for anything."""
        return any(self.kind(amount))


NO_CAUTION = Caution()


@dataclass(frozen=True, slots=True)
class Credit:
    """A payment and the transfer that paid it."""

    payment: CreditCandidate
    transfer: PaidTransfer
    ours: bool


@dataclass(slots=True)
class BlockPlan:
    """What is to change, all in one commit. `strange` are transfers that no rule explains, for the log.

    `waiting` are transactions whose evidence is believed later, each whole, with the payments that it concerns.
    """

    credits: list[Credit] = field(default_factory=list)
    back: list[Credit] = field(default_factory=list)
    used_before: list[uuid.UUID] = field(default_factory=list)
    returned_payments: list[uuid.UUID] = field(default_factory=list)
    returned_mints: list[uuid.UUID] = field(default_factory=list)
    minted: list[tuple[MintId, TxHash]] = field(default_factory=list)
    refunded: list[Refunded] = field(default_factory=list)
    transactions: list[MinedTransaction] = field(default_factory=list)
    outcomes: list[ItemOutcome] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    waiting: dict[TxHash, list[uuid.UUID]] = field(default_factory=dict)

    @property
    def payment_ids(self) -> set[uuid.UUID]:
        """The payments whose own row changes; those of which only units do are not known here."""
        return {*(c.payment.id for c in (*self.credits, *self.back)), *self.used_before, *self.returned_payments}


def plan_block(evidence: BlockEvidence, caution: Caution = NO_CAUTION) -> BlockPlan:
    """Decide by logs alone what a block did to our payments, mints and transactions.

    What `caution` does not believe yet waits by the transaction: all items of one change in one commit.
    """
    plan = BlockPlan(waiting={} if caution == NO_CAUTION else _waiting(evidence, caution))
    for transfer in evidence.paid:
        if transfer.tx_hash not in plan.waiting:
            _judge_transfer(plan, transfer, evidence)
    for unit in evidence.minted:
        plan.minted.append((unit.mint_id, unit.tx_hash))
    in_logs = {(unit.mint_id, unit.tx_hash) for unit in evidence.minted}
    plan.refunded += [Refunded(t.payer, t.nonce, t.pay_to, t.value, t.tx_hash) for t in evidence.given_back]
    paid_by = {(t.payer, t.nonce): t.tx_hash for t in evidence.paid}
    for mined in evidence.mined:
        if mined.receipt.tx_hash in plan.waiting:
            continue
        plan.transactions.append(_mined(mined, evidence.head.number))
        for item in mined.payments:
            _judge_payment_item(plan, item, mined, paid_by)
        for unit_item in mined.mints:
            _judge_mint_item(plan, unit_item, mined, in_logs, evidence.minted_before)
        for refund_item in mined.refunds:
            plan.outcomes.append(_refund_outcome(refund_item, plan.refunded, mined))
    return plan


def _waiting(evidence: BlockEvidence, caution: Caution) -> dict[TxHash, list[uuid.UUID]]:
    """The transactions that change a payment by evidence which is to wait, with every payment they change."""
    changed: dict[TxHash, list[uuid.UUID]] = {}
    doubted: set[TxHash] = set()
    for transfer in evidence.paid:
        trial = BlockPlan()
        _judge_transfer(trial, transfer, evidence)
        changed.setdefault(transfer.tx_hash, []).extend(trial.payment_ids)
        is_large = any(caution.waits(credit.payment.amount) for credit in (*trial.credits, *trial.back))
        if is_large or (trial.used_before and caution.two_endpoints):
            doubted.add(transfer.tx_hash)
    return {tx_hash: ids for tx_hash, ids in changed.items() if tx_hash in doubted}


def _judge_transfer(plan: BlockPlan, transfer: PaidTransfer, evidence: BlockEvidence) -> None:
    payment = evidence.candidates.get((transfer.payer, transfer.nonce))
    if payment is None:
        plan.strange.append(f"authorized transfer of nobody's in log {transfer.log_index}")
        return
    if transfer.value != payment.amount or transfer.pay_to != payment.pay_to:
        plan.strange.append(f"payment {payment.id}: its authorization was used for another value or payee")
        return
    ours = transfer.tx_hash in evidence.ours and payment.id not in evidence.not_carried
    credit = Credit(payment, transfer, ours=ours)
    if payment.status is PaymentStatus.COMPLETED:
        if payment.finality is Finality.REORGED:
            plan.back.append(credit)
        elif (payment.settled_block_hash, payment.settled_log_index) != (evidence.head.hash, transfer.log_index):
            plan.strange.append(f"payment {payment.id}: completed, and paid again in log {transfer.log_index}")
        return
    if evidence.head.number <= payment.accepted_height and not credit.ours:
        # Copied from public calldata: that use was not for us. (Ours may be mined anew that low by a reorg.)
        if payment.status is PaymentStatus.PENDING:
            plan.used_before.append(payment.id)
        return
    plan.credits.append(credit)


def _judge_payment_item(plan: BlockPlan, item: PaymentItem, mined: Mined, paid_by: Mapping[PaymentKey, TxHash]) -> None:
    paid_in = paid_by.get((item.payer, item.nonce))
    if paid_in == mined.receipt.tx_hash:
        outcome = "done"
    elif paid_in is not None:
        outcome = "elsewhere"
    else:
        # Also when it was settled elsewhere in an earlier block: the statement only returns what is still `sent`.
        outcome = "reverted"
        plan.returned_payments.append(item.payment_id)
    plan.outcomes.append(ItemOutcome(item.transaction_id, item.position, outcome))


def _judge_mint_item(
    plan: BlockPlan,
    item: MintItem,
    mined: Mined,
    in_logs: Collection[tuple[MintId, TxHash]],
    minted_before: Collection[MintId],
) -> None:
    if (item.mint_id, mined.receipt.tx_hash) in in_logs:
        outcome = "done"
    elif item.mint_id in minted_before:
        # The contract skipped a used id: it was minted by an earlier transaction.
        outcome = "elsewhere"
        plan.minted.append((item.mint_id, mined.receipt.tx_hash))
    else:
        outcome = "reverted"
        plan.returned_mints.append(item.queue_id)
    plan.outcomes.append(ItemOutcome(item.transaction_id, item.position, outcome))


def _refund_outcome(item: RefundItem, refunded: Collection[Refunded], mined: Mined) -> ItemOutcome:
    """What became of one refund; the rows themselves follow the evidence, because a row may have been made anew."""
    mine = [f for f in refunded if (f.nonce, f.beneficiary, f.amount) == (item.nonce, item.beneficiary, item.amount)]
    if any(f.tx_hash == mined.receipt.tx_hash for f in mine):
        return ItemOutcome(item.transaction_id, item.position, "done")
    return ItemOutcome(item.transaction_id, item.position, "elsewhere" if mine else "reverted")


def _mined(mined: Mined, block: BlockNumber) -> MinedTransaction:
    receipt = mined.receipt
    return MinedTransaction(
        id=mined.known.transaction_id,
        hash=receipt.tx_hash,
        block=block,
        block_hash=receipt.block_hash,
        succeeded=receipt.succeeded,
        gas_used=receipt.gas_used,
        gas_price=receipt.gas_price,
    )
