"""The benchmarks that speak to the store and the contracts themselves keep up with them."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest

from benchmarks import bad_input, growth, growth_fill
from benchmarks.end_to_end import minted
from benchmarks.growth_fill import History
from benchmarks.growth_life import BATCH, UNITS, Life, metered, start_up
from benchmarks.stage import Shape, load, measure, open_stage

PAYMENTS = 300
MINTED_S_MAX = 30.0


async def test_a_batch_of_growth_lives_to_its_last_mint(database_url: str) -> None:
    """What is measured against history is the whole way: every payment completed, every unit minted."""
    connection = await asyncpg.connect(database_url)
    await growth_fill.fill(connection, History(0, UNITS), say=lambda _: None)
    async with metered(database_url) as (own, meter):
        await Life(own, meter, block=100).batch()
        await start_up(own, meter)
    assert meter.cpu_s.keys() >= set(growth.HELD)
    for table, count in (("payment_queue", BATCH), ("mint_queue", BATCH * UNITS)):
        rows = await connection.fetch(f"SELECT status, count(*) FROM {table} GROUP BY 1")
        assert [tuple(row) for row in rows] == [("completed", count)]
    await connection.close()


@pytest.mark.parametrize(
    ("ratio", "seconds", "ended", "is_held"),
    [(1.2, 5.0, True, True), (1.21, 5.0, True, False), (1.2, 5.1, True, False), (1.2, 5.0, False, False)],
)
def test_growth_holds_by_its_steps_and_its_queries(ratio: float, seconds: float, ended: bool, is_held: bool) -> None:
    """The exit code tells of both; what is only shown does not count."""
    steps = {step: {"cpu_ratio": 1.0} for step in growth.HELD} | {"confirm": {"cpu_ratio": ratio}}
    asked = {"payments_of_the_hour": 9, "unpaid-mints": {"ended": ended, "in_psql_s": seconds}}
    assert growth.holds({**steps, "stats": {"cpu_ratio": 9.0}}, asked) is is_held


@pytest.mark.parametrize(
    "kept", sorted((Path(growth.__file__).parent / "results").glob("growth-*.json")), ids=lambda kept: kept.name
)
def test_what_is_kept_of_growth_says_whether_it_holds(kept: Path) -> None:
    """By the rule that runs now."""
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert found["holds"] is growth.holds(found["steps"], found.get("operator_queries", {}))


async def test_a_filled_history_is_whole(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and triggers are there again after the fill, and each payment has its units, in however many statements."""
    monkeypatch.setattr(growth_fill, "WRITTEN_AT_ONCE", 70)
    connection = await asyncpg.connect(database_url)
    keys = (
        "SELECT (SELECT count(*) FROM pg_constraint WHERE conname = 'payment_first')"
        " + (SELECT count(*) FROM pg_indexes WHERE indexname = 'authorizations_once')"
    )
    before = await connection.fetchval(keys)
    await growth_fill.fill(connection, History(200, 2), say=lambda _: None)
    assert await connection.fetchval(keys) == before == 2
    assert await connection.fetchval(growth_fill.IS_WHOLE) == 0
    assert await connection.fetchval("SELECT count(*) FROM mint_queue") == 400
    await connection.close()


@pytest.mark.slow
async def test_the_skeleton_mints_what_it_accepts() -> None:
    """The ceiling is that of payments which are settled and minted, each once."""
    async with open_stage(Shape(bare=True, payers=PAYMENTS)) as stage, load() as client:
        fired = await measure(stage, client, stage.order(PAYMENTS, connections=16))
        assert fired.accepted == PAYMENTS
        for kind in bad_input.BESIDE_KINDS:
            refused = await measure(stage, client, stage.order(PAYMENTS, connections=16, kind=kind))
            assert refused.result.statuses == {"402": PAYMENTS}, kind
        assert await minted(stage, PAYMENTS, MINTED_S_MAX) == PAYMENTS
        assert await stage.pool.fetchval("SELECT sum(reserved)::int FROM tokens") == 0
