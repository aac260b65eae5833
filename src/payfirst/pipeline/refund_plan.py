"""What is to be done about refunds that are due. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from payfirst.store.refunds import DueRefund
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, MintId, UnixTime

# An authorization that another treasury has signed must have ended for so long before this one signs instead: a reorg
# may take blocks with their time, and the nonce of one treasury does not bind another.
TREASURY_CHANGE_S = 3_600

NEEDS_APPROVAL = "waits for an approval: payfirst refunds approve"
ABOVE_AMOUNT_MAX = "is above refunds.amount_max and waits for an approval: payfirst refunds approve"
OVER_DAILY_MAX = "refunds.daily_max is reached: it goes on by itself as the last 24 hours move on"
BEHIND_OTHERS = "waits until the refunds before it are confirmed"
OTHER_TREASURY = "another treasury has signed for it: it goes on once that authorization has ended for an hour"


@dataclass(frozen=True, slots=True)
class RefundView:
    """What the chain says at its head about refunds that are due.

    `used` are nonces that a treasury has used, with that treasury; `minted` the units that their tokens hold.
    `balance` is the treasury's.
    """

    time: UnixTime
    balance: AtomicAmount
    used: dict[AuthorizationNonce, Address]
    minted: Collection[MintId]


@dataclass(slots=True)
class RefundPlan:
    """What comes next for each due refund."""

    send: list[DueRefund] = field(default_factory=list)
    look_up: list[tuple[DueRefund, Address]] = field(default_factory=list)
    minted: list[DueRefund] = field(default_factory=list)
    short: list[DueRefund] = field(default_factory=list)
    behind: list[DueRefund] = field(default_factory=list)
    over_daily_max: list[DueRefund] = field(default_factory=list)
    other_treasury: list[DueRefund] = field(default_factory=list)
    missing: AtomicAmount = field(default_factory=lambda: AtomicAmount(0))


def plan_refunds(
    due: Sequence[DueRefund],
    view: RefundView,
    *,
    treasury: Address,
    on_its_way: AtomicAmount,
    of_the_day: AtomicAmount,
    daily_max: AtomicAmount | None,
) -> RefundPlan:
    """Decide for each refund in turn; one that does not fit holds up no smaller one behind it.

    A nonce that was used is looked up, never signed again: the chain would refuse it, and it may be paid already. A
    unit that its token holds is not refunded. The money there is: the view's balance less what is on its way.
    """
    plan = RefundPlan()
    left = view.balance - on_its_way
    day_left = None if daily_max is None else daily_max - of_the_day
    for refund in due:
        by = view.used.get(refund.nonce)
        if by is not None:
            plan.look_up.append((refund, by))
        elif refund.mint_id in view.minted:
            plan.minted.append(refund)
        elif _signed_by_another(refund, treasury, view.time):
            plan.other_treasury.append(refund)
        elif day_left is not None and refund.amount > day_left:
            plan.over_daily_max.append(refund)
        elif refund.amount > left and on_its_way:
            # What is mined already is counted twice until it is confirmed: no alarm before that.
            plan.behind.append(refund)
        elif refund.amount > left:
            plan.short.append(refund)
            plan.missing = AtomicAmount(plan.missing + refund.amount)
        else:
            plan.send.append(refund)
            left -= refund.amount
            day_left = None if day_left is None else day_left - refund.amount
    plan.missing = AtomicAmount(max(0, plan.missing - left))
    return plan


def _signed_by_another(refund: DueRefund, treasury: Address, time: UnixTime) -> bool:
    return (
        refund.treasury != treasury
        and refund.valid_before is not None
        and refund.valid_before + TREASURY_CHANGE_S > time
    )
