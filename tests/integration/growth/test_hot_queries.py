"""What API and workers ask all the time costs the same however much was ever sold: PostgreSQL's plans say so."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import asyncpg
import pytest
from postgres import Cluster

import payfirst.store
from growth import filled

# One process fills the tables for all of them.
pytestmark = pytest.mark.xdist_group("growth")

BUYER, SELLER, AUDIT, ONCE = (
    "found by id, the history too: by hand, or after the live tables had nothing",
    "an operator's look, at a person's pace",
    "an audit's or a repair's, a period at a time",
    "once, at a start or by hand",
)

# Every statement of the store is judged here: this one has a reason to be there for no buyer and no worker's round, or
# is hot, and then the test below looks at its plan. A new statement must be put on one side.
COLD = {
    **dict.fromkeys(
        (
            "payments.FIND_ARCHIVED_PAYMENTS", "payments.SHOW_ARCHIVED_PAYMENTS",
            "payments.SHOW_ARCHIVED_MINTS", "payments.PAYMENT_OF_ARCHIVED_MINT", "by_hand.ARCHIVED",
            "story.READ_PAYMENTS", "story.READ_UNITS", "queue_list.ID_BY_UNIT", "queue_list.IDS_BY_HASH",
        ),
        BUYER,
    ),
    **dict.fromkeys(
        (
            "queue_list.CHUNK_FLOOR", "queue_list.CHUNK_FLOOR_OF_PAYER", "queue_list.PAYMENTS_PAGE",
            "queue_list.PAYMENTS_PAGE_OF_PAYER", "queue_list.MINTS_PAGE", "queue_list.OWED_PAGE",
            "queue_list.IDS_BY_AUTHORIZATION", "activity.BATCHES", "performance.SPEED_OF_UNITS",
        ),
        SELLER,
    ),
    **dict.fromkeys(
        (
            "auditing.EVIDENCED", "auditing.ARCHIVED_IDS", "auditing.COUNT_MINTED", "auditing.UNITS_MISSING",
            "adoption.MISSING_NONCES", "adoption.MINED_BELOW",
        ),
        AUDIT,
    ),
    **dict.fromkeys(
        (
            "diagnosis.READ_SERVER", "diagnosis.HAS_VERSIONS", "diagnosis.READ_VERSION", "migrate.CURRENT_REVISION",
            "roles.COLUMNS_OF", "roles.FIND_ROLES", "roles.OWNED_BY", "roles.ARE_SET_UP",
            "archive.FIND_ARCHIVABLE", "archive.LOCK_ARCHIVABLE", "archive.MOVE_MINTS", "archive.MOVE_PAYMENTS",
        ),
        ONCE,
    ),
    # Completed and failed rows are counted: each API process lets it take a twentieth of a connection at most.
    "queue_stats.COUNT_BY_STATUS": "bounded by how often it is asked",
    "wake.SEND_WAKEUP": "reads no table",
    "wake.SEND_CHANGED": "reads no table",
    "story.NOW": "reads no table",
    "monitoring.READ_SIZE": "reads no table",
}  # fmt: skip

# Tables that grow with every payment. The others hold a row a token, a signer, a process, an open debt.
GROWING = {
    "payment_queue", "mint_queue", "authorizations", "chain_transactions", "chain_attempts",
    "chain_transaction_items", "audit_log",
}  # fmt: skip
HISTORY = {"payment_history", "mint_history"}
# Indexes of live rows alone: to read one from end to end is to read what is in flight.
LIVE = {
    "payment_queue_pending", "payment_queue_sent", "payment_queue_not_final",
    "payment_queue_expiry", "payment_queue_reorged", "payment_queue_held", "mint_queue_pending", "mint_queue_sent",
    "mint_queue_held", "mint_queue_owed", "chain_transactions_sent", "chain_transactions_not_final", "owed_open",
}  # fmt: skip


def statements() -> dict[str, list[str]]:
    """Every statement of the store by the name of its constant; a table of statements is one constant."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(payfirst.store.__path__):
        if module.ispkg or module.name == "migrations":
            continue
        for name, value in vars(importlib.import_module(f"payfirst.store.{module.name}")).items():
            if not name.isupper() or name.startswith("_"):
                continue
            texts = [value] if isinstance(value, str) else list(value.values()) if isinstance(value, dict) else []
            if texts and all(isinstance(t, str) and re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", t)
                             for t in texts):  # fmt: skip
                found[f"{module.name}.{name}"] = texts
    return found


