"""The line "Slow processing": how long, and not a line for each stall of a bad minute."""

from __future__ import annotations

import io
import json
import time

import pytest

from payfirst.ops import log
from payfirst.ops.slow import SAID_AGAIN_S, SLOW_S, SlowProcessing


@pytest.fixture
def lines() -> io.StringIO:
    """What is logged."""
    written = io.StringIO()
    log.configure("json", "info", stream=written)
    return written


def records(lines: io.StringIO) -> list[dict[str, object]]:
    """The lines of this kind."""
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [record for record in found if record["event"] == "slow_processing"]


def test_a_stall_is_told_with_how_long_it_was(lines: io.StringIO) -> None:
    """What is shorter is a busy machine."""
    slow = SlowProcessing(log.get_logger(), clock=time.monotonic)
    slow(SLOW_S - 0.001)
    assert records(lines) == []
    slow(0.412)
    (record,) = records(lines)
    assert str(record["message"]).startswith("Slow processing: the event loop stood still for 412 ms;")
    assert (record["level"], record["stall_ms"], record["stalls"]) == ("warning", 412, 1)


def test_many_stalls_are_one_line_that_counts_them(lines: io.StringIO) -> None:
    """At most one in five seconds; none is forgotten."""
    now = 0.0
    slow = SlowProcessing(log.get_logger(), clock=lambda: now)
    slow(0.3)
    for late_s in (0.4, 0.9, 0.45):
        now += 1
        slow(late_s)
    assert len(records(lines)) == 1
    now = SAID_AGAIN_S
    slow(0.25)
    _, record = records(lines)
    assert (record["stall_ms"], record["stalls"], record["stalls_s"]) == (900, 4, 2.0)
    assert "900 ms, the longest of 4 stalls, 2.0 s in all" in str(record["message"])
