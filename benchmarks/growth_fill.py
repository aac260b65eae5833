"""A database as trade would have left it: so many, 100 a second until it begins, settled and minted in batches.

Indexes and keys are dropped, the rows written in their order, and indexes and keys made again: PostgreSQL checks each
of them as it makes it. What triggers would have checked is asked at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

NETWORK = "eip155:84532"
TOKEN = "0x" + "70" * 20
ASSET = "0x" + "a5" * 20
PAY_TO = "0x" + "5e" * 20
SIGNER = "0x" + "51" * 20
PAYMENTS_A_SECOND = 100
# What is settled in one transaction at that rate, while the next gathers for settle.linger_ms: end to end with
# `--rate 100` had 10 when it was run last (13 and 17 before, on other days); `--a-transaction` says another.
PAYMENTS_A_TRANSACTION = 10
UNITS_A_TRANSACTION = 250
# Payments written by one statement, so that it sorts in little room and says how far it has come.
WRITTEN_AT_ONCE = 1_000_000
TABLES = (
    "payment_queue", "authorizations", "mint_queue", "chain_transactions", "chain_attempts", "chain_transaction_items",
)  # fmt: skip

# Of payment i: when it was accepted, its id (uuid v7 of that moment), its authorization nonce, payer and transaction.
_PAYMENTS = """
SELECT i, at, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
       || '7' || substr(md5(i::text), 1, 3) || 'a' || substr(md5(i::text), 4, 15))::uuid AS id,
       '0x' || md5(i::text) || md5('n' || i) AS nonce,
       '0x' || substr(md5('p' || i % ({n} / 10 + 1)), 1, 32) || '00000000' AS payer,
       '0x5e' || lpad(to_hex(i / {batch}), 62, '0') AS tx
FROM (
    SELECT i, '{now}'::timestamptz - ({n} - i) * interval '1 second' / {rate} AS at
    FROM generate_series({{first}}::bigint, {{last}}) AS i
) g
"""

ROWS = {
    "chain_heads": """
INSERT INTO chain_heads (network, head_height, head_hash, head_time, cursor_height, cursor_hash, cursor_time,
                         final_height)
VALUES ('{network}', {n} + 10, '0x', extract(epoch FROM now()), {n} + 10, '0x', extract(epoch FROM now()), {n} + 9)
ON CONFLICT DO NOTHING
""",
    "chain_blocks": "INSERT INTO chain_blocks VALUES ('{network}', {n} + 9, '0x', extract(epoch FROM now()))",
    "tokens": """
INSERT INTO tokens (network, address, price, max_mint_count, minted, synced_height, synced_at)
VALUES ('{network}', '{token}', 10000, 1000000000000, {n}, 1, now())
""",
    "signers": """
INSERT INTO signers (network, address, purpose, next_nonce) VALUES ('{network}', '{signer}', 'settle', 1000000000)
""",
    "payment_queue": """
INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,
    authorization_nonce, valid_after, valid_before, signature, accepted_height, created_at, processed_at, status,
    finality, tx_hash, settled_block, settled_block_hash, settled_log_index, settled_by_us, attempts, result)
SELECT id, '{network}', '{token}', '{asset}', payer, '{pay_to}', 10000 * {units}, {units}, payer, nonce, 0,
       extract(epoch FROM at + interval '1 hour')::bigint, decode(repeat(md5(nonce), 4) || 'ab', 'hex'), i / {rate}, at,
       at + interval '2 seconds', 'completed', 'final', tx, i / {rate} + 2,
       '0xb1' || lpad(to_hex(i / {rate}), 62, '0'), (i % {rate}) * 2, true, 1, '{{{{"queueIds": []}}}}'
FROM ({payments}) p ORDER BY i
""",
    "authorizations": """
INSERT INTO authorizations SELECT network, decode(substr(asset, 3), 'hex'), decode(substr(payer, 3), 'hex'),
    decode(substr(authorization_nonce, 3), 'hex'), id FROM payment_queue
""",
    "mint_queue": """
INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient, mint_id, status,
    mint_tx_hash, minted_block, created_at, processed_at, attempts)
SELECT (substr(id::text, 1, 19) || 'b' || substr(md5(u::text || i), 1, 3) || '-' || substr(md5(u::text || i), 4, 12))
       ::uuid, id, u, tx, '{network}', '{token}', payer, '0x' || md5('m' || i || ' ' || u) || md5(i || 'm' || u),
       'completed', '0x3e' || lpad(to_hex((i * {units} + u) / {mints_batch}), 62, '0'), i / {rate} + 4,
       at + interval '2 seconds', at + interval '4 seconds', 1
FROM ({payments}) p CROSS JOIN generate_series(0, {units} - 1) AS u ORDER BY i, u
""",
    "chain_transactions": """
INSERT INTO chain_transactions (network, signer, account_nonce, purpose, state, signer_epoch, to_address, gas_limit,
    item_count, mined_hash, mined_block, mined_block_hash, succeeded, gas_used, gas_price_wei, created_at, confirmed_at)
SELECT '{network}', '{signer}', b * 2 + m, CASE m WHEN 0 THEN 'settle' ELSE 'mint' END, 'final', 1, '{asset}', 9000000,
       CASE m WHEN 0 THEN {batch} ELSE {mints_batch} END,
       '0x' || CASE m WHEN 0 THEN '5e' ELSE '3e' END || lpad(to_hex(b), 62, '0'), b * {batch} / {rate} + 2,
       '0x', true, 5000000, 1000000, now(), now()
