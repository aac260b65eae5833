"""What PostgreSQL expects behind a payment or a transaction, however many there are: its own sample cannot tell."""

from __future__ import annotations

import json

import asyncpg

from benchmarks import growth_fill
from benchmarks.growth_fill import History

PAYMENTS, UNITS, A_TRANSACTION = 30_000, 3, 15
FACTOR_MAX = 8
# What is asked for by one value, and how many rows there are behind it.
BEHIND = {
    ("mint_queue", "payment_id"): UNITS,
    ("mint_queue", "payment_tx_hash"): UNITS * A_TRANSACTION,
    ("payment_queue", "tx_hash"): A_TRANSACTION,
    ("chain_transaction_items", "transaction_id"): A_TRANSACTION,
}


async def test_the_rows_behind_a_transaction_are_expected_within_a_factor(database_url: str) -> None:
    """From a sample that is to 30,000 what ANALYZE's is to three million: by itself it expects 96 units of one."""
    connection = await asyncpg.connect(database_url)
    await growth_fill.fill(connection, History(PAYMENTS, UNITS, A_TRANSACTION), say=lambda _: None)
    await connection.execute("SET default_statistics_target = 1")
    for (table, column), rows in BEHIND.items():
        await connection.execute(f"ANALYZE {table}")
        plan = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE {column} = (SELECT {column} FROM {table} LIMIT 1)"
        )
        expected = json.loads(plan)[0]["Plan"]["Plan Rows"]
        assert rows / FACTOR_MAX <= expected <= rows * FACTOR_MAX, (table, column, expected)
    await connection.close()
