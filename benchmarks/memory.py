"""Resident memory of each of payfirst's processes while it works, and whether it stays flat by a stated rule."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import cpu

# Flat: after the first fifth of the time (what is loaded and cached at first), the median of the last quarter is above
# that of the first quarter by no more than a twentieth, or by no more than this where a twentieth is less.
SETTLES = 0.2
RISE_MAX = 0.05
RISE_MB_MAX = 4.0


class Memory:
    """Samples by process; `pids` names each group's processes, with those below them."""

    def __init__(self, roots: Mapping[str, Sequence[int]]) -> None:
        self._pids = {group: [pid for root in pids for pid in cpu.with_children(root)] for group, pids in roots.items()}
        self.samples: dict[str, list[float]] = {}

    def look(self) -> None:
        """Take one sample of each."""
        for group, pids in self._pids.items():
            for number, pid in enumerate(pids, start=1):
                self.samples.setdefault(f"{group}_{number}", []).append(cpu.resident_mb(pid))

    def report(self) -> dict[str, Any]:
        """MiB of each process: where it began and ended after it had settled, the most, and whether that is flat."""
        return {name: judged(seen) for name, seen in self.samples.items()}


def judged(samples: Sequence[float]) -> dict[str, Any]:
    """The rule above for one process. A process that ended (0) is not flat."""
    settled = samples[int(len(samples) * SETTLES) :]
    quarter = max(1, len(settled) // 4)
    early, late = statistics.median(settled[:quarter]), statistics.median(settled[-quarter:])
    return {
        "early_mb": round(early, 1),
        "late_mb": round(late, 1),
        "most_mb": round(max(samples), 1),
        "is_flat": min(samples) > 0 and late - early <= max(RISE_MB_MAX, early * RISE_MAX),
    }
