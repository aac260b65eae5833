"""The latency histogram stays within its error, and the loop monitor sees what held the loop up."""

from __future__ import annotations

import asyncio
import json
import math
import random
import tracemalloc
from collections.abc import Callable

import pytest

from payfirst.ops.latency import BUCKETS, LONGEST_S, SHORTEST_S, LatencyHistogram, LoopMonitor


def histogram(*durations: float) -> LatencyHistogram:
    made = LatencyHistogram()
    for seconds in durations:
        made.record(seconds)
    return made


def test_empty_histogram_has_no_percentile() -> None:
    """Nothing recorded is None, not zero."""
    assert LatencyHistogram().percentile(50) is None
    assert LatencyHistogram().count == 0


def test_every_duration_is_told_within_two_percent() -> None:
    """From 1 µs to 1,000 s, one duration comes back within 2 %."""
    for step in range(2_000):
        seconds = SHORTEST_S * (LONGEST_S / SHORTEST_S) ** (step / 1_999)
        assert histogram(seconds).percentile(50) == pytest.approx(seconds, rel=0.02)


def test_percentiles_are_those_of_the_sorted_durations() -> None:
    """Nearest rank, within 2 %."""
    source = random.Random(7)  # noqa: S311  # figures, not secrets
    durations = sorted(source.lognormvariate(-4, 1.5) for _ in range(5_000))
    counted = histogram(*durations)
    for p in (0, 1, 50, 90, 99, 99.9, 100):
        rank = max(1, math.ceil(p * len(durations) / 100))
        assert counted.percentile(p) == pytest.approx(durations[rank - 1], rel=0.02)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, -math.inf])
def test_durations_below_the_range_count_as_the_shortest(seconds: float) -> None:
    """Two clocks can disagree: a negative duration is counted, not lost."""
    assert histogram(seconds).percentile(50) == pytest.approx(SHORTEST_S, rel=0.02)


@pytest.mark.parametrize("seconds", [LONGEST_S, math.nextafter(LONGEST_S, 0), 1e9, math.inf])
def test_durations_above_the_range_count_as_the_longest(seconds: float) -> None:
    """The end of the range is counted, not lost."""
    assert histogram(seconds).percentile(50) == pytest.approx(LONGEST_S, rel=0.03)


def test_nan_is_refused() -> None:
    """What is no duration is not counted as one."""
    counted = LatencyHistogram()
    with pytest.raises(ValueError, match="NaN"):
        counted.record(math.nan)
    assert counted.count == 0


@pytest.mark.parametrize("p", [-1, 100.1, math.nan])
def test_percentile_outside_0_to_100_is_refused(p: float) -> None:
    """A percentage is a percentage."""
    with pytest.raises(ValueError, match="from 0 to 100"):
        histogram(1.0).percentile(p)


def test_merge_counts_both_and_changes_neither() -> None:
    """Two processes' histograms make one."""
    a, b = histogram(0.001, 0.001), histogram(1.0)
    merged = a.merge(b)
    assert merged.to_json() == histogram(0.001, 1.0, 0.001).to_json()
    assert (a.count, b.count, merged.count) == (2, 1, 3)


def test_subtract_gives_what_lay_between_two_snapshots() -> None:
    """The later snapshot less the earlier one is the durations in between."""
    earlier = histogram(0.001, 5.0)
    later = earlier.merge(histogram(0.001, 0.3))
    assert later.subtract(earlier).to_json() == histogram(0.001, 0.3).to_json()
    assert later.subtract(later).count == 0


def test_subtracting_a_later_snapshot_is_refused() -> None:
    """Counts below zero would mean nothing."""
    earlier = histogram(0.001)
    later = earlier.merge(histogram(0.3))
    with pytest.raises(ValueError, match="snapshot"):
        earlier.subtract(later)