@dataclass(frozen=True)
class Filled:
    """A database with history and so many live payments."""

    url: str
    live: int


@pytest.fixture(scope="module", params=[0, 800], ids=["idle", "busy"])
def history(request: pytest.FixtureRequest, postgres_18: Cluster) -> Iterator[Filled]:
    """As PostgreSQL sees it when nothing is in flight, and when much is: its guesses differ."""
    with postgres_18.database(template=postgres_18.migrated_template) as url:
        asyncio.run(filled.fill(url, payments=40_000, live=request.param))
        yield Filled(url, request.param)


@pytest.fixture
async def planner(history: Filled) -> AsyncIterator[asyncpg.Connection]:
    """A connection that plans as a pool's connection does once a statement was run a few times."""
    connection = await asyncpg.connect(history.url, server_settings={"jit": "off"})
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close()


async def faults(connection: asyncpg.Connection, sql: str) -> list[str]:
    """What in the plan of a statement grows with history; nothing where all is well."""
    places = max((int(n) for n in re.findall(r"\$(\d+)", sql)), default=0)
    await connection.execute(f"PREPARE judged AS {sql}")
    try:
        arguments = f"({', '.join(['NULL'] * places)})" if places else ""
        plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE judged{arguments}"))
    finally:
        await connection.execute("DEALLOCATE judged")
    return list(_faults(plan[0]["Plan"]))


def _faults(node: dict[str, object]) -> Iterator[str]:
    kind, table, index = str(node["Node Type"]), node.get("Relation Name"), node.get("Index Name")
    if table in HISTORY:
        yield f"{kind} of {table}"
    if kind == "Seq Scan" and table in GROWING:
        yield f"Seq Scan of {table}"
    if index is not None and index not in LIVE and str(index).startswith(tuple(GROWING)):
        # The network is a condition that every row meets.
        conditions = re.sub(r"\(*(\w+\.)?network = [^)]*\)", "", str(node.get("Index Cond", "")))
        if not re.search(r"\w", conditions.replace("AND", "")):
            yield f"{kind} of all of {index}"
    for below in node.get("Plans", ()):  # type: ignore[attr-defined]  # PostgreSQL's JSON
        yield from _faults(below)


def test_every_statement_is_hot_or_has_a_reason_not_to_be() -> None:
    """A name here that is in the store no more is a mistake too."""
    assert set(COLD) <= set(statements())


@pytest.mark.parametrize("name", sorted(set(statements()) - set(COLD)))
async def test_no_hot_statement_reads_history_or_a_whole_table(planner: asyncpg.Connection, name: str) -> None:
    """With the statistics of filled tables, and nothing forbidden to the planner."""
    for sql in statements()[name]:
        assert await faults(planner, sql) == [], sql


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("SELECT count(*) FROM payment_queue", "payment_queue"),
        ("SELECT id FROM payment_queue WHERE payer = $1", "Seq Scan of payment_queue"),
        ("SELECT id FROM payment_queue WHERE payer = $1 ORDER BY id LIMIT 1", "payment_queue"),
        ("SELECT id FROM payment_history WHERE id = $1", "of payment_history"),
        ("SELECT count(*) FROM payment_queue WHERE status = 'failed' AND network = $1", "payment_queue"),
    ],
)
async def test_what_reads_history_is_seen(planner: asyncpg.Connection, sql: str, fault: str) -> None:
    """The judge itself can say no."""
    assert fault in " ".join(await faults(planner, sql))
