"""CPU time by group of processes, from /proc: what other programs on the machine do hardly disturbs it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Groups = Mapping[str, Collection[int]]


def with_children(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def seconds(pid: int) -> float:
    """User and system time of one process and of its children that have ended; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S


def by_group(roots: Mapping[str, Collection[int]]) -> dict[str, float]:
    """CPU seconds so far of each group, whose processes are those of `roots` and all below them."""
    return {name: sum(seconds(pid) for root in pids for pid in with_children(root)) for name, pids in roots.items()}


def resident_mb(pid: int) -> float:
    """Resident MiB of one process; 0 where it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def machine_busy() -> float:
    """CPU seconds that the whole machine has worked since it started, for judging how quiet it was."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
