"""The seed's SQL runs verbatim, in both settlement modes, and its exact twins find what it cannot."""

from __future__ import annotations

import asyncio
from importlib import resources
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from .rig import Rig

SHARED = Path(__file__).parents[4] / "shared" / "operator-queries"
NAMES = (
    "queue-status",
    "mints-by-payment-status",
    "unpaid-mints",
    "stuck-in-sent",
    "completed-without-mints",
    "rollback-stuck-states",
)


def query(name: str) -> str:
    """A query as it ships."""
    return resources.files("payfirst.ops.queries").joinpath(f"{name}.sql").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_queries_that_ship_are_the_seeds_own(name: str) -> None:
    """To the letter, where the seed is at hand."""
    if not SHARED.exists():
        pytest.skip("the seed is not beside this checkout")
    assert query(name) == (SHARED / f"{name}.sql").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", ["batch", "single"])
async def test_the_queries_say_what_the_guide_expects(rig: Rig, mode: Literal["batch", "single"]) -> None:
    """Mints only beside completed payments, none unpaid, none stuck, none missing."""
    buyers = await rig.buyers(6)
    (poor,) = await rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money
    async with rig.working(settle_mode=mode):
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in (*buyers, poor)))
        await rig.until_counts(payments_completed=6, payments_failed=1, mints_completed=12)
    by_status = {r["payment_status"]: r["mint_count"] for r in await rig.pool.fetch(query("mints-by-payment-status"))}
    exact = {r["payment_status"]: r["mint_count"] for r in await rig.pool.fetch(query("mints-by-payment-status-exact"))}
    assert by_status["failed"] == exact["failed"] == 0
    assert by_status["completed"] >= exact["completed"] == 12
    assert await rig.pool.fetchval(query("unpaid-mints")) == 0
    assert await rig.pool.fetch(query("stuck-in-sent")) == []
    assert await rig.pool.fetch(query("completed-without-mints")) == []
    assert await rig.pool.fetch(query("completed-without-mints-exact")) == []
    assert {r["status"]: r["count"] for r in await rig.pool.fetch(query("queue-status"))} == {
        "completed": 6,
        "failed": 1,
    }


async def test_the_exact_twin_finds_a_batched_payment_without_mints(rig: Rig) -> None:
    """Under a shared hash the seed's join looks at the siblings' mints; the twin does not."""
    buyers = await rig.buyers(5)
    async with rig.working():
        ids = await asyncio.gather(*(rig.pay(buyer) for buyer in buyers))
        await rig.until_counts(payments_completed=5, mints_completed=5)
    shared = await rig.pool.fetchval("SELECT max(n) FROM (SELECT count(*) AS n FROM payment_queue GROUP BY tx_hash) c")
    assert shared > 1
    batched = await rig.pool.fetchval(
        "SELECT id FROM payment_queue WHERE tx_hash = (SELECT tx_hash FROM payment_queue GROUP BY tx_hash"
        " HAVING count(*) > 1 LIMIT 1) LIMIT 1"
    )
    assert batched in ids
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await rig.pool.execute("DELETE FROM mint_queue WHERE payment_id = $1", batched)
    async with rig.pool.acquire() as connection, connection.transaction():
        # Past every constraint, as a restore from a damaged backup might.
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM mint_queue WHERE payment_id = $1", batched)
    assert await rig.pool.fetch(query("completed-without-mints")) == []
    found = await rig.pool.fetch(query("completed-without-mints-exact"))
    assert [row["payment_id"] for row in found] == [batched]


async def test_the_rollback_by_hand_loses_no_money_that_comes(rig: Rig) -> None:
    """Run with payments in `sent`: they fail, their transaction is mined, and evidence completes them."""
    buyers = await rig.buyers(3)
    async with rig.working():
        await rig.chain.set_automine(False)
        for buyer in buyers:
            await rig.pay(buyer)

        async def sent() -> bool:
            return (await rig.counts()).get("payments_sent") == 3

        await rig.until(sent)
        await rig.pool.execute(query("rollback-stuck-states"))
        assert await rig.counts() == {"payments_failed": 3}
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=3, mints_completed=3)
    await rig.check_invariants()
