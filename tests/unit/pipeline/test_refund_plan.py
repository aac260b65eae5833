"""Which of the refunds that are due are sent, and what the others wait for."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from payfirst.pipeline.refund_plan import TREASURY_CHANGE_S, RefundPlan, RefundView, plan_refunds
from payfirst.store.refunds import DueRefund
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, MintId, UnixTime

OURS, FORMER = Address(b"\x01" * 20), Address(b"\x02" * 20)
NOW = UnixTime(1_000_000)


def due(number: int, amount: int = 10, **changes: Any) -> DueRefund:
    """An approved refund; each number has a nonce and a mint id of its own."""
    refund = DueRefund(
        id=uuid.UUID(int=number),
        payment_id=uuid.UUID(int=1_000 + number),
        unit=0,
        treasury=OURS,
        beneficiary=Address(b"\x03" * 20),
        amount=AtomicAmount(amount),
        nonce=AuthorizationNonce(number.to_bytes(32)),
        valid_before=None,
        attempts=0,
        queue_id=uuid.UUID(int=2_000 + number),
        mint_id=MintId((5_000 + number).to_bytes(32)),
        token=Address(b"\x04" * 20),
        recipient=Address(b"\x03" * 20),
        accepted_height=BlockNumber(1),
        since=BlockNumber(2),
    )
    return replace(refund, **changes)


VIEW = RefundView(time=NOW, balance=AtomicAmount(100), used={}, minted=set())


def plan(*refunds: DueRefund, view: RefundView = VIEW, on_its_way: int = 0, **limits: int | None) -> RefundPlan:
    """The plan for refunds that are due."""
    daily_max = limits.get("daily_max")
    return plan_refunds(
        refunds,
        view,
        treasury=OURS,
        on_its_way=AtomicAmount(on_its_way),
        of_the_day=AtomicAmount(limits.get("of_the_day") or 0),
        daily_max=None if daily_max is None else AtomicAmount(daily_max),
    )


def test_what_fits_is_sent_and_a_large_one_holds_up_no_smaller_one() -> None:
    """First come, first served, as far as the money goes; what is missing is said."""
    found = plan(due(1, 60), due(2, 50), due(3, 40))
    assert [r.id.int for r in found.send] == [1, 3]
    assert [r.id.int for r in found.short] == [2]
    assert found.missing == 50


def test_while_something_is_on_its_way_nothing_is_called_short() -> None:
    """What is mined and not yet confirmed is counted twice: no false alarm, and no overdraft."""
    found = plan(due(1, 60), on_its_way=50)
    assert (found.send, found.short) == ([], [])
    assert [r.id.int for r in found.behind] == [1]
    assert [r.id.int for r in plan(due(1, 50), on_its_way=50).send] == [1]


def test_the_daily_limit_counts_what_was_sent_and_what_is_about_to_be() -> None:
    """An approval does not lift it."""
    found = plan(due(1, 30), due(2, 30), due(3, 5), daily_max=50, of_the_day=10)
    assert [r.id.int for r in found.send] == [1, 3]
    assert [r.id.int for r in found.over_daily_max] == [2]


def test_a_used_nonce_is_looked_up_and_a_minted_unit_not_refunded() -> None:
    """Neither is signed for, whatever money there is."""
    view = replace(VIEW, used={due(1).nonce: FORMER}, minted={due(1).mint_id, due(2).mint_id})
    found = plan(due(1), due(2), due(3), view=view)
    assert [(r.id.int, by) for r, by in found.look_up] == [(1, FORMER)]
    assert [r.id.int for r in found.minted] == [2]
    assert [r.id.int for r in found.send] == [3]


@pytest.mark.parametrize(
    ("valid_before", "is_sent"),
    [(None, True), (NOW - TREASURY_CHANGE_S, True), (NOW - TREASURY_CHANGE_S + 1, False), (NOW + 60, False)],
)
def test_another_treasury_s_authorization_must_have_ended(valid_before: int | None, is_sent: bool) -> None:
    """Its nonce does not bind this treasury: both could be used."""
    found = plan(due(1, treasury=FORMER, valid_before=valid_before))
    assert (len(found.send), len(found.other_treasury)) == ((1, 0) if is_sent else (0, 1))
    assert len(plan(due(1, valid_before=valid_before)).send) == 1
