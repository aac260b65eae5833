"""The line "Slow processing": an event loop stood still, so nobody was served for so long."""

from __future__ import annotations

import time
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

# A buyer notices a tenth of a second; below twice that a busy machine is only busy.
SLOW_S = 0.2
SAID_AGAIN_S = 5.0


class SlowProcessing:
    """Call it with each lateness of a loop; it writes at most one line in `SAID_AGAIN_S`, which counts the others.

    What is left to tell when the stalls end is told with the next one.
    """

    def __init__(self, logger: FilteringBoundLogger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = logger
        self._clock = clock
        self._said_at = float("-inf")
        self._count = 0
        self._longest_s = 0.0
        self._total_s = 0.0

    def __call__(self, late_s: float) -> None:
        """Note one lateness, in seconds."""
        if late_s < SLOW_S:
            return
        self._count += 1
        self._longest_s = max(self._longest_s, late_s)
        self._total_s += late_s
        now = self._clock()
        if now - self._said_at < SAID_AGAIN_S:
            return
        more = f", the longest of {self._count} stalls, {self._total_s:.1f} s in all" if self._count > 1 else ""
        self._log.warning(
            "slow_processing",
            message=f"Slow processing: the event loop stood still for {self._longest_s * 1_000:.0f} ms{more}; nobody"
            " was served meanwhile: is the machine short of CPU?",
            stall_ms=round(self._longest_s * 1_000),
            stalls=self._count,
            stalls_s=round(self._total_s, 3),
        )
        self._said_at, self._count, self._longest_s, self._total_s = now, 0, 0.0, 0.0
