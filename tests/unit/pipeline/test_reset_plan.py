"""What is done about a transaction that an operator calls stuck: never anything that takes another account nonce."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from payfirst.pipeline.reset_plan import ChainView, Mined, ResetStep, plan_reset
from payfirst.store.resetting import Bytes, Unresolved
from payfirst.units import AccountNonce, Address, BlockNumber, TxHash, Wei

SENT = Unresolved(
    id=1, signer=Address(b"\x01" * 20), nonce=AccountNonce(18), purpose="settle", replace_requested_at=None, held=True,
    paused_reason=None, attempts=(Bytes(TxHash(b"\x02" * 32), b"\x03", Wei(100), False),),
)  # fmt: skip
NEXT_AND_KNOWN = ChainView(
    head=BlockNumber(100), base_fee=Wei(50), account_nonce=AccountNonce(18), mined=None, known=True
)


def plan(*, stored: tuple[int, ...] = (17, 18), cursor: int = 100, confirmations: int = 1, **view: Any) -> ResetStep:
    """The step where the chain says something else."""
    return plan_reset(
        SENT,
        replace(NEXT_AND_KNOWN, **view),
        stored_nonces=[AccountNonce(n) for n in stored],
        cursor=BlockNumber(cursor),
        confirmations=confirmations,
    )


def mined(block: int) -> Mined:
    """Found in a block."""
    return Mined(TxHash(b"\x02" * 32), BlockNumber(block))


def test_what_no_node_has_is_sent_again_as_it_is() -> None:
    """The stored bytes; no other ones are made for what was only dropped."""
    step = plan(known=False)
    assert (step.send_again, step.replace) == (True, False)
    assert "no node has it" in step.found


def test_a_bid_below_the_base_fee_is_replaced() -> None:
    """The same bytes again could not be mined either."""
    step = plan(base_fee=Wei(101))
    assert (step.send_again, step.replace) == (False, True)


def test_a_good_bid_that_no_block_takes_is_sent_again_and_replaced() -> None:
    """A pool may keep it from the others."""
    step = plan()
    assert (step.send_again, step.replace) == (True, True)


@pytest.mark.parametrize("known", [True, False])
def test_what_waits_for_an_earlier_nonce_is_not_replaced(known: bool) -> None:
    """The earlier one is looked after; this one only has to be in a pool."""
    step = plan(account_nonce=AccountNonce(17), known=known)
    assert (step.send_again, step.replace, step.advice) == (not known, False, None)
    assert "nonce 18 waits for nonce 17" in step.found


def test_a_nonce_that_was_never_stored_is_the_operators() -> None:
    """A gap in the line cannot be filled from here."""
    step = plan(account_nonce=AccountNonce(16))
    assert (step.replace, "compare the database with the chain" in (step.advice or "")) == (False, True)


def test_a_nonce_that_something_else_used_changes_nothing() -> None:
    """No receipt proves nothing, so nothing is given another nonce."""
    step = plan(account_nonce=AccountNonce(19))
    assert (step.send_again, step.replace) == (False, False)
    assert "another program signs with this key" in (step.advice or "")


@pytest.mark.parametrize(
    ("block", "cursor", "confirmations", "words", "advised"),
    [
        (99, 98, 5, "3 more blocks until it counts as confirmed", False),
        (99, 98, 1, "the workers have read the chain up to 98", False),
        (99, 99, 1, "which the workers have read", True),
    ],
)
def test_what_is_mined_is_left_to_the_workers(
    block: int, cursor: int, confirmations: int, words: str, advised: bool
) -> None:
    """Nothing is sent any more; only what they should have seen is the operator's."""
    step = plan(mined=mined(block), account_nonce=AccountNonce(19), cursor=cursor, confirmations=confirmations)
    assert (step.send_again, step.replace, step.advice is not None) == (False, False, advised)
    assert words in step.found
