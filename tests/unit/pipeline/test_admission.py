"""Who is admitted, decided purely; and what a process counts between two looks at the table."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payfirst.config import Config
from payfirst.pipeline.admission import (
    Limits,
    PayerAtLimit,
    PayerShort,
    TokenNotReady,
    admit_payer,
    confirm_lag_s,
    demand_token_ready,
)
from payfirst.pipeline.confirm import TOKEN_SYNC_S
from payfirst.pipeline.tally import Sum, Tally
from payfirst.store.admission import EMPTY_QUEUE, Snapshot, Workers
from payfirst.store.payments import NewPayment
from payfirst.store.short_payers import ShortPayer
from payfirst.store.tokens import Token
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, UnixTime

PAYER = Address(b"\x11" * 20)
TOKEN = Address(b"\xcc" * 20)
LIMITS = Limits(
    heartbeat_age_s_max=30,
    confirm_lag_s_max=60,
    token_sync_age_s_max=60,
    confirmations=1,
    queue_depth_max=100,
    token_unsettled_max=50,
    payer_unsettled_max=20,
    payer_short_s=30,
    drain_rate_floor_per_s=20,
    seconds_left_min=60,
)


def workers(*, head: int = 100, cursor: int = 100, seconds: int = 0) -> Workers:
    """Workers that are well; the head is `seconds` of chain time after the cursor."""
    return Workers(
        head_height=BlockNumber(head),
        head_time=UnixTime(1_000 + seconds),
        head_age_s=0.1,
        cursor_height=BlockNumber(cursor),
        cursor_time=UnixTime(1_000),
        worker_age_s=0.1,
        settled_per_s=0,
    )


def ask(
    *, crowded: int = 0, short: ShortPayer | None = None, taken: Sum = (0, 0), amount: int = 10, age_s: float = 0
) -> None:
    """One more payment of a payer."""
    queue = replace(
        EMPTY_QUEUE, crowded={PAYER: crowded} if crowded else {}, short={} if short is None else {PAYER: short}
    )
    admit_payer(
        Snapshot(workers(), {}, queue),
        limits=LIMITS,
        payer=PAYER,
        amount=AtomicAmount(amount),
        payer_taken=taken,
        news_age_s=age_s,
    )


def seen(balance: int, *, age_s: float = 0, payments: int = 0, value: int = 0) -> ShortPayer:
    """A payer that was short."""
    return ShortPayer(AtomicAmount(balance), BlockNumber(100), age_s, payments, AtomicAmount(value))


def test_the_table_and_this_process_add_up_to_the_limit() -> None:
    """One below it is taken, at it not."""
    ask(crowded=15, taken=(4, 40))
    with pytest.raises(PayerAtLimit):
        ask(crowded=15, taken=(5, 50))
    with pytest.raises(PayerAtLimit):
        ask(taken=(20, 200))


def test_a_short_payer_promises_its_balance_and_no_more() -> None:
    """What is unsettled, what was taken since and the new payment together."""
    ask(short=seen(30, payments=1, value=10), taken=(1, 10))
    with pytest.raises(PayerShort):
        ask(short=seen(29, payments=1, value=10), taken=(1, 10))


@pytest.mark.parametrize(("age_s", "snapshot_age_s", "wait_s"), [(0, 0, 30), (29.5, 0, 1), (10, 5, 15)])
def test_fresh_news_says_when_it_is_old(age_s: float, snapshot_age_s: float, wait_s: int) -> None:
    """Retry-After is what is left of it."""
    with pytest.raises(PayerShort) as refused:
        ask(short=seen(0, age_s=age_s), age_s=snapshot_age_s)
    assert refused.value.retry_after_s == wait_s


def test_old_news_lets_one_payment_find_out() -> None:
    """Not a second one beside it, from the table or from this process."""
    ask(short=seen(0, age_s=30))
    in_table, in_process = seen(0, age_s=30, payments=1, value=10), seen(0, age_s=30)
    for short, taken in ((in_table, (0, 0)), (in_process, (1, 10))):
        with pytest.raises(PayerShort) as refused:
            ask(short=short, taken=taken)
        assert refused.value.retry_after_s == 5


@pytest.mark.parametrize(
    ("head", "cursor", "seconds", "confirmations", "lag_s"),
    [
        (100, 100, 0, 1, 0),
        (101, 100, 3_600, 1, 0),  # a chain that makes a block an hour: it has just come
        (140, 100, 80, 1, 78),
        (140, 100, 80, 41, 0),
        (140, 100, 80, 21, 38),
        (90, 100, 0, 1, 0),  # a reorg to a lower head
    ],
)
def test_confirming_is_late_by_what_is_deep_enough(
    head: int, cursor: int, seconds: int, confirmations: int, lag_s: float
) -> None:
    """In chain time, without the newest block at that depth."""
    found = confirm_lag_s(workers(head=head, cursor=cursor, seconds=seconds), confirmations=confirmations)
    assert found == pytest.approx(lag_s)


@pytest.mark.parametrize(("confirmable", "lag_s"), [(100, 0), (101, 0), (111, 20), (None, 0)])
def test_confirming_is_late_by_the_block_that_workers_see_as_finalized(confirmable: int | None, lag_s: float) -> None:
    """However far the head is: forty blocks of two seconds here."""
    seen = None if confirmable is None else BlockNumber(confirmable)
    state = replace(workers(head=140, cursor=100, seconds=80), confirmable_height=seen)
    assert confirm_lag_s(state, confirmations="finalized") == pytest.approx(lag_s)


def token(**changes: object) -> Token:
    """A token that is read and sold."""
    known = Token(TOKEN, AtomicAmount(1), True, "T", "T", 1, 10, 0, 0, None, BlockNumber(90), 59.0)
    return replace(known, **changes)  # type: ignore[arg-type]  # named fields


def test_a_token_is_sold_on_fresh_facts() -> None:
    """Read lately, or at the newest block there is."""
    demand_token_ready(token(), workers(), age_s=0, limits=LIMITS)
    demand_token_ready(token(synced_height=BlockNumber(100), synced_age_s=1e6), workers(), age_s=0, limits=LIMITS)
    with pytest.raises(TokenNotReady, match="for 61 s"):
        demand_token_ready(token(), workers(), age_s=2, limits=LIMITS)


def test_a_token_is_read_several_times_in_its_age() -> None:
    """The smallest age that can be configured outlasts a read that failed."""
    field = Config.model_fields["payments"].default
    info = type(field).model_fields["token_sync_max_age_s"]
    least = next(rule.ge for rule in info.metadata if hasattr(rule, "ge"))
    assert least >= 2 * TOKEN_SYNC_S
    assert info.default >= 5 * TOKEN_SYNC_S


# ---- the tally -------------------------------------------------------------------------------------


def payment(number: int) -> NewPayment:
    """One of three payers', over so many units."""
    return NewPayment(
        id=uuid.UUID(int=number),
        token=TOKEN,
        quantity=number % 5 + 1,
        recipient=PAYER,
        payer=Address(bytes([number % 3]) * 20),
        amount=AtomicAmount(10 * (number % 5 + 1)),
        nonce=AuthorizationNonce(number.to_bytes(32)),
        valid_after=UnixTime(0),
        valid_before=UnixTime(1),
        signature=b"",
    )


