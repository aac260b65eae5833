"""What a payment costs PostgreSQL when a million lie before it: `python -m benchmarks.growth`.

Two databases on one server with the embedded server's settings (fsync on): one empty, one filled with settled and
minted payments in the live tables. The same batches go through both by turns; the ratio of their medians is what
history costs. Then the operator's queries, the room that dead rows take in a long run, and the archive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import growth_fill
from benchmarks.growth_fill import NETWORK, PAYMENTS_A_TRANSACTION, History
from benchmarks.growth_life import BATCH, UNITS, Db, Life, Meter, metered, start_up
from payfirst.local.postgres import EmbeddedPostgres
from payfirst.ops import queries
from payfirst.store import archive, migrate, queue_stats
from payfirst.units import uuid7

RATIO_MAX = 1.2
# What must cost what it costs on an empty database: all of a payment's way, and what a process asks. All else is shown.
PAYMENTS_WAY = ("admission", "accept", "claim", "send", "confirm", "watch", "finalize")
HELD = (*PAYMENTS_WAY, "claim mints", "send mints", "confirm mints", "look-up", "start-up")
QUERY_S_MAX, QUERY_S_LIMIT = 5.0, 120.0
WARM_UP_BATCHES = 5
GROWN = ("payment_queue", "mint_queue", "chain_transactions", "chain_attempts", "chain_transaction_items")

SIZES = """
SELECT relname::text AS table, n_live_tup AS live, n_dead_tup AS dead, n_tup_upd AS updates, n_tup_hot_upd AS hot,
       autovacuum_count AS vacuums, pg_relation_size(relid) AS heap_bytes, pg_indexes_size(relid) AS index_bytes
