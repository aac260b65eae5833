"""What workers do to payments, as far as the API sees it: their end results, written at once."""

from __future__ import annotations

import uuid

from payfirst.store.archive import PAYMENT_COLUMNS
from payfirst.store.database import Pool
from payfirst.units import MintId, TxHash, hex_text, keccak

PAYMENT_TX = TxHash(b"\xaa" * 32)
MINT_TX = TxHash(b"\xbb" * 32)

SEND = "UPDATE payment_queue SET status = 'sent', tx_hash = $2, processed_at = now() WHERE id = $1"
FAIL = "UPDATE payment_queue SET status = 'failed', error = $2, error_code = $3, processed_at = now() WHERE id = $1"
COMPLETE = """
UPDATE payment_queue
SET status = 'completed', tx_hash = $2, settled_block = 101, settled_block_hash = $3, settled_log_index = 1,
    result = jsonb_build_object('queueIds', $4::text[], 'quantity', quantity), processed_at = now()
WHERE id = $1
"""
ADD_UNIT = """
INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient, mint_id, status)
SELECT $2, id, $3, $4, network, token_address, recipient, $5, 'pending' FROM payment_queue WHERE id = $1
"""
MINT_UNIT = "UPDATE mint_queue SET status = 'completed', mint_tx_hash = $2, processed_at = now() WHERE id = $1"
ARCHIVE = f"""
INSERT INTO payment_history ({PAYMENT_COLUMNS}) SELECT {PAYMENT_COLUMNS} FROM payment_queue WHERE id = $1
"""
FORGET = "DELETE FROM payment_queue WHERE id = $1"


async def send(pool: Pool, payment_id: str) -> None:
    """The payment's transaction was stored and broadcast."""
    await pool.execute(SEND, uuid.UUID(payment_id), hex_text(PAYMENT_TX))


async def fail(pool: Pool, payment_id: str, *, error: str | None, code: str | None) -> None:
    """The payment cannot be settled."""
    await pool.execute(FAIL, uuid.UUID(payment_id), error, code)


async def complete(pool: Pool, payment_id: str, *, quantity: int) -> list[str]:
    """The payment was found at depth; gives the queue ids of its units, the first of which is minted."""
    queue_ids = [str(uuid.uuid5(uuid.UUID(payment_id), str(unit))) for unit in range(quantity)]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            COMPLETE, uuid.UUID(payment_id), hex_text(PAYMENT_TX), hex_text(b"\xcc" * 32), queue_ids
        )
        for unit, queue_id in enumerate(queue_ids):
            await connection.execute(
                ADD_UNIT, uuid.UUID(payment_id), uuid.UUID(queue_id), unit, hex_text(PAYMENT_TX),
                hex_text(mint_id_of(queue_id)),
            )  # fmt: skip
        await connection.execute(MINT_UNIT, uuid.UUID(queue_ids[0]), hex_text(MINT_TX))
    return queue_ids


async def archive(pool: Pool, payment_id: str) -> None:
    """A failed payment grew old and was moved."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ARCHIVE, uuid.UUID(payment_id))
        await connection.execute(FORGET, uuid.UUID(payment_id))


def mint_id_of(queue_id: str) -> MintId:
    """Any 32 bytes that no other unit has."""
    return MintId(keccak(queue_id.encode()))
