"""What a pre-flight means for each claimed payment, and which of them share a transaction. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from payfirst.chain.contracts import Preflight, PreflightItem, RevertReason, revert_reason
from payfirst.chain.fees import CALLDATA_BYTES_MAX, intrinsic_gas
from payfirst.pipeline.confirm_plan import NO_CAUTION, Caution
from payfirst.store.settling import ClaimedPayment, Failed, Postponed
from payfirst.store.tokens import Supply
from payfirst.units import Address, AtomicAmount, BlockNumber

NEXT_BLOCK_S = 1.0
BACK_OFF_S_MAX = 30.0
ASSET_PAUSED_S = 5.0

# One item of aggregate3: its place in the list, target, flag, offset, length, and 10 words of calldata.
CALL_BYTES = 32 * 16
# Between pre-flight and block, storage may have become dearer: a fifth more, and a floor for each item.
GAS_MARGIN_NUMERATOR, GAS_MARGIN_DENOMINATOR = 6, 5
ITEM_GAS_FLOOR = 8_000
BATCH_GAS_FLOOR = 60_000
# A payer with code decides what a transfer costs. It pays for its own transaction only up to here.
CODE_PAYER_GAS_MAX = 1_000_000

NONCE_USED = "invalid_exact_evm_nonce_already_used"
INSUFFICIENT = "insufficient_funds"
SIGNATURE = "invalid_exact_evm_payload_signature"
SIMULATION = "invalid_exact_evm_transaction_simulation_failed"
SOLD_OUT = "sold_out"

SENTENCES = {
    NONCE_USED: "This authorization was used or cancelled otherwise. No money moved for this order; sign a new one.",
    INSUFFICIENT: "The payer's balance is below the amount. No money moved; fund the account and pay again.",
    SIGNATURE: "The asset refuses the signature. No money moved; sign again with the asset's EIP-712 domain.",
    SIMULATION: "The asset refuses a transfer from this payer. No money moved.",
    SOLD_OUT: "The token sold out before this payment was sent. No money moved.",
}

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
    has_code: bool


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


def plan_settlement(
    claimed: Sequence[ClaimedPayment], preflight: Preflight, unresolved: Mapping[Address, AtomicAmount]
) -> SettlementPlan:
    """Judge each claimed payment by one pre-flight at one pinned block.

    `unresolved` is what each payer has on its way to the chain: the pinned balance does not know of it.
    """
    plan = SettlementPlan()
    balance_at_start: dict[Address, AtomicAmount] = {}
    for payment, item in zip(claimed, preflight.items, strict=True):
        start = balance_at_start.setdefault(payment.payer, item.balance)
        if item.used:
            plan.used.append(payment)
        elif not item.ok:
            _refuse(plan, payment, item, start, preflight)
        elif item.balance - unresolved.get(payment.payer, 0) < payment.amount:
            plan.postponed.append(
                Postponed(payment.id, NEXT_BLOCK_S, reason="waits for the payer's earlier payments to settle")
            )
        else:
            plan.send.append(Sendable(payment, item.gas_used, item.code_size > 0))
    return plan


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


def suspect_or_fail(plan: SettlementPlan, payment: ClaimedPayment, *, code: str, height: int) -> None:
    """A payer's fault fails the payment when it is seen at a second, later block at or above acceptance."""
    seen_before = (
        payment.suspected_code == code
        and payment.suspected_height is not None
        and payment.accepted_height <= payment.suspected_height < height
    )
    if seen_before:
        plan.failed.append(Failed(payment.id, code, SENTENCES[code]))
        return
    known = payment.suspected_height if payment.suspected_code == code else None
    if known is not None and known < payment.accepted_height:
        known = None  # seen by a worker whose head lagged: kept, it would count for nothing for ever
    first_seen = BlockNumber(height if known is None else min(known, height))
    plan.postponed.append(Postponed(payment.id, NEXT_BLOCK_S, code=code, height=first_seen, reason=SENTENCES[code]))


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
) -> list[Batch]:
    """Divide payments into transactions by count, gas and bytes, oldest first; payers with code go alone.

    Payments that are believed later share no transaction with others: all items of one leave `sent` in one commit.
    """
    kinds: dict[tuple[bool, bool], list[Sendable]] = {}
    for candidate in sendable:
        kinds.setdefault(caution.kind(candidate.payment.amount), []).append(candidate)
    composed = [
        _compose(alike, batch_max=batch_max, tx_gas_max=tx_gas_max, calldata_bytes_max=calldata_bytes_max)
        for alike in kinds.values()
    ]
    if len(composed) == 1:
        return composed[0]
    # Where there is no room for all of them, no kind is passed over for ever.
    return sorted((batch for batches in composed for batch in batches), key=lambda batch: batch.payments[0].id)


def _compose(sendable: Sequence[Sendable], *, batch_max: int, tx_gas_max: int, calldata_bytes_max: int) -> list[Batch]:
    batches: list[Batch] = []
    current: list[ClaimedPayment] = []
    gas = BATCH_GAS_FLOOR
    # Intrinsic gas of one item's bytes at the worst, so that the limit of the whole stays below the cap.
    item_intrinsic = intrinsic_gas(b"\xff" * CALL_BYTES) - intrinsic_gas(b"")
    for candidate in sendable:
        item_gas = candidate.gas_used * GAS_MARGIN_NUMERATOR // GAS_MARGIN_DENOMINATOR + ITEM_GAS_FLOOR
        if candidate.has_code:
            batches.append(Batch((candidate.payment,), CODE_PAYER_GAS_MAX))
            continue
        full = (
            len(current) >= batch_max
            or (len(current) + 1) * CALL_BYTES > calldata_bytes_max
            or gas + item_gas + (len(current) + 1) * item_intrinsic + intrinsic_gas(b"") > tx_gas_max
        )
        if current and full:
            batches.append(Batch(tuple(current), gas))
            current, gas = [], BATCH_GAS_FLOOR
        current.append(candidate.payment)
        gas += item_gas
    if current:
        batches.append(Batch(tuple(current), gas))
    return batches


def ids(payments: Sequence[ClaimedPayment]) -> list[uuid.UUID]:
    """The ids of claimed payments, in order."""
    return [payment.id for payment in payments]