FROM pg_stat_user_tables WHERE relname = ANY($1::text[]) ORDER BY relname
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code is 1 where a step that is held, or an operator's query, misses its goal."""
    parser = argparse.ArgumentParser(prog="growth", description=__doc__, allow_abbrev=False)
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--mints", type=int, default=5_000_000)
    parser.add_argument(
        "--a-transaction", type=int, default=PAYMENTS_A_TRANSACTION, help="payments that were settled in one"
    )
    parser.add_argument("--rounds", type=int, default=24, help="measured by turns in both databases")
    parser.add_argument("--batches", type=int, default=10, help="of 100 payments, in each round")
    parser.add_argument("--long-run", type=int, default=50_000, help="payments that live while dead rows are counted")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of PostgreSQL, beside the embedded server's",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where the databases are made (default: a temporary folder)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="payfirst-growth-", dir=options.folder) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user when we are root
        server = EmbeddedPostgres(Path(folder) / "postgres")
        server.folder.mkdir()
        own = [f"{name} = '{value}'\n" for name, _, value in (one.partition("=") for one in options.setting)]
        (server.folder / "custom.conf").write_text("".join(own), encoding="utf-8")
        url = server.start()
        try:
            found = asyncio.run(_measure(url, options))
        finally:
            server.stop()
    found["command"] = "python -m benchmarks.growth " + " ".join(sys.argv[1:] if argv is None else argv)
    _print(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if found["holds"] else 1


async def _measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    history = History(options.payments, options.mints // options.payments, options.a_transaction)
    urls = {}
    began = time.monotonic()
    for name, trade in (("empty", History(0, UNITS)), ("full", history)):
        urls[name] = await _made(url, f"growth_{name}", trade)
    filled_s = time.monotonic() - began
    operator = await _queries(urls["full"])
    await _until_history(urls["full"])
    # Vacuum in the background is the long run's; here it would fall on one database and not on the other.
    await _alter(url, "autovacuum = off")
    steps, start = await _by_turns(urls, options)
    counts = {name: await _timed(u, _count_by_status) for name, u in urls.items()}
    await _alter(url, "autovacuum = on", "autovacuum_naptime = 5")
    bloat = await _long_run(urls["full"], options.long_run)
    archived = await _archive(urls["full"])
    async with metered(urls["full"]) as (connection, _):
        version = await connection.fetchval("SHOW server_version")
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
    rows = {**steps, **start}
    return {
        "payments": options.payments,
        "mints": options.mints,
        "payments_a_transaction": options.a_transaction,
        "postgresql": version,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "fill_s": round(filled_s, 1),
        "database_bytes": size,
        "steps": rows,
        "ratio_max": max(row["cpu_ratio"] for row in rows.values()),
        "count_by_status_s": counts,
        "operator_queries": operator,
        "long_run": bloat,
        "archive": archived,
        "holds": holds(rows, operator),
    }


def holds(steps: Mapping[str, Mapping[str, float]], operator_queries: Mapping[str, Any]) -> bool:
    """Whether what is held costs at most `RATIO_MAX` times as much, and psql has each answer within `QUERY_S_MAX`."""
    asked = [took for took in operator_queries.values() if isinstance(took, Mapping)]
    return all(steps[step]["cpu_ratio"] <= RATIO_MAX for step in HELD) and all(map(in_time, asked))


def in_time(took: Mapping[str, Any]) -> bool:
    """Whether one of the operator's queries ended, and soon enough."""
    return bool(took["ended"] and took["in_psql_s"] <= QUERY_S_MAX)


async def _made(url: str, database: str, history: History) -> str:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {database}")
    await connection.close()
    made = f"{url.rsplit('/', 1)[0]}/{database}"
    migrate.upgrade(made)
    connection = await asyncpg.connect(made)
    _say(f"filling {database} with {history.payments:,} payments of {history.units} mints")
    await growth_fill.fill(connection, history, say=_say)
    await connection.close()
    return made


async def _until_history(url: str) -> None:
    """Until the last minute, whose speed the statistics tell, holds nothing of what was filled in."""
    async with metered(url) as (connection, _):
        left_s = await connection.fetchval(
            "SELECT extract(epoch FROM max(processed_at) + interval '1 minute' - now())::float8 FROM mint_queue"
        )
    await asyncio.sleep(max(0.0, left_s or 0.0))


async def _by_turns(
    urls: dict[str, str], options: argparse.Namespace
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    async with metered(urls["empty"]) as empty, metered(urls["full"]) as full:
        lives = {
            name: Life(connection, meter, block=options.payments + 100)
            for name, (connection, meter) in (("empty", empty), ("full", full))
        }
        for life in lives.values():
            for _ in range(WARM_UP_BATCHES):
                await life.batch()
        for connection, _ in (empty, full):
            await connection.execute("ANALYZE")  # as PostgreSQL would by itself within a minute
        for _, meter in (empty, full):
            meter.cpu_s.clear()
            meter.wall_s.clear()
        for number in range(options.rounds):
            # Who goes first changes, so that a checkpoint or a neighbour falls on both.
            for name in ("empty", "full") if number % 2 == 0 else ("full", "empty"):
                for _ in range(options.batches):
                    await lives[name].batch()
            _say(f"round {number + 1} of {options.rounds}")
        steps = _ratios(empty[1], full[1])
    starts = {}
    for name, url in urls.items():
        async with metered(url) as (_, first):
            starts[name] = first
        for _ in range(20):  # a new process plans each statement anew
            async with metered(url) as (connection, meter):
                await start_up(connection, meter)
            for step in meter.cpu_s:
                starts[name].cpu_s[step] += meter.cpu_s[step]
                starts[name].wall_s[step] += meter.wall_s[step]
    return steps, _ratios(starts["empty"], starts["full"])


def _ratios(empty: Meter, full: Meter) -> dict[str, dict[str, float]]:
    def micros(samples: list[float]) -> float:
        return round(statistics.median(samples) * 1e6, 2)

    found = {}
    for step, samples in full.cpu_s.items():
        row = {
            "empty_cpu_us": micros(empty.cpu_s[step]),
            "full_cpu_us": micros(samples),
            "empty_wall_us": micros(empty.wall_s[step]),
            "full_wall_us": micros(full.wall_s[step]),
        }
        row["cpu_ratio"] = round(row["full_cpu_us"] / row["empty_cpu_us"], 3)
        row["wall_ratio"] = round(row["full_wall_us"] / row["empty_wall_us"], 3)
        found[step] = row
    return found


async def _queries(url: str) -> dict[str, Any]:
    """The seconds of each query about the last hour, asked as if it were the moment when the last payment came."""
    found: dict[str, Any] = {}
    async with metered(url) as (connection, _):
        now = await connection.fetchval("SELECT max(created_at) FROM payment_queue")
        found["payments_of_the_hour"] = await connection.fetchval(
            "SELECT count(*) FROM payment_queue WHERE created_at > $1::timestamptz - interval '1 hour'", now
        )
    _say(f"payments of the last hour: {found['payments_of_the_hour']:,}")
    for name in queries.READ_ONLY:
        asked = queries.text(name).replace("NOW()", f"'{now}'::timestamptz")
        async with metered(url) as (connection, meter):
            # One process does it all, so that its CPU time is the query's.
            await connection.execute("SET max_parallel_workers_per_gather = 0")
            with meter.step(name, of=1):
                ended = await _ends(connection, asked)
            # As psql runs it: with the workers that PostgreSQL adds by itself.
            await connection.execute("RESET max_parallel_workers_per_gather")
            began = time.monotonic()
            ended = await _ends(connection, asked) and ended
            in_psql_s = time.monotonic() - began
        alone = {"wall_s": meter.wall_s[name][0], "cpu_s": meter.cpu_s[name][0], "in_psql_s": in_psql_s}
        found[name] = {"ended": ended} | {measured: round(seconds, 3) for measured, seconds in alone.items()}
        _say(f"operator's query {name}: {found[name]}")
    return found


async def _ends(connection: Db, statement: str) -> bool:
    """Run it, and whether it ended within the limit: where not, nothing that was filled is lost for it."""
    try:
        await connection.execute(statement, timeout=QUERY_S_LIMIT)
    except TimeoutError:
        return False
    return True


async def _count_by_status(connection: Db) -> None:
    for statement in queue_stats.COUNT_BY_STATUS.values():
        await connection.fetch(statement)


async def _timed(url: str, work: Callable[[Db], Awaitable[None]]) -> float:
    async with metered(url) as (connection, _):
        began = time.monotonic()
        await work(connection)
        return round(time.monotonic() - began, 4)


async def _long_run(url: str, count: int) -> dict[str, Any]:
    async with metered(url) as (connection, meter):
        await connection.execute("SELECT pg_stat_reset()")
        before = {row["table"]: dict(row) for row in await connection.fetch(SIZES, GROWN)}
        life = Life(connection, meter, block=10**9)
        began, most = time.monotonic(), dict.fromkeys(GROWN, 0)
        for number in range(count // BATCH):
            await life.batch()
            if number % 20 == 0:
                for row in await connection.fetch(SIZES, GROWN):
                    most[row["table"]] = max(most[row["table"]], row["dead"])
        seconds = time.monotonic() - began
        await connection.execute("SELECT pg_stat_force_next_flush()")
        tables = {}
        for row in await connection.fetch(SIZES, GROWN):
            tables[row["table"]] = {
                "updates": row["updates"],
                "hot_updates": row["hot"],
                "dead_rows_at_most": most[row["table"]],
                "vacuums": row["vacuums"],
                "heap_bytes_a_payment": round((row["heap_bytes"] - before[row["table"]]["heap_bytes"]) / count, 1),
                "index_bytes_a_payment": round((row["index_bytes"] - before[row["table"]]["index_bytes"]) / count, 1),
            }
        return {"payments": count, "seconds": round(seconds, 1), "tables": tables}


async def _archive(url: str) -> dict[str, Any]:
    batches, limit = 20, 500
    async with metered(url) as (connection, _):
        now = await connection.fetchval("SELECT now() - interval '1 hour'")
        span = archive.Span(
            NETWORK, uuid7(now_ms=0, random_bits=0), uuid7(now_ms=int(now.timestamp() * 1000), random_bits=0), now
        )
        moved, times = 0, []
        for _ in range(batches):
            began = time.monotonic()
            async with connection.transaction():
                done = await archive.move(connection, span, limit=limit)
            times.append(time.monotonic() - began)
            moved += done.completed
            if done.last is None:
                break
            span = archive.Span(span.network, done.last, span.below, span.before)
    return {"payments": moved, "batch_ms_p50": round(statistics.median(times) * 1e3, 1), "a_second": moved / sum(times)}


async def _alter(url: str, *settings: str) -> None:
    connection = await asyncpg.connect(url)
    for setting in settings:
        await connection.execute(f"ALTER SYSTEM SET {setting}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def _print(found: dict[str, Any]) -> None:
    print(f"\n{found['payments']:,} payments and {found['mints']:,} mints in the live tables", end=", ")
    print(f"{found['database_bytes'] / 1e9:.1f} GB, PostgreSQL {found['postgresql']}, {found['cpus']} CPUs")
    print(
        f"\n{'µs of PostgreSQL a thing':26}{'empty':>10}{'full':>10}{'ratio':>8}   {'wall':>10}{'wall':>10}{'ratio':>8}"
    )
    for step, row in found["steps"].items():
        print(
            f"{step:26}{row['empty_cpu_us']:10.1f}{row['full_cpu_us']:10.1f}{row['cpu_ratio']:8.2f}   "
            f"{row['empty_wall_us']:10.1f}{row['full_wall_us']:10.1f}{row['wall_ratio']:8.2f}"
        )
    print(f"\ncount by status: {found['count_by_status_s']} s")
    asked = dict(found["operator_queries"])
    print(f"\noperator's queries over {asked.pop('payments_of_the_hour'):,} payments, limit {QUERY_S_MAX:.0f} s:")
    for name, took in asked.items():
        late = "" if in_time(took) else "   too slow"
        print(f"  {name:36}{took['in_psql_s']:10.3f} s; in one process {took['cpu_s']:10.3f} s of CPU{late}")
    run = found["long_run"]
    print(f"\nlong run: {run['payments']:,} payments in {run['seconds']} s")
    for table, row in run["tables"].items():
        print(
            f"  {table:26}{row['updates']:>9,} updates, {row['hot_updates']:>9,} in place, at most"
            f" {row['dead_rows_at_most']:>8,} dead, {row['heap_bytes_a_payment']:8,.0f} B heap and"
            f" {row['index_bytes_a_payment']:8,.0f} B index a payment"
        )
    print(f"\narchive: {found['archive']}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