FROM generate_series(0::bigint, greatest({n} / {batch}, {n} * {units} / {mints_batch})) AS b, generate_series(0, 1) AS m
WHERE m = 0 AND b <= {n} / {batch} OR m = 1 AND b <= {n} * {units} / {mints_batch}
""",
    "chain_attempts": """
INSERT INTO chain_attempts (hash, transaction_id, signed_bytes, max_fee_per_gas_wei, max_priority_fee_per_gas_wei,
    broadcast_count, last_broadcast_at)
SELECT mined_hash, id, decode(repeat(md5(id::text), item_count * 12), 'hex'), 1, 1, 1, now() FROM chain_transactions
""",
    "chain_transaction_items": """
INSERT INTO chain_transaction_items (transaction_id, position, payment_id, queue_id, outcome)
SELECT t.id, p.position, p.payment_id, p.queue_id, 'done' FROM (
    SELECT tx_hash AS tx, row_number() OVER (PARTITION BY tx_hash ORDER BY id) - 1 AS position, id AS payment_id,
           NULL::uuid AS queue_id FROM payment_queue
    UNION ALL
    SELECT mint_tx_hash, row_number() OVER (PARTITION BY mint_tx_hash ORDER BY id) - 1, NULL, id FROM mint_queue
) p JOIN chain_transactions t ON t.mined_hash = p.tx
""",
}

# What the triggers demand of every row.
IS_WHOLE = """
SELECT count(*) FROM payment_queue p
LEFT JOIN (SELECT payment_id, count(*) AS n, max(unit) AS last FROM mint_queue GROUP BY 1) m ON m.payment_id = p.id
WHERE p.status = 'completed' AND (m.n IS DISTINCT FROM p.quantity OR m.last IS DISTINCT FROM p.quantity - 1)
"""

CONSTRAINTS = """
SELECT conname AS name, conrelid::regclass::text AS of, pg_get_constraintdef(oid) AS definition, contype::text AS kind
FROM pg_constraint WHERE conrelid = ANY($1::text[]::regclass[]) AND contype IN ('p', 'u', 'f')
ORDER BY contype = 'f', contype
"""
INDEXES = """
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY($1::text[]::regclass[])
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
"""


@dataclass(frozen=True, slots=True)
class History:
    """How much trade there was."""

    payments: int
    units: int  # of each payment
    a_transaction: int = PAYMENTS_A_TRANSACTION  # payments settled in one
    network: str = NETWORK


async def fill(connection: asyncpg.Connection[asyncpg.Record], history: History, *, say: Any = print) -> None:
    """Write the rows. Raises RuntimeError when they are not what the triggers demand."""
    values: dict[str, Any] = {
        "n": history.payments, "units": history.units, "rate": PAYMENTS_A_SECOND, "batch": history.a_transaction,
        "mints_batch": UNITS_A_TRANSACTION, "network": history.network, "token": TOKEN, "asset": ASSET,
        "pay_to": PAY_TO, "signer": SIGNER,
    }  # fmt: skip
    # One moment for all statements, because ids begin with the time.
    values["now"] = str(await connection.fetchval("SELECT now()"))
    values["payments"] = _PAYMENTS.format(**values)
    for setting in ("maintenance_work_mem = '1GB'", "work_mem = '256MB'", "synchronous_commit = off", "jit = off"):
        await connection.execute(f"SET {setting}")
    constraints = await connection.fetch(CONSTRAINTS, TABLES)
    indexes = await connection.fetch(INDEXES, TABLES)
    if history.payments:
        for row in reversed(constraints):
            await connection.execute(f"ALTER TABLE {row['of']} DROP CONSTRAINT {row['name']} CASCADE")
        for row in indexes:
            await connection.execute(f"DROP INDEX {row['name']}")
        for table in ("payment_queue", "mint_queue"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    for table, statement in ROWS.items():
        if history.payments or table not in TABLES:
            text = statement.format(**values)
            if values["payments"] not in text:
                say(f"· {table}: {await connection.execute(text, timeout=None)}")
                continue
            for first in range(1, history.payments + 1, WRITTEN_AT_ONCE):
                last = min(first + WRITTEN_AT_ONCE - 1, history.payments)
                done = await connection.execute(text.format(first=first, last=last), timeout=None)
                say(f"· {table}, payments to {last:,}: {done}")
    if history.payments:
        for row in constraints:
            await connection.execute(f"ALTER TABLE {row['of']} ADD CONSTRAINT {row['name']} {row['definition']}")
            say(f"· {row['of']}: {row['name']}")
        for row in indexes:
            await connection.execute(row["definition"])
            say(f"· index {row['name']}")
        for table in ("payment_queue", "mint_queue"):
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        say("· keys and indexes are made and checked")
        broken = await connection.fetchval(IS_WHOLE)
        if broken:
            raise RuntimeError(f"{broken} payments do not have their units: the fill is wrong")
    if history.payments:  # nothing looks at empty tables by itself, and a new shop's have never been analyzed
        await connection.execute("VACUUM (ANALYZE, FREEZE)")
    await connection.execute("CHECKPOINT")
