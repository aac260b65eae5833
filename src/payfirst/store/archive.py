"""From the live tables to the history: payments that nothing can move any more, each with all its units.

Rows move one way only, payment and units in one commit, and the never-reuse key in `authorizations` stays. Whoever
looks for a payment looks in the live tables first and then in the history, and so never misses it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.lifecycle import PaymentStatus
from payfirst.store.database import Connection

# payment_columns: those of both tables, by name: a later migration may add to either.
PAYMENT_COLUMNS = (
    "id, payment_type, network, token_address, asset, payer, pay_to, amount, quantity, recipient, authorization_nonce,"
    " valid_after, valid_before, signature, status, finality, tx_hash, settled_block, settled_block_hash,"
    " settled_log_index, settled_by_us, error, error_code, result, accepted_height, supply_reserved, attempts,"
    " suspected_code, suspected_height, held_reason, next_attempt_at, lease_owner, lease_epoch, lease_until,"
    " created_at, processed_at, share_max"
)
# mint_columns: as payment_columns.
MINT_COLUMNS = (
    "id, payment_id, payment_status, unit, payment_tx_hash, network, token_address, recipient, mint_id, status,"
    " mint_tx_hash, minted_block, error, error_code, attempts, suspected_code, suspected_height, held_reason,"
    " next_attempt_at, lease_owner, lease_epoch, lease_until, created_at, processed_at"
)

# find_archivable: payments after an id, the oldest first, that nothing can move any more. Completed: in a final block,
# and so are the mints of all its units. Failed: a final block is past validBefore, so its money cannot come. No debt is
# open, no refund under way, and no transaction that carries it can still be mined or taken back by a reorg.
FIND_ARCHIVABLE = """
SELECT p.id, p.status, p.quantity
FROM payment_queue p, (
    SELECT h.final_height, max(b.block_time) AS final_time
    FROM chain_heads h JOIN chain_blocks b ON b.network = h.network AND b.height <= h.final_height
    WHERE h.network = $1 GROUP BY h.final_height
) f
WHERE p.network = $1 AND p.id > $2 AND p.id < $3 AND p.processed_at < $4
  AND (
    p.status = 'completed' AND p.finality = 'final' AND NOT EXISTS (
        SELECT FROM mint_queue m WHERE m.payment_id = p.id
          AND (m.status <> 'completed' OR m.minted_block IS NULL OR m.minted_block > f.final_height))
    OR p.status = 'failed' AND p.valid_before <= f.final_time
  )
  AND NOT EXISTS (
    SELECT FROM owed o LEFT JOIN refunds r ON r.owed_id = o.id
    WHERE o.payment_id = p.id AND (o.status = 'open' OR r.status NOT IN ('completed', 'cancelled')))
  AND NOT EXISTS (
    SELECT FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
    WHERE i.payment_id = p.id AND t.state IN ('sent', 'confirmed'))
  AND NOT EXISTS (
    SELECT FROM mint_queue m JOIN chain_transaction_items i ON i.queue_id = m.id
    JOIN chain_transactions t ON t.id = i.transaction_id
    WHERE m.payment_id = p.id AND t.state IN ('sent', 'confirmed'))
ORDER BY p.id LIMIT $5
"""

# lock_archivable: the same, held until the transaction ends. A row that someone holds is left for another time.
LOCK_ARCHIVABLE = FIND_ARCHIVABLE + "FOR UPDATE OF p SKIP LOCKED"

# move_mints: the units first, because the foreign key wants their payment. The deferred trigger that counts units finds
# at COMMIT that the payment has left with them.
MOVE_MINTS = f"""
WITH gone AS (DELETE FROM mint_queue WHERE payment_id = ANY($1::uuid[]) RETURNING {MINT_COLUMNS})
INSERT INTO mint_history ({MINT_COLUMNS}) SELECT {MINT_COLUMNS} FROM gone
"""

# move_payments: and the payments that the caller has locked.
MOVE_PAYMENTS = f"""
WITH gone AS (DELETE FROM payment_queue WHERE id = ANY($1::uuid[]) RETURNING {PAYMENT_COLUMNS})
INSERT INTO payment_history ({PAYMENT_COLUMNS}) SELECT {PAYMENT_COLUMNS} FROM gone
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """What was found or moved; `last` is the id to go on after, None when there is no more."""

    completed: int
    failed: int
    units: int
    last: uuid.UUID | None


@dataclass(frozen=True, slots=True)
class Span:
    """Which payments are looked at: accepted with ids in between, and not changed since `before`."""

    network: str
    after: uuid.UUID
    below: uuid.UUID
    before: dt.datetime


async def find(connection: Connection, span: Span, *, limit: int) -> Batch:
    """Count what a batch would move."""
    rows = await connection.fetch(FIND_ARCHIVABLE, span.network, span.after, span.below, span.before, limit)
    return _batch([(row["id"], row["status"], row["quantity"]) for row in rows], limit)


async def move(connection: Connection, span: Span, *, limit: int) -> Batch:
    """Move up to `limit` payments with their units, in the caller's transaction. Payments are locked first."""
    rows = await connection.fetch(LOCK_ARCHIVABLE, span.network, span.after, span.below, span.before, limit)
    ids = [row["id"] for row in rows]
    if ids:
        await connection.execute(MOVE_MINTS, ids)
        await connection.execute(MOVE_PAYMENTS, ids)
    return _batch([(row["id"], row["status"], row["quantity"]) for row in rows], limit)


def _batch(rows: Sequence[tuple[uuid.UUID, str, int]], limit: int) -> Batch:
    completed = [quantity for _, status, quantity in rows if status == PaymentStatus.COMPLETED]
    return Batch(
        completed=len(completed),
        failed=len(rows) - len(completed),
        units=sum(completed),
        last=rows[-1][0] if len(rows) == limit else None,
    )
