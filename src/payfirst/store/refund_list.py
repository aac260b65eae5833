"""`refunds` beside their debts, for people: what is owed to buyers, and how far each refund is. Only reads."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from payfirst.lifecycle import RefundStatus
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import Address, AtomicAmount, TxHash

# list_refunds: debts to buyers with their refunds, newest first; an open debt without one says what it waits for.
LIST_REFUNDS = """
SELECT o.id AS owed_id, o.payment_id, o.unit, o.reason, o.amount, o.beneficiary, o.created_at, r.id, r.treasury,
       r.tx_hash, r.approved_by, r.next_attempt_at, r.processed_at, coalesce(r.status, 'owed') AS status,
       CASE WHEN r.id IS NOT NULL THEN r.error
            WHEN o.payment_id IS NULL THEN 'no payment of this database is behind it, so it is never refunded by'
                ' itself: pay it by hand, then payfirst owed resolve'
            WHEN m.id IS NULL OR p.status <> 'completed' THEN 'it is owed for no unit of a paid payment, so it is never'
                ' refunded by itself: pay it by hand, then payfirst owed resolve'
            WHEN EXISTS (
                SELECT 1 FROM owed s WHERE s.payment_id = o.payment_id AND s.unit = o.unit
                  AND (s.status = 'refunded' OR s.resolution = 'by_hand'))
            THEN 'the unit is settled already, by another debt: payfirst owed resolve'
            WHEN p.held_reason IS NOT NULL THEN 'the payment is on hold'
            WHEN p.finality <> 'final' THEN 'the payment is not in a final block yet'
            WHEN m.status <> 'owed' THEN 'the unit is to be minted'
            WHEN EXISTS (
                SELECT 1 FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
                WHERE i.queue_id = m.id AND t.state IN ('sent', 'confirmed'))
            THEN 'a transaction that was to mint it is not final yet'
            ELSE 'no worker with a treasury has seen it yet' END AS why
FROM owed o LEFT JOIN refunds r ON r.owed_id = o.id
LEFT JOIN payment_queue p ON p.id = o.payment_id
LEFT JOIN mint_queue m ON m.payment_id = o.payment_id AND m.unit = o.unit
WHERE o.network = $1 AND o.direction = 'to_buyer' AND (r.id IS NOT NULL OR o.status = 'open')
  AND ($2::text IS NULL OR coalesce(r.status, 'owed') = $2)
ORDER BY o.id DESC LIMIT $3
"""

# show_refunds: the refunds of payments that a buyer is shown.
SHOW_REFUNDS = """
SELECT o.payment_id, o.unit, r.status, r.amount, r.tx_hash
FROM owed o JOIN refunds r ON r.owed_id = o.id
WHERE o.payment_id = ANY($1::uuid[]) AND r.status NOT IN ('cancelled', 'impossible')
"""

# status_of: how far these refunds are.
STATUS_OF = "SELECT id, status FROM refunds WHERE network = $1 AND id = ANY($2::uuid[])"


@dataclass(frozen=True, slots=True)
class ListedRefund:
    """A debt to a buyer with its refund; `id` is None while there is none, `status` is `owed` then."""

    id: uuid.UUID | None
    owed_id: int
    payment_id: uuid.UUID | None
    unit: int | None
    reason: str
    amount: AtomicAmount
    beneficiary: Address
    status: str
    why: str | None
    treasury: Address | None
    tx_hash: TxHash | None
    approved_by: str | None
    created_at: dt.datetime
    processed_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ShownRefund:
    """How far the refund of one unit is."""

    payment_id: uuid.UUID
    unit: int | None
    status: RefundStatus
    amount: AtomicAmount
    tx_hash: TxHash | None


async def read(connection: Connection, network: str, *, status: str | None, limit: int) -> list[ListedRefund]:
    """Debts to buyers with their refunds, newest first; one `status` only, or all."""
    return [_listed(row) for row in await connection.fetch(LIST_REFUNDS, network, status, limit)]


async def show(connection: Connection, payment_ids: Sequence[uuid.UUID]) -> list[ShownRefund]:
    """The refunds of payments, in no order."""
    return [
        ShownRefund(
            row["payment_id"],
            row["unit"],
            RefundStatus(row["status"]),
            AtomicAmount(int(row["amount"])),
            None if row["tx_hash"] is None else TxHash(bytes_of(row["tx_hash"])),
        )
        for row in await connection.fetch(SHOW_REFUNDS, payment_ids)
    ]


async def status_of(connection: Connection, network: str, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """How far these refunds are; ids of nothing are absent."""
    return {row["id"]: row["status"] for row in await connection.fetch(STATUS_OF, network, ids)}


def _listed(row: asyncpg.Record) -> ListedRefund:
    return ListedRefund(
        id=row["id"],
        owed_id=row["owed_id"],
        payment_id=row["payment_id"],
        unit=row["unit"],
        reason=row["reason"],
        amount=AtomicAmount(int(row["amount"])),
        beneficiary=address_of(row["beneficiary"]),
        status=row["status"],
        why=row["why"],
        treasury=None if row["treasury"] is None else address_of(row["treasury"]),
        tx_hash=None if row["tx_hash"] is None else TxHash(bytes_of(row["tx_hash"])),
        approved_by=row["approved_by"],
        created_at=row["created_at"],
        processed_at=row["processed_at"],
    )
