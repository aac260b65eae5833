"""A frame of `payfirst top`: what it shows, and that nothing in a row can break it."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from dataclasses import replace

import pytest
from rich.console import Console

from payfirst.ops.top import View, frame, spark
from payfirst.store.activity import Batches, Trouble
from payfirst.store.diagnosis import Debts, HeadFacts, Held
from payfirst.store.performance import Depth, Minute, Performance, Speed
from payfirst.store.processes import Listed
from payfirst.store.signers import ListedSigner
from payfirst.units import AccountNonce, Address, Wei

NOW = dt.datetime(2026, 1, 31, 12, 0, 30, tzinfo=dt.UTC)
MINUTES = tuple(
    Minute(NOW.replace(second=0) - dt.timedelta(minutes=n), 600 - 50 * n, 540 - 50 * n, 1_000 - 99 * n, 60 if n else 30)
    for n in range(10)
)
SETTLER = ListedSigner(Address(b"\x5e" * 20), "settle", AccountNonce(12_345), None, Wei(19 * 10**17), True, 3)
MINTER = ListedSigner(Address(b"\x3c" * 20), "mint", AccountNonce(777), "balance too low: 0 wei", Wei(0), False, 0)
WORKER = Listed(uuid.uuid4(), "worker", "host-a", 41, 7_300, 0.4, {"loop_stall_ms_max": 12.3}, {"taken": {"a": 1}})
API = Listed(
    uuid.uuid4(), "api", "host-b", 42, 90, 0.2, {"loop_stall_ms_max": 4.0}, {"refused": {"settle.batch_max": 1}}
)
VIEW = View(
    network="base",
    performance=Performance(
        window_s=600,
        payments=Speed(9_000, 2.2, 1.1, 9.0, 2.1, 4.4),
        units=Speed(18_000, 3.2, 1.1, 12.0, 3.1, 6.5),
        minutes=MINUTES,
        depth=(
            Depth("payments", "pending", 120, 3.2),
            Depth("payments", "sent", 400, 2.0),
            Depth("mints", "sent", 9, 1.0),
        ),
        waiting=120,
        waiting_oldest_s=3.2,
        per_second=9.0,
        stuck_payments=0,
        stuck_mints=0,
        failures=(),
    ),
    head=HeadFacts(30_123_456, 30_123_455, 30_122_556, 1.2, Wei(5_000_000)),
    signers=(SETTLER, MINTER),
    processes=(API, WORKER),
    batches=(
        Batches("settle", 80, 112.5, 200, 46_216, 2.5e7, 4.2e15, 3),
        Batches("mint", 70, 257.0, 250, None, None, 0.0, 2),
    ),
    troubles=(Trouble(12.0, "failed", 3, "insufficient_funds: the payer's balance is below the payment"),),
    held=Held(1, 0, (("0xAb", "EnforcedPause()"),)),
    debts=Debts(2, 0, 3_600),
    settings={},
)


def drawn(view: View, *, width: int = 120) -> str:
    """The frame as text."""
    console = Console(file=io.StringIO(), width=width, record=True, color_system=None)
    console.print(frame(view, now=NOW))
    return console.export_text()


def test_a_frame_shows_everything_at_once() -> None:
    """Rates, depth and age by status, chain, gas, batches, signers, processes, troubles, within a common terminal."""
    text = drawn(VIEW)
    for words in (
        "ACCEPTING", "2026-01-31 12:00:30 UTC", "payments pending", "120", "3.2 s", "p50 2.1 s, p99 4.4 s",
        "30,123,456", "0.005 gwei", "46,216", "0.004200 ether", "12,345", "1.900000 ether", "balance too low",
        "host-a", "2.0 h", "12 ms", "refuses settle.batch_max", "insufficient_funds", "EnforcedPause()", "owed 2",
        "held 1",
    ):  # fmt: skip
        assert words in text, words
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) <= 45


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_frame_fits_its_terminal(width: int) -> None:
    """Narrow and wide."""
    assert max(map(len, drawn(VIEW, width=width).splitlines())) <= width


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (replace(VIEW, settings={"pause.accepting": True}), "DRAINING"),
        (replace(VIEW, settings={"pause.settling": True}), "SETTLING PAUSED"),
        (replace(VIEW, processes=(API,)), "NO WORKER"),
        (replace(VIEW, away="ConnectionRefusedError"), "OLD: ConnectionRefusedError"),
        (replace(VIEW, head=None), "no worker has seen the chain yet"),
        (replace(VIEW, troubles=(), held=Held(0, 0, ())), "none in the last hour"),
        (replace(VIEW, performance=replace(VIEW.performance, stuck_payments=4)), "❌ 4 payments and 0 units"),
    ],
)
def test_what_is_not_as_always_stands_out(view: View, words: str) -> None:
    """In the first line, or in its panel."""
    assert words in drawn(view)


def test_an_empty_database_gives_a_frame() -> None:
    """Before the first worker and the first payment."""
    nothing = replace(
        VIEW,
        performance=replace(
            VIEW.performance,
            payments=Speed(0, None, None, None, None, None),
            units=Speed(0, None, None, None, None, None),
            minutes=tuple(replace(m, accepted=0, completed=0, minted=0) for m in MINUTES),
            depth=(),
        ),
        head=None, signers=(), processes=(), batches=(), troubles=(), held=Held(0, 0, ()), debts=Debts(0, 0, 0),
    )  # fmt: skip
    assert "none yet" in drawn(nothing)


def test_text_from_outside_is_text() -> None:
    """Square brackets in an error or a host's name are no markup."""
    odd = replace(
        VIEW, troubles=(Trouble(1.0, "failed", 1, "[red]x[/nothing] [/]"),), processes=(replace(API, host="[b]"),)
    )
    text = drawn(odd)
    assert "[red]x[/nothing] [/]" in text
    assert "[b]" in text


def test_bars_are_as_high_as_their_rates() -> None:
    """The highest is full, nothing is a dot."""
    assert spark([0, 1, 4, 8]) == "·▂▅█"
    assert spark([0, 0]) == "··"
    assert spark([]) == ""
