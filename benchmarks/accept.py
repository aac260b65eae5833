"""Durable 202s a second, and how long one takes, with nothing settled meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from benchmarks.figures import Figure
from benchmarks.stage import Load, Measured, Shape, Stage, load, measure, open_stage
from payfirst.errors import OperatorError

WARM_UP = 500
LOOK_S = 0.05

LOCK_WAITS = """
SELECT count(*) FILTER (WHERE wait_event_type = 'Lock') AS lock, count(*) FILTER (WHERE wait_event_type = 'LWLock')
       AS lwlock, count(*) FILTER (WHERE wait_event = 'WalSync') AS wal_sync
FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()
"""


async def section(
    *, apis: int, connections: Sequence[int], counts: Sequence[int], repeats: int, bare: bool = False
) -> dict[str, Any]:
    """One stage with so many API processes: a measurement for each number of connections."""
    found: dict[str, Any] = {}
    async with open_stage(Shape(apis=apis, settling=False, bare=bare)) as stage, load() as client:
        for clients, count in zip(connections, counts, strict=True):
            await measure(stage, client, stage.order(min(WARM_UP, count), connections=clients))
            waits = dict.fromkeys(("lock", "lwlock", "wal_sync", "looks"), 0)
            async with _watching_locks(stage, waits):
                runs = [await _fired(stage, client, count, clients) for _ in range(repeats)]
            found[f"{apis}_processes_{clients}_connections"] = summary(runs) | {"waits": waits}
    return found


async def _fired(stage: Stage, client: Load, count: int, clients: int) -> Measured:
    measured = await measure(stage, client, stage.order(count, connections=clients))
    if measured.accepted != count:
        raise OperatorError(f"of {count} payments {measured.accepted} were accepted: {measured.result.statuses}")
    return measured


def summary(runs: Sequence[Measured]) -> dict[str, Any]:
    """Rate, latency and CPU of some runs of one kind."""
    return {
        "per_s": Figure.of([m.rate for m in runs]),
        "p50_ms": Figure.of([m.result.p50 for m in runs]),
        "p99_ms": Figure.of([m.result.p99 for m in runs]),
        "cpu_us": {group: Figure.of([m.cpu_us[group] for m in runs]) for group in runs[0].cpu_us},
        "cpu_us_sum": Figure.of([sum(m.cpu_us.values()) for m in runs]),
        "others_share": Figure.of([m.others_share for m in runs]),
    }


@contextlib.asynccontextmanager
async def _watching_locks(stage: Stage, waits: dict[str, int]) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            row = await stage.pool.fetchrow(LOCK_WAITS)
            waits["looks"] += 1
            for name in ("lock", "lwlock", "wal_sync"):
                waits[name] += 0 if row is None else row[name]
            await asyncio.sleep(LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
