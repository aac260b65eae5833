"""Rows as API and workers would have left them, of any age, without a chain."""

from __future__ import annotations

import uuid

import asyncpg

NETWORK = "eip155:84532"
ADDRESS = "0x" + "ab" * 20
HASH = "0x" + "cd" * 32

PAYMENT = """
INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,
    authorization_nonce, valid_after, valid_before, signature, status, accepted_height, tx_hash, settled_block,
    settled_block_hash, settled_log_index, error, error_code, held_reason, created_at, processed_at)
VALUES ($1, $2, $3, $3, $3, $3, 10000, 1, $3, $4, 0, 9999999999, '', $5::text, 1,
    CASE WHEN $5::text IN ('sent', 'completed') THEN $6 END, CASE WHEN $5::text = 'completed' THEN 1 END,
    CASE WHEN $5::text = 'completed' THEN $4 END, CASE WHEN $5::text = 'completed' THEN 1 END, $7, $8, $9,
    now() - $10::float8 * interval '1 second', now() - $11::float8 * interval '1 second')
"""
UNIT = """
INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient, mint_id, status,
    mint_tx_hash, created_at, processed_at)
VALUES ($1, $2, 0, $3, $4, $5, $5, $6, $7::text, CASE WHEN $7::text IN ('sent', 'completed') THEN $3 END,
    now() - $8::float8 * interval '1 second', now() - $9::float8 * interval '1 second')
"""


async def payment(
    pool: asyncpg.Pool,
    status: str,
    *,
    accepted_s: float = 0.0,
    processed_s: float | None = None,
    minted: str = "completed",
    minted_s: float | None = None,
    code: str | None = None,
    held: str | None = None,
) -> uuid.UUID:
    """A payment accepted and processed so many seconds ago; a completed one with its unit, in status `minted`."""
    payment_id, other = uuid.uuid4(), uuid.uuid4()
    at = accepted_s if processed_s is None else processed_s
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            PAYMENT, payment_id, NETWORK, ADDRESS, f"0x{payment_id.hex * 2}", status, HASH,
            None if code is None else f"a sentence about {code}", code, held, accepted_s, at,
        )  # fmt: skip
        if status == "completed":
            await connection.execute(
                UNIT, other, payment_id, HASH, NETWORK, ADDRESS, f"0x{other.hex * 2}", minted, at,
                at if minted_s is None else minted_s,
            )  # fmt: skip
    return payment_id
