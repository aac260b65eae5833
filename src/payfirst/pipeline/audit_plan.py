"""What a difference between database and chain means, and what it takes. Pure: `audit_read` looks, `audit` acts."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from payfirst.chain.evidence import PaidTransfer
from payfirst.lifecycle import Finality, PaymentStatus
from payfirst.pipeline.audit_kinds import Finding, Kind
from payfirst.pipeline.confirm_plan import PaymentKey
from payfirst.store.auditing import EvidencedPayment, Reservation, StrandedRow, UnitRow
from payfirst.store.crediting import CreditCandidate
from payfirst.store.owed import Unclaimed
from payfirst.units import (
    AccountNonce,
    Address,
    AtomicAmount,
    BlockHash,
    BlockNumber,
    MintId,
    TxHash,
    checksum_address,
    hex_text,
)


@dataclass(frozen=True, slots=True)
class SeenTransfer:
    """A transfer into a payTo by an authorization, with its block."""

    transfer: PaidTransfer
    block: BlockNumber
    block_hash: BlockHash


@dataclass(frozen=True, slots=True)
class SeenMint:
    """A TokensMinted log."""

    token: Address
    mint_id: MintId
    tx_hash: TxHash
    block: BlockNumber


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many units of a token were minted with ids of one authorization, and what one costs."""

    token: Address
    units: int
    price: AtomicAmount


@dataclass(frozen=True, slots=True)
class Period:
    """Some blocks, both ends included, and up to which no reorg reaches."""

    first: BlockNumber
    last: BlockNumber
    final: BlockNumber


@dataclass(frozen=True, slots=True)
class PeriodView:
    """Chain and database side by side: only what does not agree at a first look.

    `transfers` are those that no completed payment names; `claimed` the authorizations that any payment holds, live or
    archived; `named` those that are owed already; `delivered` by transaction hash and log index; `mints` those whose
    rows are not completed; `gone_payments` name a transfer that the chain does not hold, `gone_units` ids that no log
    and no token holds.
    """

    transfers: Sequence[SeenTransfer] = ()
    candidates: Mapping[PaymentKey, CreditCandidate] = field(default_factory=dict)
    claimed: Collection[PaymentKey] = ()
    carried: Collection[tuple[TxHash, uuid.UUID]] = ()
    named: Collection[PaymentKey] = ()
    delivered: Mapping[PaymentKey, Sequence[Delivered]] = field(default_factory=dict)
    mints: Sequence[SeenMint] = ()
    units: Mapping[MintId, UnitRow] = field(default_factory=dict)
    derived: Collection[MintId] = ()
    ours: Collection[TxHash] = ()
    gone_payments: Sequence[EvidencedPayment] = ()
    gone_units: Sequence[UnitRow] = ()
    units_missing: Sequence[uuid.UUID] = ()


@dataclass(slots=True)
class PeriodPlan:
    """What was found, and what a repair acts on."""

    findings: list[Finding] = field(default_factory=list)
    credit: list[SeenTransfer] = field(default_factory=list)
    owe: list[Unclaimed] = field(default_factory=list)
    mark: list[SeenMint] = field(default_factory=list)


def plan_period(view: PeriodView, period: Period) -> PeriodPlan:
    """Judge each difference by the chain's evidence alone."""
    plan = PeriodPlan()
    for seen in view.transfers:
        _judge_transfer(plan, seen, view, period)
    for mint in view.mints:
        _judge_mint(plan, mint, view, period)
    for payment in view.gone_payments:
        if payment.settled_block <= period.final:  # a reorg above is undone by the workers
            plan.findings.append(
                Finding(
                    Kind.PAYMENT_EVIDENCE_GONE,
                    str(payment.id),
                    f"log {payment.settled_log_index} of block {payment.settled_block} is no such transfer",
                    payment.settled_block,
                )
            )
    for unit in view.gone_units:
        if unit.minted_block is not None and unit.minted_block <= period.final:
            plan.findings.append(
                Finding(Kind.MINT_GONE, str(unit.id), f"mint id {hex_text(unit.mint_id)}", unit.minted_block)
            )
    for payment_id in view.units_missing:
        plan.findings.append(Finding(Kind.PAYMENT_UNITS_MISSING, str(payment_id), "fewer mint rows than its quantity"))
    return plan


def _judge_transfer(plan: PeriodPlan, seen: SeenTransfer, view: PeriodView, period: Period) -> None:
    transfer, key = seen.transfer, (seen.transfer.payer, seen.transfer.nonce)
    payment = view.candidates.get(key)
    if payment is None:
        if key not in view.claimed and key not in view.named:
            _judge_money(plan, seen, view, period)
        return
    where = f"log {transfer.log_index} of {hex_text(transfer.tx_hash)}"
    if (transfer.value, transfer.pay_to) != (payment.amount, payment.pay_to):
        terms = f"{transfer.value} to {checksum_address(transfer.pay_to)} instead of {payment.amount}"
        plan.findings.append(Finding(Kind.PAYMENT_TERMS_DIFFER, str(payment.id), f"{terms}, {where}", seen.block))
        return
    if payment.status is PaymentStatus.COMPLETED:
        if payment.finality is Finality.FINAL and seen.block <= period.final:
            plan.findings.append(Finding(Kind.PAYMENT_EVIDENCE_DIFFERS, str(payment.id), f"it is {where}", seen.block))
        return  # what is not final yet follows the chain by itself
    if seen.block <= payment.accepted_height and (transfer.tx_hash, payment.id) not in view.carried:
        # That use was not for this payment (rule 4); once it has failed, the money is nobody's.
        if payment.status is PaymentStatus.FAILED and key not in view.named:
            _judge_money(plan, seen, view, period)
        return
    plan.credit.append(seen)
    sentence = f"it is {payment.status}, and paid in {where}"
    plan.findings.append(Finding(Kind.PAYMENT_NOT_CREDITED, str(payment.id), sentence, seen.block))


