"""Payments offered at a rate, until the last of them is minted: by the rows of the database, and by the chain's gas."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks import cpu
from benchmarks.stage import Shape, Stage, load, measure, open_stage

LOOK_S = 0.5
DRAIN_S_MAX = 120.0
CONNECTIONS = 256

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
# Full batches, of which the first of each purpose also pays for storage that is used for the first time.
GAS = """
SELECT purpose, round(avg(gas_used::numeric / item_count)) AS gas, round(avg(item_count)) AS items
FROM (
    SELECT *, max(item_count) OVER (PARTITION BY purpose) AS most,
           row_number() OVER (PARTITION BY purpose ORDER BY id) AS place
    FROM chain_transactions WHERE state <> 'sent' AND created_at >= $1
) t
WHERE item_count >= most * 0.9 AND place > 1 GROUP BY purpose
"""
SHARES = [0.5, 0.9, 0.99]
# How many units were minted while payments came, after a while ($2 to $3 seconds from $1 on).
SUSTAINED = """
SELECT count(*) / ($3::float8 - $2::float8) FROM mint_queue
WHERE status = 'completed' AND processed_at > $1::timestamptz + $2::float8 * interval '1 second'
  AND processed_at <= $1::timestamptz + $3::float8 * interval '1 second'
"""
UNTIL_STEADY_S = 5.0


async def section(shape: Shape, *, rate: float, seconds: float) -> dict[str, Any]:
    """Offer `rate` payments a second for so long, and wait until all are minted."""
    async with open_stage(shape) as stage, load() as client:
        # Every payer once, so that each holds some of the token; and what the first of anything costs is over.
        await measure(stage, client, stage.order(1_000, connections=64))
        await _minted(stage, 1_000, DRAIN_S_MAX)
        count = int(rate * seconds)
        await client.sign(stage.order(count, connections=CONNECTIONS, rate=rate))
        began = await stage.pool.fetchval("SELECT now()")
        before, started = cpu.by_group(stage.roots), time.monotonic()
        memory = {group: [sum(map(cpu.resident_mb, pids))] for group, pids in stage.roots.items()}
        firing = asyncio.create_task(client.fire())
        while not firing.done():
            await asyncio.sleep(LOOK_S)
            for group, pids in stage.roots.items():
                memory[group].append(sum(map(cpu.resident_mb, pids)))
        result = firing.result()
        accepted = result.statuses.get("202", 0)
        done = await _minted(stage, 1_000 + accepted, DRAIN_S_MAX) - 1_000
        took = time.monotonic() - started
        after = cpu.by_group(stage.roots)
        times = await stage.pool.fetchrow(TIMES, SHARES, began)
        steady_s = min(UNTIL_STEADY_S, seconds / 2)
        sustained: float = await stage.pool.fetchval(SUSTAINED, began, steady_s, max(seconds, result.seconds))
        gas = {row["purpose"]: row for row in await stage.pool.fetch(GAS, began)}
        spent = {group: 1e6 * (after[group] - before[group]) / max(1, done) for group in after}
        spent["load"] = 1e6 * result.cpu_s / max(1, done)
        minted = (times and times["minted"]) or [0.0] * len(SHARES)
        paid = (times and times["paid"]) or [0.0] * len(SHARES)
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
            "accepted_to_paid_s": dict(zip(("p50", "p90", "p99"), (round(s, 2) for s in paid), strict=True)),
            "accepted_to_minted_s": dict(zip(("p50", "p90", "p99"), (round(s, 2) for s in minted), strict=True)),
            "cpu_us": {group: round(us, 1) for group, us in spent.items()},
            "cpu_us_sum": round(sum(spent.values()), 1),
            "gas": {purpose: {"each": int(r["gas"]), "items": int(r["items"])} for purpose, r in gas.items()},
            "resident_mb": {
                group: {"first": round(seen[0]), "half": round(seen[len(seen) // 2]), "last": round(seen[-1])}
                for group, seen in memory.items()
            },
        }


async def _minted(stage: Stage, wanted: int, within_s: float) -> int:
    """How many units are minted; waits for `wanted`, as long as it goes on."""
    seen, changed = -1, time.monotonic()
    while True:
        minted: int = await stage.pool.fetchval("SELECT count(*) FROM mint_queue WHERE status = 'completed'")
        if minted != seen:
            seen, changed = minted, time.monotonic()
        if minted >= wanted or time.monotonic() - changed > within_s:
            return minted
        await asyncio.sleep(LOOK_S)


async def gas_by_batch(sizes: tuple[int, ...], *, payments: int) -> dict[str, Any]:
    """Gas a payment by how many share a transaction; 1 is settle.mode = "single"."""
    found: dict[str, Any] = {}
    for size in sizes:
        variables = {"PAYFIRST_SETTLE__BATCH_MAX": str(size), "PAYFIRST_MINT__BATCH_MAX": str(min(size, 250))}
        if size == 1:
            variables = {"PAYFIRST_SETTLE__MODE": "single", "PAYFIRST_MINT__BATCH_MAX": "1"}
        seen = await section(Shape(variables=variables), rate=payments / 2, seconds=2)
        found[str(size)] = seen["gas"]
    return found
