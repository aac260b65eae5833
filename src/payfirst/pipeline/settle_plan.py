"""What a pre-flight means for each claimed payment, and which of them share a transaction. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from payfirst.chain.contracts import CODE_PAYER_GAS, Preflight, PreflightItem, RevertReason, revert_reason
from payfirst.chain.fees import CALLDATA_BYTES_MAX, intrinsic_gas
from payfirst.pipeline.confirm_plan import NO_CAUTION, Caution
from payfirst.store.settling import ClaimedPayment, Failed, Postponed
from payfirst.store.tokens import Supply
from payfirst.units import Address, AtomicAmount, BlockNumber

NEXT_BLOCK_S = 1.0
BACK_OFF_S_MAX = 30.0
ASSET_PAUSED_S = 5.0

# One item of tryAggregate: its place in the list, target, offset, length, and 10 words of calldata.
CALL_BYTES = 32 * 14
# Between pre-flight and block, storage may have become dearer: a fifth more, and a floor for each item.
GAS_MARGIN_NUMERATOR, GAS_MARGIN_DENOMINATOR = 6, 5
ITEM_GAS_FLOOR = 8_000
BATCH_GAS_FLOOR = 60_000
# Payments tried in one call that were accepted unverified: all may take all the gas they get, and signatures are long.
WALLETS_A_CALL = 8
# Of the gas that a payer's code may take: who takes more in the pre-flight takes all it is given.
ALL_GAS_NUMERATOR, ALL_GAS_DENOMINATOR = 9, 10

NONCE_USED = "invalid_exact_evm_nonce_already_used"
INSUFFICIENT = "insufficient_funds"
SIGNATURE = "invalid_exact_evm_payload_signature"
SIMULATION = "invalid_exact_evm_transaction_simulation_failed"
SOLD_OUT = "sold_out"
QUARANTINED = "payer_quarantined"

SENTENCES = {
    NONCE_USED: "This authorization was used or cancelled otherwise. No money moved for this order; sign a new one.",
    INSUFFICIENT: "The payer's balance is below the amount. No money moved; fund the account and pay again.",
    SIGNATURE: "The asset refuses the signature. No money moved; sign again with the asset's EIP-712 domain.",
    SIMULATION: "The asset refuses a transfer from this payer. No money moved.",
    QUARANTINED: "The code of the payer's account burned gas. No money moved; pay from another account.",
    SOLD_OUT: "The token sold out before this payment was sent. No money moved.",
}

NOT_DEPLOYED = (
    "The payer has no code on chain, so nobody can say whether its smart wallet signed. No money moved; deploy it"
    " (its first transaction does), then sign again."
)
TOO_MUCH_GAS = "The payer's smart wallet takes more gas to check the signature than is paid for. No money moved."

# Reverts that are the payer's, by the beginning of what the asset says (FiatToken's strings, OpenZeppelin's names).
_FAULTS = (
    ("ERC20: transfer amount exceeds balance", INSUFFICIENT),
    ("ERC20InsufficientBalance", INSUFFICIENT),
    ("FiatTokenV2: invalid signature", SIGNATURE),
    ("ECRecover: invalid signature", SIGNATURE),
    ("FiatTokenV2: authorization is used or canceled", NONCE_USED),
    ("Blacklistable: account is blacklisted", SIMULATION),
)
_PAUSED = ("Pausable: paused", "EnforcedPause")


@dataclass(frozen=True, slots=True)
class Sendable:
    """A payment that passed pre-flight, and what its transfer cost there."""

    payment: ClaimedPayment
    gas_used: int
    alone: bool  # its payer has code, or had some


@dataclass(slots=True)
class SettlementPlan:
    """Where each claimed payment goes. `used` ones are looked up in the logs.

    `short` is what payers had at the pinned block who have signed more than that.
    """

    send: list[Sendable] = field(default_factory=list)
    postponed: list[Postponed] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    used: list[ClaimedPayment] = field(default_factory=list)
    short: dict[Address, AtomicAmount] = field(default_factory=dict)
    asset_paused: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Payments that go into one transaction, and the gas set aside for executing them."""

    payments: tuple[ClaimedPayment, ...]
    execution_gas: int


def preflight_groups(claimed: Sequence[ClaimedPayment]) -> list[list[ClaimedPayment]]:
    """Which payments are tried in one call: those to one payTo; of those accepted unverified only a few."""
    groups: list[list[ClaimedPayment]] = []
    for pay_to in {p.pay_to: None for p in claimed}:
        keys = [p for p in claimed if p.pay_to == pay_to and not p.by_wallet]
        wallets = [p for p in claimed if p.pay_to == pay_to and p.by_wallet]
        several = (wallets[at : at + WALLETS_A_CALL] for at in range(0, len(wallets), WALLETS_A_CALL))
        groups += [group for group in (keys, *several) if group]
    return groups


