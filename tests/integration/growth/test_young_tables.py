"""Tables that grow faster than their statistics: what is asked of them then must still be found by key."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from postgres import Cluster

from growth import filled
from payfirst.store import adoption, attempts, auditing, crediting, mints, payments, transaction_items

NETWORK, ASSET = "n", bytes(20)
TAKEN, ASKED = 20_000, 1_500
FILL = """
INSERT INTO authorizations (network, asset, payer, authorization_nonce, payment_id)
SELECT $1, $2, decode(lpad(to_hex(i), 40, '0'), 'hex'), decode(lpad(to_hex(i), 64, '0'), 'hex'), gen_random_uuid()
FROM generate_series(1, $3) i
"""
PAYERS, NONCES = [n.to_bytes(20) for n in range(ASKED)], [n.to_bytes(32) for n in range(ASKED)]
STATEMENTS: dict[str, tuple[str, tuple[object, ...]]] = {
    "credit": (crediting.CREDIT_CANDIDATES, (NETWORK, ASSET, PAYERS, NONCES)),
    "find": (payments.FIND_AUTHORIZATIONS, (NETWORK, ASSET, PAYERS, NONCES)),
    "audit": (auditing.CLAIMED, (NETWORK, ASSET, PAYERS, NONCES)),
    "adopt": (adoption.LINK_PAYMENTS, (1, PAYERS, NONCES, dt.datetime.now(dt.UTC), ASSET, NETWORK)),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_authorizations_are_looked_up_one_by_one(database_url: str, name: str) -> None:
    """A block's payments were compared with every authorization there was: that took more CPU than all the rest."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE authorizations SET (autovacuum_enabled = false)")  # so never analyzed
    await connection.execute(FILL, NETWORK, ASSET, TAKEN)
    sql, arguments = STATEMENTS[name]
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *arguments))
    await connection.close()
    assert "Scan using authorizations_once" in plan, plan
    assert "sha256" in plan.partition("Index Cond")[2].splitlines()[0], plan
    assert "Seq Scan on authorizations" not in plan, plan


# What a launch meets: a shop that has sold little until then, whose tables were analyzed when nothing was under way.
SOLD, UNDER_WAY, A_BLOCK = 3_000, 1_000, 50
LAUNCH = (
    "SET session_replication_role = replica",
    "DELETE FROM payment_queue WHERE status = 'failed'",
    "VACUUM (ANALYZE)",
    """
UPDATE payment_queue SET status = 'sent', finality = 'open', settled_block = NULL, settled_block_hash = NULL,
    settled_log_index = NULL
WHERE id IN (SELECT id FROM payment_queue WHERE status = 'completed' ORDER BY id DESC LIMIT $1)
""",
    """
UPDATE mint_queue SET status = 'sent', minted_block = NULL
WHERE payment_id IN (SELECT id FROM payment_queue WHERE status = 'sent')
""",
    """
UPDATE chain_transactions SET state = 'sent'
WHERE id IN (
    SELECT i.transaction_id FROM chain_transaction_items i JOIN payment_queue p ON p.id = i.payment_id
    WHERE p.status = 'sent')
""",
    "SET session_replication_role = DEFAULT",
)


def under_way(value: str, table: str = "payment_queue") -> str:
    """An array of a value of some rows that are under way: so many as one of the first blocks has, of many more."""
    state, count = "status", A_BLOCK
    if table == "chain_transactions":
        state, count = "state", A_BLOCK // filled.PAYMENTS_A_TRANSACTION
    return f"ARRAY(SELECT {value} FROM (SELECT * FROM {table} WHERE {state} = 'sent' ORDER BY id LIMIT {count}) s)"


BUSY: dict[str, tuple[str, tuple[str, ...]]] = {
    "complete": (
        crediting.MARK_COMPLETED,
        tuple(
            under_way(one)
            for one in (
                "id", "'sent'", "tx_hash", "1::bigint", "tx_hash", "row_number() OVER ()::int", "true", "'{}'::jsonb",
                "supply_reserved", "supply_reserved",
            )
        ),
    ),
    "minted": (
        mints.MARK_MINTED,
        (under_way("mint_id", "mint_queue"), under_way("payment_tx_hash", "mint_queue"), "1"),
    ),
    "payments of": (transaction_items.PAYMENT_ITEMS, (under_way("id", "chain_transactions"),)),
    "units of": (transaction_items.MINT_ITEMS, (under_way("id", "chain_transactions"),)),
    "in flight": (attempts.READ_IN_FLIGHT, (f"'{filled.NETWORK}'", f"'{filled.ADDRESS}'")),
    "watched": (payments.MOVED_ON, (under_way("id"), under_way("NULL::bigint"))),
}  # fmt: skip


@pytest.fixture(scope="module")
def launched(postgres_18: Cluster) -> Iterator[str]:
    """The tables of a shop that was quiet when they were analyzed, and has much under way now."""

    async def launch(url: str) -> None:
        await filled.fill(url, payments=SOLD, live=0)
        connection = await asyncpg.connect(url)
        await connection.execute("ALTER TABLE payment_queue SET (autovacuum_enabled = false)")
        await connection.execute("ALTER TABLE mint_queue SET (autovacuum_enabled = false)")
        await connection.execute("ALTER TABLE chain_transactions SET (autovacuum_enabled = false)")
        for statement in LAUNCH:
            await connection.execute(statement, *([UNDER_WAY] if "$1" in statement else []))
        await connection.close()

    with postgres_18.database(template=postgres_18.migrated_template) as url:
        asyncio.run(launch(url))
        yield url


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", BUSY)
async def test_a_launch_compares_nothing_with_all_that_is_under_way(launched: str, name: str, mode: str) -> None:
    """By its statistics PostgreSQL thinks that no row is `sent`; each one was compared with the whole list."""
    connection = await asyncpg.connect(launched, server_settings={"jit": "off", "plan_cache_mode": mode})
    sql, arguments = BUSY[name]
    quoted = ", ".join(f"quote_nullable(({one})::text)" for one in arguments)
    values = ", ".join(await connection.fetchrow(f"SELECT {quoted}") or ())
    await connection.execute(f"PREPARE judged AS {sql}")
    transaction = connection.transaction()
    await transaction.start()
    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE judged({values})")
    await transaction.rollback()
    await connection.close()
    plan = json.loads(explained)[0]["Plan"]
    top = plan["Plans"][0] if plan["Node Type"] == "ModifyTable" else plan
    assert top["Actual Rows"] >= A_BLOCK / 2, plan  # a statement that finds nothing proves nothing
    assert _read_for_nothing(plan) <= SOLD / 3, plan


def _read_for_nothing(plan: dict[str, Any]) -> int:
    """How many rows of the queues were read because there are no more of them, and how many rows and pairs dropped."""
    dropped = sum(int(value) for key, value in plan.items() if key.startswith("Rows Removed by"))
    if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in ("payment_queue", "mint_queue"):
        dropped += plan["Actual Rows"]
    return int(dropped * plan["Actual Loops"]) + sum(_read_for_nothing(one) for one in plan.get("Plans", ()))
