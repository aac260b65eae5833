"""Latency in counts: a histogram whose size does not depend on the load, and the event loop's own lateness."""

from __future__ import annotations

import asyncio
import gc
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

SHORTEST_S = 1e-6
LONGEST_S = 1_000.0
# Neighbouring bucket bounds differ by 4 %, so a bucket's geometric middle is within 2 % of all it counts.
GROWTH = 1.04
_PER_BUCKET = 1 / math.log(GROWTH)
_OFFSET = -math.log(SHORTEST_S) * _PER_BUCKET
BUCKETS = math.ceil(math.log(LONGEST_S / SHORTEST_S) * _PER_BUCKET)

LOOP_INTERVAL_S = 0.005
# Collections of the youngest objects then happen each few hundred requests or each block, not each dozen of rows.
GC_THRESHOLDS = (10_000, 20, 50)


def keep_collections_short() -> None:
    """Take what start-up made out of garbage collection's sight, and collect less often.

    A full collection walks every tracked object: with all modules loaded that is tens of milliseconds in which the
    event loop serves nobody. What start-up made lives as long as the process, so it need not be walked again.
    For a process of its own only: garbage that is frozen stays.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class LatencyHistogram:
    """Counts of durations in log-spaced buckets from 1 µs to 1,000 s; a percentile is within 2 % of the true one.

    Shorter durations (also negative ones, when two clocks disagree) count as 1 µs, longer ones as 1,000 s.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return sum(self._counts)

    def record(self, seconds: float) -> None:
        """Count one duration. Raises ValueError on NaN."""
        if SHORTEST_S < seconds < LONGEST_S:
            # Rounding can carry a duration a hair below the upper end into one bucket too many.
            self._counts[min(int(math.log(seconds) * _PER_BUCKET + _OFFSET), BUCKETS - 1)] += 1
        elif seconds <= SHORTEST_S:
            self._counts[0] += 1
        elif seconds >= LONGEST_S:
            self._counts[-1] += 1
        else:
            raise ValueError("a duration is a number of seconds, not NaN")

    def percentile(self, p: float) -> float | None:
        """Seconds that `p` percent (0 to 100) of the durations do not exceed, by nearest rank; None when empty.

        Raises ValueError when `p` is no percentage.
        """
        if not 0 <= p <= 100:
            raise ValueError(f"a percentile is from 0 to 100, got {p}")
        left = max(1, math.ceil(p * self.count / 100))
        for index, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return SHORTEST_S * math.pow(GROWTH, index + 0.5)
        return None

    def merge(self, other: LatencyHistogram) -> LatencyHistogram:
        """A new histogram with what both counted, of two processes for example."""
        merged = LatencyHistogram()
        merged._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        return merged

    def subtract(self, earlier: LatencyHistogram) -> LatencyHistogram:
        """A new histogram with what was counted since the snapshot `earlier`.

        Raises ValueError when `earlier` is no earlier snapshot of this one.
        """
        between = LatencyHistogram()
        between._counts = [now - then for now, then in zip(self._counts, earlier._counts, strict=True)]
        if min(between._counts) < 0:
            raise ValueError("the snapshot counts more than what it is subtracted from")
        return between

    def counted(self, bounds: Sequence[float]) -> tuple[list[int], float]:
        """How many durations fell at or below each bound (and above the one before), how many beyond, and their sum.

        Each is taken at its bucket's middle, so a duration within 2 % of a bound may count on its other side.
        """
        counts, total = [0] * (len(bounds) + 1), 0.0
        for index, count in enumerate(self._counts):
            if count:
                middle = SHORTEST_S * math.pow(GROWTH, index + 0.5)
                counts[bisect_left(bounds, middle)] += count
                total += middle * count
        return counts, total

    def to_json(self) -> dict[str, int]:
        """The buckets that are not empty: index → count."""
        return {str(index): count for index, count in enumerate(self._counts) if count}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> LatencyHistogram:
        """The histogram that `to_json` wrote. Raises ValueError on any other key or a count below zero."""
        histogram = cls()
        for key, count in data.items():
            if not (key.isascii() and key.isdigit() and int(key) < BUCKETS):
                raise ValueError(f"not a bucket of a latency histogram: {key[:20]!r}")
            if type(count) is not int or count < 0:
                raise ValueError(f"not a count: {count!r}")
            histogram._counts[int(key)] = count
        return histogram


class TimerHandle(Protocol):
    """What a loop gives back for a scheduled call."""

    def cancel(self) -> None:
        """Do not make the call."""


class Timers(Protocol):
    """The two methods of an event loop that the monitor needs."""

    def time(self) -> float:
        """Monotonic seconds."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> TimerHandle:
        """Call once after `delay` seconds."""


class LoopMonitor:
    """How long the event loop is held up.

    A call is scheduled every 5 ms; measured is how much later than asked it runs. That is the time in which the
    loop served nobody: a callback that does not yield, garbage collection, or a process that got no CPU. A stall that
    begins between two looks is seen up to 5 ms short, and a call is always late by the timer's own resolution
    (about 0.1 ms, at times 1 ms; uvloop's clock has whole milliseconds). Use it in the loop's own thread.
    """

    def __init__(
        self,
        *,
        interval_s: float = LOOP_INTERVAL_S,
        loop: Timers | None = None,
        on_late: Callable[[float], None] | None = None,
    ) -> None:
        """`on_late` is told of each lateness, in seconds."""
        self._on_late = on_late
        self.histogram = LatencyHistogram()
        self._interval_s = interval_s
        self._loop = loop
        self._max_s = 0.0
        self._expected = 0.0
        self._handle: TimerHandle | None = None

    @property
    def max_s(self) -> float:
        """The longest lateness in seconds since the start or the last `reset_max`."""
        return self._max_s

    def reset_max(self) -> float:
        """Forget the maximum and give back what it was, in seconds. The histogram stays."""
        longest, self._max_s = self._max_s, 0.0
        return longest

    def start(self) -> None:
        """Begin to measure the running loop (or the one given). A second start changes nothing."""
        if self._handle is None:
            self._loop = self._loop or asyncio.get_running_loop()
            self._schedule(self._loop)

    def stop(self) -> None:
        """End measuring; what was measured stays."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self, loop: Timers) -> None:
        self._expected = loop.time() + self._interval_s
        self._handle = loop.call_later(self._interval_s, lambda: self._look(loop))

    def _look(self, loop: Timers) -> None:
        late = max(0.0, loop.time() - self._expected)
        self.histogram.record(late)
        self._max_s = max(self._max_s, late)
        if self._on_late is not None:
            self._on_late(late)
        self._schedule(loop)