def test_json_round_trip_is_sparse() -> None:
    """Only buckets that are not empty are written, and they come back."""
    counted = histogram(0.001, 0.001, 2.0)
    data = json.loads(json.dumps(counted.to_json()))
    assert sorted(data.values()) == [1, 2]
    assert LatencyHistogram.from_json(data).to_json() == counted.to_json()
    assert LatencyHistogram.from_json({}).count == 0


@pytest.mark.parametrize(
    "data", [{"-1": 1}, {"x": 1}, {"": 1}, {str(BUCKETS): 1}, {"²": 1}, {"1": -1}, {"1": True}, {"1": 1.5}]
)
def test_json_that_is_no_histogram_is_refused(data: dict[str, int]) -> None:
    """A foreign key or a count that is none raises."""
    with pytest.raises(ValueError, match="not a"):
        LatencyHistogram.from_json(data)


def test_recording_keeps_nothing_but_counts() -> None:
    """Ten thousand durations take no more memory than one."""
    counted = LatencyHistogram()
    counted.record(0.0123)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            counted.record(0.0001 * (number % 500 + 1))
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < BUCKETS * 32  # an int object a bucket
    assert counted.count == 10_001


class FakeHandle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTimers:
    """A loop whose time is set by the test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[float, Callable[[], object], FakeHandle]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> FakeHandle:
        handle = FakeHandle()
        self.calls.append((self.now + delay, callback, handle))
        return handle

    def run_next(self, *, late_s: float = 0.0) -> None:
        when, callback, handle = self.calls.pop(0)
        self.now = when + late_s
        if not handle.cancelled:
            callback()


def test_monitor_measures_how_late_its_calls_are() -> None:
    """The maximum and the histogram hold the lateness, not the interval."""
    timers = FakeTimers()
    monitor = LoopMonitor(loop=timers)
    monitor.start()
    for late_s in (0.0, 0.08, 0.001):
        timers.run_next(late_s=late_s)
    assert monitor.max_s == pytest.approx(0.08)
    assert monitor.histogram.count == 3
    assert monitor.histogram.percentile(100) == pytest.approx(0.08, rel=0.02)


def test_monitor_that_is_called_early_is_not_late() -> None:
    """A timer's rounding gives no negative lateness."""
    timers = FakeTimers()
    monitor = LoopMonitor(loop=timers)
    monitor.start()
    timers.run_next(late_s=-0.001)
    assert monitor.max_s == 0.0


def test_reset_max_forgets_the_maximum_and_keeps_the_histogram() -> None:
    """Each report tells the longest stall since the one before."""
    timers = FakeTimers()
    monitor = LoopMonitor(loop=timers)
    monitor.start()
    timers.run_next(late_s=0.5)
    assert monitor.reset_max() == pytest.approx(0.5)
    assert monitor.max_s == 0.0
    timers.run_next(late_s=0.01)
    assert monitor.max_s == pytest.approx(0.01)
    assert monitor.histogram.count == 2


def test_stopped_monitor_looks_no_more() -> None:
    """After stop no call is left; what was measured stays."""
    timers = FakeTimers()
    monitor = LoopMonitor(loop=timers)
    monitor.start()
    timers.run_next(late_s=0.5)
    monitor.stop()
    monitor.stop()
    timers.run_next(late_s=9.0)
    assert not timers.calls
    assert monitor.max_s == pytest.approx(0.5)


def test_starting_twice_measures_once() -> None:
    """A second start schedules nothing."""
    timers = FakeTimers()
    monitor = LoopMonitor(loop=timers)
    monitor.start()
    monitor.start()
    assert len(timers.calls) == 1


async def test_monitor_sees_a_real_loop_held_up() -> None:
    """A callback that does not yield for 50 ms shows as a stall of about that length."""
    loop = asyncio.get_running_loop()
    monitor = LoopMonitor()
    monitor.start()
    try:
        begin = loop.time()
        while loop.time() < begin + 0.05:
            pass
        looked = loop.create_future()
        loop.call_later(0, looked.set_result, None)  # due after the monitor's own call
        await looked
    finally:
        monitor.stop()
    assert monitor.max_s >= 0.044
