"""What an operator looks for in the log, each with the real trouble: "Slow processing", "Failed to queue mints"."""

from __future__ import annotations

import asyncio
import io
import json
import time

from .rig import Rig

WAITS_FOR_MINTS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO mint_queue%'
"""


def records(lines: io.StringIO, event: str) -> list[dict[str, object]]:
    """The log's records of one event."""
    found = [json.loads(line) for line in lines.getvalue().splitlines() if line.startswith("{")]
    return [record for record in found if record["event"] == event]


async def test_mints_that_the_database_did_not_take_are_told_and_made_all_the_same(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """Its connection is cut in the very commit that completes the payment: nothing of it is there, then all of it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        async with rig.pool.acquire() as locker, locker.transaction():
            await locker.execute("LOCK TABLE mint_queue IN SHARE MODE")
            await rig.pay(buyer, 3)

            async def is_cut() -> bool:
                pid = await rig.pool.fetchval(WAITS_FOR_MINTS)
                return bool(pid and await rig.pool.fetchval("SELECT pg_terminate_backend($1)", pid))

            await rig.until(is_cut)

            async def is_told() -> bool:
                return bool(records(log_lines, "mints_not_queued"))

            await rig.until(is_told)
            assert await rig.pool.fetchval("SELECT count(*) FROM payment_queue WHERE status = 'completed'") == 0
        await rig.until_counts(payments_completed=1, mints_completed=3)
    record = records(log_lines, "mints_not_queued")[0]
    assert str(record["message"]).startswith("Failed to queue mints: the database did not take 3 units of 1 payments")
    assert "Nothing is lost" in str(record["message"])
    assert (record["level"], record["payments"], record["units"]) == ("error", 1, 3)
    await rig.check_invariants()


async def test_mints_that_the_database_refuses_are_told_until_it_is_mended(rig: Rig, log_lines: io.StringIO) -> None:
    """A constraint that an operator added by hand stops crediting, not the worker."""
    (buyer,) = await rig.buyers(1)
    await rig.pool.execute("ALTER TABLE mint_queue ADD CONSTRAINT by_hand CHECK (unit < 1)")
    async with rig.working():
        await rig.pay(buyer, 2)

        async def is_told() -> bool:
            return bool(records(log_lines, "mints_not_queued"))

        await rig.until(is_told)
        assert "by_hand" in str(records(log_lines, "mints_not_queued")[0]["message"])
        await rig.pool.execute("ALTER TABLE mint_queue DROP CONSTRAINT by_hand")
        await rig.until_counts(payments_completed=1, mints_completed=2)
    await rig.check_invariants()


async def test_no_word_of_mints_where_all_is_well(rig: Rig, log_lines: io.StringIO) -> None:
    """A worker that loses the race for a block, or finds no payment in it, has not failed to queue anything."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(), rig.working():
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
    assert records(log_lines, "mints_not_queued") == []


async def test_a_loop_that_stands_still_says_slow_processing(rig: Rig, log_lines: io.StringIO) -> None:
    """API and worker share this test's loop, and both say it."""
    async with rig.working():
        until = time.monotonic() + 0.35
        while time.monotonic() < until:  # a callback that does not yield
            pass

        async def is_told() -> bool:
            said = records(log_lines, "slow_processing")
            return {record.get("role") for record in said} == {"api", "worker"}

        await asyncio.wait_for(rig.until(is_told), 20)
    for record in records(log_lines, "slow_processing"):
        assert str(record["message"]).startswith("Slow processing: the event loop stood still for ")
    assert any(int(str(record["stall_ms"])) >= 300 for record in records(log_lines, "slow_processing"))