def plan_settlement(
    claimed: Sequence[ClaimedPayment],
    preflight: Preflight,
    unresolved: Mapping[Address, int],
    *,
    quarantined: Mapping[Address, int] = MappingProxyType({}),
    code_payer_gas: int = CODE_PAYER_GAS,
) -> SettlementPlan:
    """Judge each claimed payment by one pre-flight at one pinned block.

    `unresolved` is what each payer has on its way to the chain: the pinned balance does not know of it. `quarantined`
    payers had code when a transaction ran out of gas, and burned so many of their own.
    """
    plan = SettlementPlan()
    balance_at_start: dict[Address, AtomicAmount] = {}
    for payment, item in zip(claimed, preflight.items, strict=True):
        start = balance_at_start.setdefault(payment.payer, item.balance)
        if item.used:
            plan.used.append(payment)
        elif quarantined.get(payment.payer, 0) > 0:
            plan.failed.append(Failed(payment.id, QUARANTINED, SENTENCES[QUARANTINED]))
        elif not item.ok and payment.by_wallet and (said := _wallet_fault(item, code_payer_gas)) is not None:
            suspect_or_fail(plan, payment, code=said[0], height=preflight.block_number, sentence=said[1])
        elif not item.ok:
            _refuse(plan, payment, item, start, preflight)
        elif item.balance - unresolved.get(payment.payer, 0) < payment.amount:
            plan.postponed.append(
                Postponed(payment.id, NEXT_BLOCK_S, reason="waits for the payer's earlier payments to settle")
            )
        else:
            plan.send.append(Sendable(payment, item.gas_used, alone=item.code_size > 0 or payment.payer in quarantined))
    return plan


def _wallet_fault(item: PreflightItem, code_payer_gas: int) -> tuple[str, str] | None:
    """What a pre-flight says against a payment that was accepted unverified: these end, the others may come good."""
    if item.code_size == 0 and _fault(revert_reason(item.revert_data)) == SIGNATURE:
        return SIGNATURE, NOT_DEPLOYED
    if item.code_size > 0 and item.gas_used * ALL_GAS_DENOMINATOR >= code_payer_gas * ALL_GAS_NUMERATOR:
        return SIMULATION, TOO_MUCH_GAS
    return None


def _refuse(
    plan: SettlementPlan,
    payment: ClaimedPayment,
    item: PreflightItem,
    balance_at_start: AtomicAmount,
    preflight: Preflight,
) -> None:
    reason = revert_reason(item.revert_data)
    if reason.name in _PAUSED or reason.text.startswith(_PAUSED):
        plan.asset_paused = True
        plan.postponed.append(Postponed(payment.id, ASSET_PAUSED_S, reason="the asset is paused"))
        return
    code = _fault(reason)
    if code is None:
        # Nothing that is known to be the payer's fault: tried again until the authorization ends.
        delay = min(BACK_OFF_S_MAX, NEXT_BLOCK_S * 2 ** min(payment.attempts, 5))
        plan.postponed.append(Postponed(payment.id, delay, reason=f"pre-flight: {reason}"))
        return
    if code == INSUFFICIENT:
        plan.short[payment.payer] = balance_at_start
    if code == INSUFFICIENT and balance_at_start >= payment.amount:
        plan.postponed.append(
            Postponed(payment.id, NEXT_BLOCK_S, reason="waits for the payer's earlier payments to settle")
        )
        return
    suspect_or_fail(plan, payment, code=code, height=preflight.block_number)


def suspect_or_fail(
    plan: SettlementPlan, payment: ClaimedPayment, *, code: str, height: int, sentence: str | None = None
) -> None:
    """A payer's fault fails the payment when it is seen at a second, later block at or above acceptance."""
    sentence = SENTENCES[code] if sentence is None else sentence
    seen_before = (
        payment.suspected_code == code
        and payment.suspected_height is not None
        and payment.accepted_height <= payment.suspected_height < height
    )
    if seen_before:
        plan.failed.append(Failed(payment.id, code, sentence))
        return
    known = payment.suspected_height if payment.suspected_code == code else None
    if known is not None and known < payment.accepted_height:
        known = None  # seen by a worker whose head lagged: kept, it would count for nothing for ever
    first_seen = BlockNumber(height if known is None else min(known, height))
    plan.postponed.append(Postponed(payment.id, NEXT_BLOCK_S, code=code, height=first_seen, reason=sentence))