def test_a_payment_counts_from_its_admission_to_the_count_that_sees_it() -> None:
    """Not only while it is stored, and not after a count that began when it was there."""
    tally, one = Tally(), payment(1)
    tally.begin(one)
    with tally.counting():
        assert tally.payments == 1
        tally.end(one, stored=True)
        assert (tally.payments, tally.of_token(TOKEN)) == (1, (1, 2))
    assert tally.of_payer(one.payer) == (1, 20), "its commit was later than the count's beginning"
    with tally.counting():
        assert tally.payments == 1
    assert (tally.payments, tally.of_payer(one.payer), tally.of_token(TOKEN)) == (0, (0, 0), (0, 0))


def test_a_count_that_fails_forgets_nothing() -> None:
    """All of it is there for the next one."""
    tally, one, two = Tally(), payment(1), payment(4)
    tally.stored(one)

    def fail() -> None:
        with tally.counting():
            tally.stored(two)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tally.payments, tally.of_payer(one.payer)) == (2, (2, 70))


@given(st.lists(st.sampled_from(["begin", "end", "lost", "repeated", "count", "counted", "failed"]), max_size=60))
def test_nothing_is_ever_in_neither(steps: list[str]) -> None:
    """Whatever happens in whatever order, also while it is counted: the last count's rows and the tally are what was
    taken."""
    tally = Tally()
    in_flight: list[NewPayment] = []
    table: list[NewPayment] = []
    counted = seen = 0
    count = contextlib.ExitStack()
    is_counting = False
    for number, step in enumerate(steps):
        if step == "begin":
            in_flight.append(payment(number))
            tally.begin(in_flight[-1])
        elif step in ("end", "lost") and in_flight:
            ended = in_flight.pop(0)
            tally.end(ended, stored=step == "end")
            if step == "end":
                table.append(ended)
        elif step == "repeated":
            table.append(payment(number))
            tally.stored(table[-1])
        elif step == "count" and not is_counting:
            count.enter_context(tally.counting())
            seen, is_counting = len(table), True
        elif step == "counted" and is_counting:
            count.close()
            counted, is_counting = seen, False
        elif step == "failed" and is_counting:
            is_counting = False
            with pytest.raises(ZeroDivisionError), count:
                raise ZeroDivisionError
        assert counted + tally.payments == len(table) + len(in_flight)
    by_payer = [tally.of_payer(Address(bytes([n]) * 20)) for n in range(3)]
    assert sum(n for n, _ in by_payer) == tally.payments == tally.of_token(TOKEN)[0]
    assert sum(value for _, value in by_payer) == 10 * tally.of_token(TOKEN)[1]
