"""What is done about a transaction that does not come into a block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from payfirst.pipeline.watch_plan import UNDERPRICED_S, Patience, Step, plan_in_flight
from payfirst.store.attempts import InFlight
from payfirst.units import AccountNonce, Address, Gas, TxHash, UnixTime, Wei

NOW = UnixTime(1_000_000)
SENT = InFlight(
    id=1,
    nonce=AccountNonce(7),
    to=Address(b"\x01" * 20),
    gas_limit=Gas(100_000),
    hash=TxHash(b"\x02" * 32),
    signed=b"",
    max_fee=Wei(100),
    max_priority_fee=Wei(1),
    is_noop=False,
    broadcast_count=1,
    silent_s=4.0,
    valid_before=UnixTime(NOW + 300),
)
CALM: dict[str, Any] = {
    "known_to_node": True, "is_next": True, "waited_s": 0, "stuck_s": 0, "chain_time": NOW, "base_fee": Wei(50),
    "patience": Patience(replace_after_s=30, abandon_after_s=900),
}  # fmt: skip


def plan(sent: InFlight = SENT, **changes: object) -> Step:
    """The step for a calm transaction with some things changed."""
    return plan_in_flight(sent, **{**CALM, **changes})


def test_what_a_node_has_is_waited_for() -> None:
    """A block decides, not the clock."""
    assert plan(waited_s=29) is Step.WAIT


@pytest.mark.parametrize("waited_s", [0, 5, 29])
def test_what_a_node_has_dropped_is_sent_again(waited_s: int) -> None:
    """The same bytes."""
    assert plan(known_to_node=False, waited_s=waited_s) is Step.REBROADCAST


def test_what_was_never_handed_to_a_node_is_sent() -> None:
    """Also when some node has it from elsewhere."""
    assert plan(replace(SENT, silent_s=None)) is Step.REBROADCAST


def test_a_bid_below_the_base_fee_is_raised_wherever_it_stands_in_line() -> None:
    """It cannot be mined, so it would be in the way soon."""
    for is_next in (True, False):
        assert plan(is_next=is_next, base_fee=Wei(101), waited_s=UNDERPRICED_S) is Step.REPLACE
        assert plan(is_next=is_next, base_fee=Wei(101), waited_s=UNDERPRICED_S - 1) is Step.WAIT


def test_only_the_next_in_line_is_stuck_by_itself() -> None:
    """Those behind it wait for it, at whatever fee."""
    assert plan(waited_s=30) is Step.REPLACE
    assert plan(waited_s=30, is_next=False) is Step.WAIT


def test_a_call_that_can_have_no_effect_gives_its_nonce_up() -> None:
    """All its authorizations have ended."""
    ended = replace(SENT, valid_before=NOW)
    assert plan(ended, waited_s=UNDERPRICED_S) is Step.NO_OP
    assert plan(ended, waited_s=UNDERPRICED_S, is_next=False) is Step.WAIT


def test_what_no_fee_brings_into_a_block_gives_its_nonce_up() -> None:
    """Mints never end by themselves."""
    mint = replace(SENT, valid_before=None)
    assert plan(mint, waited_s=30, stuck_s=899) is Step.REPLACE
    assert plan(mint, waited_s=30, stuck_s=900) is Step.NO_OP


def test_a_no_op_is_bid_higher_like_anything_else() -> None:
    """And is never given up for another no-op."""
    noop = replace(SENT, is_noop=True, valid_before=NOW)
    assert plan(noop, waited_s=29, stuck_s=10_000) is Step.WAIT
    assert plan(noop, waited_s=30, stuck_s=10_000) is Step.REPLACE


def test_what_an_operator_asked_for_waits_no_longer() -> None:
    """Replaced at once, or given up at once where its call has no effect any more."""
    asked = replace(SENT, replace_requested=True)
    assert plan(asked, waited_s=0) is Step.REPLACE
    assert plan(SENT, waited_s=0) is Step.WAIT
    assert plan(replace(asked, valid_before=NOW), waited_s=0) is Step.NO_OP
    assert plan(replace(asked, valid_before=NOW, is_noop=True), waited_s=0) is Step.REPLACE