def _judge_money(plan: PeriodPlan, seen: SeenTransfer, view: PeriodView, period: Period) -> None:
    """Money that no payment holds. What was minted for it before its row was lost is not owed again."""
    transfer = seen.transfer
    delivered = view.delivered.get((transfer.payer, transfer.nonce), ())
    worth = sum(d.units * d.price for d in delivered)
    left = AtomicAmount(max(0, transfer.value - worth))
    minted = f"; {sum(d.units for d in delivered)} units of it were minted, {left} is left" if delivered else ""
    said = (
        f"{transfer.value} from {checksum_address(transfer.payer)} by authorization {hex_text(transfer.nonce)}"
        f" in log {transfer.log_index} of {hex_text(transfer.tx_hash)}{minted}"
    )
    if left == 0:
        kind = Kind.MONEY_DELIVERED
    elif seen.block > period.final:
        kind = Kind.MONEY_NOT_FINAL
    else:
        kind = Kind.MONEY_WITHOUT_PAYMENT
        plan.owe.append(Unclaimed(transfer.payer, transfer.nonce, left, transfer.tx_hash, seen.block))
    plan.findings.append(Finding(kind, hex_text(transfer.tx_hash), said, seen.block))


def _judge_mint(plan: PeriodPlan, mint: SeenMint, view: PeriodView, period: Period) -> None:
    unit = view.units.get(mint.mint_id)
    by = f"mint id {hex_text(mint.mint_id)} in {hex_text(mint.tx_hash)}"
    if unit is not None:
        is_final = mint.block <= period.final
        if is_final:
            plan.mark.append(mint)
        kind = Kind.MINT_NOT_MARKED if is_final else Kind.MINT_NOT_FINAL
        plan.findings.append(Finding(kind, str(unit.id), f"it is {unit.status}; {by}", mint.block))
    elif mint.mint_id not in view.derived:
        kind = Kind.MINT_WITHOUT_PAYMENT if mint.tx_hash in view.ours else Kind.MINT_BY_OTHERS
        plan.findings.append(Finding(kind, checksum_address(mint.token), by, mint.block))


# ---- signers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignerView:
    """One signer's nonces: the chain's count, that with its pool, and the database's next; `missing` have no row.

    `unread` are nonces whose transaction is mined in a block that was read, and has no outcome.
    """

    address: Address
    mined: AccountNonce
    waiting: AccountNonce
    next_nonce: AccountNonce
    missing: Sequence[AccountNonce]
    found: Sequence[tuple[AccountNonce, TxHash]]
    unread: Sequence[tuple[AccountNonce, TxHash]]
    fenced: bool


def judge_signer(view: SignerView) -> list[Finding]:
    """What the database does not know of a signer."""
    name = checksum_address(view.address)
    found = {nonce for nonce, _ in view.found}
    findings = [
        Finding(Kind.TRANSACTION_UNKNOWN, name, f"nonce {nonce} is {hex_text(tx_hash)}")
        for nonce, tx_hash in sorted(view.found)
    ]
    findings += [Finding(Kind.TRANSACTION_NOT_FOUND, name, f"nonce {n}") for n in view.missing if n not in found]
    findings += [
        Finding(Kind.TRANSACTION_UNREAD, name, f"nonce {nonce} is {hex_text(tx_hash)}")
        for nonce, tx_hash in view.unread
    ]
    unknown_from = max(view.next_nonce, view.mined)
    findings += [Finding(Kind.TRANSACTION_WAITING, name, f"nonce {n}") for n in range(unknown_from, view.waiting)]
    if view.fenced:
        findings.append(Finding(Kind.SIGNER_FENCED, name, f"the chain counts {view.mined} transactions of it"))
    return findings


# ---- counts ------------------------------------------------------------------------------------------


def judge_reservations(rows: Sequence[Reservation]) -> list[Finding]:
    """Reserved units against the rows that hold them."""
    return [
        Finding(Kind.SUPPLY_RESERVED_DIFFERS, checksum_address(r.token), f"{r.reserved} reserved, rows hold {r.held}")
        for r in rows
        if r.reserved != r.held
    ]


def judge_minted(counts: Mapping[Address, int], on_chain: Mapping[Address, int]) -> list[Finding]:
    """Units marked as minted against each contract's own count."""
    return [
        Finding(Kind.SUPPLY_MINTED_DIFFERS, checksum_address(token), f"{count} marked, the contract counts {said}")
        for token, count in counts.items()
        if (said := on_chain.get(token)) is not None and count > said
    ]


def judge_stranded(payments: Sequence[StrandedRow], units: Sequence[StrandedRow]) -> list[Finding]:
    """Rows that are sent and that nothing carries."""
    return [
        Finding(kind, str(row.id), f"its transaction {row.tx_hash} is resolved or unknown")
        for kind, rows in ((Kind.PAYMENT_STRANDED, payments), (Kind.MINT_STRANDED, units))
        for row in rows
    ]
