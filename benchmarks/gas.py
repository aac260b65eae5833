"""What a payment and a unit cost in gas by how many share a transaction, as payfirst sends them. Gas is not noisy: once
is enough."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

from benchmarks.end_to_end import DRAIN_S_MAX, minted
from benchmarks.stage import Load, Shape, Stage, load, measure, open_stage
from payfirst.errors import OperatorError
from payfirst.store import settings
from payfirst.store.database import transaction

# Payments and units in a transaction; 1 is one transaction a payment, which then needs no batch contract.
SIZES = ((1, 1), (50, 50), (100, 100), (200, 250))
# So many full transactions, of which the first also pays for storage that is used for the first time.
FULL = 2
LOOK_S = 0.1
GAS = """
SELECT round(avg(gas_used::numeric / item_count))::int AS gas
FROM (
    SELECT *, row_number() OVER (ORDER BY id) AS place FROM chain_transactions
    WHERE purpose = $1 AND item_count = $2 AND created_at >= $3 AND succeeded
) t
WHERE place > 1
"""
TAKEN_UP = """
SELECT count(*) FROM processes
WHERE role = 'worker'
  AND settings -> 'taken' @> jsonb_build_object('settle.batch_max', $1::int, 'mint.batch_max', $2::int)
"""


async def section(sizes: tuple[tuple[int, int], ...] = SIZES) -> dict[str, Any]:
    """Gas by size, of settling, and of minting to those who hold none of the token yet and to those who do."""
    counts = {size: FULL * max(size) for size in sizes}
    found: dict[str, dict[str, int]] = {"settle": {}, "mint_to_new_holders": {}, "mint_to_holders": {}}
    # As many payers as payments, so that each holds nothing when it first pays, and something when it pays again.
    shape = Shape(payers=sum(counts.values()))
    async with open_stage(shape) as stage, load() as client:
        for minting in ("mint_to_new_holders", "mint_to_holders"):
            for size, count in counts.items():
                settled, minted_ = await _measured(stage, client, size, count)
                found["settle"][str(size[0])] = settled
                found[minting][str(size[1])] = minted_
    return found


async def _measured(stage: Stage, client: Load, size: tuple[int, int], count: int) -> tuple[int, int]:
    async with transaction(stage.pool, "set the size of batches") as connection:
        await settings.put(connection, "settle.batch_max", size[0], by="bench")
        await settings.put(connection, "mint.batch_max", size[1], by="bench")
    await _until(stage, TAKEN_UP, 1, *size)
    await _pause(stage, "bench", before=None)
    began: dt.datetime = await stage.pool.fetchval("SELECT now()")
    before: int = await stage.pool.fetchval("SELECT count(*) FROM mint_queue")
    await measure(stage, client, stage.order(count, connections=16))
    # All of it waits, so that each transaction is full.
    await _pause(stage, None, before="bench", purpose="settle")
    await _until(stage, "SELECT count(*) FROM payment_queue WHERE status = 'completed'", before + count)
    await _pause(stage, None, before="bench")
    if await minted(stage, before + count, DRAIN_S_MAX) < before + count:
        raise OperatorError("not all units were minted")
    gas = [
        await stage.pool.fetchval(GAS, purpose, items, began)
        for purpose, items in zip(("settle", "mint"), size, strict=True)
    ]
    if None in gas:
        raise OperatorError(f"there were no full transactions of {size[0]} payments and {size[1]} units")
    return gas[0], gas[1]


async def _pause(stage: Stage, reason: str | None, *, before: str | None, purpose: str | None = None) -> None:
    await stage.pool.execute(
        "UPDATE signers SET paused_reason = $1 WHERE paused_reason IS NOT DISTINCT FROM $2"
        " AND purpose = coalesce($3, purpose)",
        reason,
        before,
        purpose,
    )


async def _until(stage: Stage, question: str, wanted: int, *arguments: object) -> None:
    async with asyncio.timeout(DRAIN_S_MAX):
        while True:
            if await stage.pool.fetchval(question, *arguments) >= wanted:
                return
            await asyncio.sleep(LOOK_S)
