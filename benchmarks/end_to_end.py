"""Payments offered at a rate, until the last of them is minted: by the rows of the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import cpu, units
from benchmarks.memory import Memory
from benchmarks.stage import Shape, Stage, load, measure, open_stage
from payfirst.errors import OperatorError

LOOK_S = 0.5
DRAIN_S_MAX = 120.0
CONNECTIONS = 256
WARM_UP = 1_000
LOW_PER_S = 0.97

# By the rows' own times: accepted, paid, minted (each when a worker's commit said so).
TIMES = """
SELECT percentile_cont($1::float8[]) WITHIN GROUP (ORDER BY extract(epoch FROM minted_at - accepted_at)) AS minted,
       percentile_cont($1::float8[]) WITHIN GROUP (ORDER BY extract(epoch FROM paid_at - accepted_at)) AS paid
FROM (
    SELECT p.created_at AS accepted_at, m.created_at AS paid_at, m.processed_at AS minted_at
    FROM mint_queue m JOIN payment_queue p ON p.id = m.payment_id
    WHERE m.status = 'completed' AND p.created_at >= $2
) times
"""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
# For the picture of the distribution.
STEPS = [step / 20 for step in range(21)]
# How many units were minted while payments came, after a while ($2 to $3 seconds from $1 on).
SUSTAINED = """
SELECT count(*) / ($3::float8 - $2::float8) FROM mint_queue
WHERE status = 'completed' AND processed_at > $1::timestamptz + $2::float8 * interval '1 second'
  AND processed_at <= $1::timestamptz + $3::float8 * interval '1 second'
"""
UNTIL_STEADY_S = 5.0
# By the partial indexes: to count what is done reads the whole table, which would be a part of what is measured.
UNDER_WAY = """
SELECT (SELECT count(*) FROM payment_queue WHERE status = 'pending')
       + (SELECT count(*) FROM payment_queue WHERE status = 'sent')
       + (SELECT count(*) FROM mint_queue WHERE status = 'pending')
       + (SELECT count(*) FROM mint_queue WHERE status = 'sent')
"""
MINTED = "SELECT count(*) FROM mint_queue WHERE status = 'completed'"
COUNT_S_MAX = 60.0
# How many payments, and how many units, a transaction carried.
BATCHES = """
SELECT purpose, avg(item_count)::float8 AS items FROM chain_transactions WHERE created_at >= $1 GROUP BY purpose
"""


async def section(shape: Shape, *, rate: float, seconds: float) -> dict[str, Any]:
    """Offer `rate` payments a second for so long, and wait until all are minted."""
    async with open_stage(shape) as stage, load() as client:
        # Every payer once, so that each holds some of the token; and what the first of anything costs is over.
        await measure(stage, client, stage.order(WARM_UP, connections=64))
        if await minted(stage, WARM_UP, DRAIN_S_MAX) < WARM_UP:
            raise OperatorError(f"of the first {WARM_UP} payments not all were minted: nothing can be measured")
        count = int(rate * seconds)
        await client.sign(stage.order(count, connections=CONNECTIONS, rate=rate))
        began: dt.datetime = await stage.pool.fetchval("SELECT now()")
        counted = await units.counted(stage)
        before, machine_before, started = cpu.by_group(stage.roots), cpu.machine_busy(), time.monotonic()
        memory = Memory({group: pids for group, pids in stage.roots.items() if group in ("api", "worker")})
        firing = asyncio.create_task(client.fire())
        while not firing.done():
            memory.look()
            await asyncio.wait([firing], timeout=LOOK_S)
        result = firing.result()
        accepted = result.statuses.get("202", 0)
        done = await minted(stage, WARM_UP + accepted, DRAIN_S_MAX) - WARM_UP
        took = time.monotonic() - started
        after, machine = cpu.by_group(stage.roots), cpu.machine_busy() - machine_before
        spent = {group: after[group] - before[group] for group in after} | {"load": result.cpu_s}
        cpu_us = {group: round(1e6 * s / max(1, done), 1) for group, s in spent.items()}
        shared = units.of_one(counted, await units.counted(stage), done)
        paid_s, minted_s = await _times(stage, began, list(SHARES.values()))
        _, distribution = await _times(stage, began, STEPS)
        steady_s = min(UNTIL_STEADY_S, seconds / 2)
        sustained: float = await stage.pool.fetchval(
            SUSTAINED, began, steady_s, max(seconds, result.seconds), timeout=COUNT_S_MAX
        )
        return {
            "offered_per_s": rate,
            "accepted": accepted,
            "refused": sum(n for status, n in result.statuses.items() if status != "202"),
            "minted": done,
            "failed": accepted - done,
            "minted_per_s": round(done / took, 1),
            "sustained_per_s": round(sustained, 1),
            "seconds": round(took, 1),
            "accept_p50_ms": round(result.p50, 2),
            "accepted_to_paid_s": dict(zip(SHARES, paid_s, strict=True)),
            "accepted_to_minted_s": dict(zip(SHARES, minted_s, strict=True)),
            "accepted_to_minted_steps_s": distribution,
            "cpu_us": cpu_us,
            "cpu_us_sum": round(sum(cpu_us.values()), 1),
            "of_one": shared,
            "others_share": round(max(0.0, 1 - sum(spent.values()) / max(1e-9, machine)), 2),
            "a_transaction": {
                r["purpose"]: round(r["items"], 1) for r in await stage.pool.fetch(BATCHES, began, timeout=COUNT_S_MAX)
            },
            "memory": memory.report(),
        }


async def _times(stage: Stage, began: dt.datetime, shares: Sequence[float]) -> tuple[list[float], list[float]]:
    """Seconds from accepted to paid, and to minted, at these shares of the payments since `began`."""
    row = await stage.pool.fetchrow(TIMES, shares, began, timeout=COUNT_S_MAX)
    none = [0.0] * len(shares)
    paid, minted_ = (none, none) if row is None else (row["paid"] or none, row["minted"] or none)
    return [round(s, 2) for s in paid], [round(s, 2) for s in minted_]


async def minted(stage: Stage, wanted: int, within_s: float) -> int:
    """How many units are minted once nothing is under way any more; waits for `wanted`, as long as it goes on."""
    left, changed = -1, time.monotonic()
    while True:
        now: int = await stage.pool.fetchval(UNDER_WAY)
        if now != left:
            left, changed = now, time.monotonic()
        if not now or time.monotonic() - changed > within_s:
            done: int = await stage.pool.fetchval(MINTED, timeout=COUNT_S_MAX) - stage.shape.sold
            if done >= wanted or time.monotonic() - changed > within_s:
                return done
        await asyncio.sleep(LOOK_S)


async def low_load(*, seconds: float, block_s: float = 1.0) -> dict[str, Any]:
    """About one payment a second: nearly all of the time is the chain's. `is_within`: all of them within two blocks
    and 300 ms. Not quite one a second, so that they come at every moment between two blocks."""
    within_s = 2 * block_s + 0.3
    found = await section(Shape(block_s=block_s), rate=LOW_PER_S, seconds=seconds)
    return found | {"within_s": within_s, "is_within": found["accepted_to_minted_s"]["most"] <= within_s}