def _fault(reason: RevertReason) -> str | None:
    return next((code for start, code in _FAULTS if reason.name == start or reason.text.startswith(start)), None)


def allot(sendable: Sequence[Sendable], supply: Mapping[Address, Supply]) -> SettlementPlan:
    """Who gets what is left, oldest first. Payments that hold supply already keep it.

    Sold out means minted: while units are only promised, a promise may still fail, so the rest wait.
    """
    plan = SettlementPlan()
    promised = {address: s.minted + s.reserved for address, s in supply.items()}
    for candidate in sendable:
        payment = candidate.payment
        if payment.supply_reserved:
            plan.send.append(candidate)
            continue
        stock = supply.get(payment.token)
        if stock is None or stock.max_mint_count is None:
            plan.postponed.append(Postponed(payment.id, NEXT_BLOCK_S, reason="the token was never read from the chain"))
        elif promised[payment.token] + payment.quantity <= stock.max_mint_count:
            promised[payment.token] += payment.quantity
            plan.send.append(candidate)
        elif stock.minted + payment.quantity > stock.max_mint_count:
            plan.failed.append(Failed(payment.id, SOLD_OUT, SENTENCES[SOLD_OUT]))
        else:
            plan.postponed.append(Postponed(payment.id, NEXT_BLOCK_S, reason="waits for supply promised to others"))
    return plan


def compose_batches(
    sendable: Sequence[Sendable],
    *,
    batch_max: int,
    tx_gas_max: int,
    calldata_bytes_max: int = CALLDATA_BYTES_MAX,
    caution: Caution = NO_CAUTION,
    code_payer_gas: int = CODE_PAYER_GAS,
) -> list[Batch]:
    """Divide payments into transactions by count, gas and bytes, oldest first; payers with code go alone.

    Payments that are believed later share no transaction with others: all items of one leave `sent` in one commit.
    What was mined without effect shares its next one with half as many: whoever spoils it is found by halving.
    """
    kinds: dict[tuple[bool, bool], list[Sendable]] = {}
    for candidate in sendable:
        kinds.setdefault(caution.kind(candidate.payment.amount), []).append(candidate)
    composed = [
        _compose(
            alike,
            batch_max=batch_max,
            tx_gas_max=tx_gas_max,
            calldata_bytes_max=calldata_bytes_max,
            code_payer_gas=code_payer_gas,
        )
        for alike in kinds.values()
    ]
    if len(composed) == 1:
        return composed[0]
    # Where there is no room for all of them, no kind is passed over for ever.
    return sorted((batch for batches in composed for batch in batches), key=lambda batch: batch.payments[0].id)


def _compose(
    sendable: Sequence[Sendable], *, batch_max: int, tx_gas_max: int, calldata_bytes_max: int, code_payer_gas: int
) -> list[Batch]:
    batches: list[Batch] = []
    current: list[ClaimedPayment] = []
    gas = BATCH_GAS_FLOOR
    share_max = batch_max  # of the payments in `current`
    # Intrinsic gas of one item's bytes at the worst, so that the limit of the whole stays below the cap.
    item_intrinsic = intrinsic_gas(b"\xff" * CALL_BYTES) - intrinsic_gas(b"")
    for candidate in sendable:
        item_gas = candidate.gas_used * GAS_MARGIN_NUMERATOR // GAS_MARGIN_DENOMINATOR + ITEM_GAS_FLOOR
        if candidate.alone:
            batches.append(Batch((candidate.payment,), code_payer_gas))
            continue
        mine = batch_max if candidate.payment.share_max is None else candidate.payment.share_max
        full = (
            len(current) >= min(batch_max, share_max, mine)
            or (len(current) + 1) * CALL_BYTES > calldata_bytes_max
            or gas + item_gas + (len(current) + 1) * item_intrinsic + intrinsic_gas(b"") > tx_gas_max
        )
        if current and full:
            batches.append(Batch(tuple(current), gas))
            current, gas, share_max = [], BATCH_GAS_FLOOR, batch_max
        share_max = min(share_max, mine)
        current.append(candidate.payment)
        gas += item_gas
    if current:
        batches.append(Batch(tuple(current), gas))
    return batches


def ids(payments: Sequence[ClaimedPayment]) -> list[uuid.UUID]:
    """The ids of claimed payments, in order."""
    return [payment.id for payment in payments]
