"""`chain_transaction_items`: what each transaction carries, and what of it was not done."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, MintId

# store_payment_items: which payments a transaction carries, in the order of its calls.
STORE_PAYMENT_ITEMS = """
INSERT INTO chain_transaction_items (transaction_id, position, payment_id)
SELECT $1, ordinality - 1, id FROM unnest($2::uuid[]) WITH ORDINALITY AS i(id, ordinality)
"""

# store_mint_items: which units a transaction carries, in the order of its calldata.
STORE_MINT_ITEMS = """
INSERT INTO chain_transaction_items (transaction_id, position, queue_id)
SELECT $1, ordinality - 1, id FROM unnest($2::uuid[]) WITH ORDINALITY AS i(id, ordinality)
"""

# store_refund_items: which refunds a transaction carries, in the order of its calls.
STORE_REFUND_ITEMS = """
INSERT INTO chain_transaction_items (transaction_id, position, refund_id)
SELECT $1, ordinality - 1, id FROM unnest($2::uuid[]) WITH ORDINALITY AS i(id, ordinality)
"""

# payment_items: the payments of some transactions, with the key by which evidence names them. Each is looked up by its
# id (OFFSET 0 keeps it so): a plan that was made for a smaller table reads all of it.
PAYMENT_ITEMS = """
SELECT i.transaction_id, i.position, p.id, p.payer, p.authorization_nonce
FROM chain_transaction_items i
CROSS JOIN LATERAL (SELECT id, payer, authorization_nonce FROM payment_queue WHERE id = i.payment_id OFFSET 0) p
WHERE i.transaction_id = ANY($1::bigint[])
"""

# mint_items: the units of some transactions, with the id by which evidence names them; as payment_items.
MINT_ITEMS = """
SELECT i.transaction_id, i.position, m.id, m.mint_id, m.token_address
FROM chain_transaction_items i
CROSS JOIN LATERAL (SELECT id, mint_id, token_address FROM mint_queue WHERE id = i.queue_id OFFSET 0) m
WHERE i.transaction_id = ANY($1::bigint[])
"""

# refund_items: the refunds of some transactions, with the nonce by which evidence names them.
REFUND_ITEMS = """
SELECT i.transaction_id, i.position, r.id, r.authorization_nonce, r.beneficiary, r.amount
FROM chain_transaction_items i JOIN refunds r ON r.id = i.refund_id
WHERE i.transaction_id = ANY($1::bigint[])
"""

# note_outcomes: which items of a mined transaction were not done by it. The others, nearly all, are not written again:
# an item without an outcome is open while its transaction is `sent`, and done when that is mined.
NOTE_OUTCOMES = """
UPDATE chain_transaction_items i SET outcome = o.outcome
FROM unnest($1::bigint[], $2::int[], $3::text[]) AS o(transaction_id, position, outcome)
WHERE i.transaction_id = o.transaction_id AND i.position = o.position
"""

# forget_outcomes: what items of reopened transactions came to is open again.
FORGET_OUTCOMES = """
UPDATE chain_transaction_items SET outcome = NULL WHERE transaction_id = ANY($1::bigint[])
"""

# items_undone: what displaced transactions carried had no effect through them.
ITEMS_UNDONE = """
UPDATE chain_transaction_items SET outcome = 'reverted' WHERE transaction_id = ANY($1::bigint[])
RETURNING payment_id, queue_id
"""


@dataclass(frozen=True, slots=True)
class PaymentItem:
    """One payment in one transaction."""

    transaction_id: int
    position: int
    payment_id: uuid.UUID
    payer: Address
    nonce: AuthorizationNonce


@dataclass(frozen=True, slots=True)
class MintItem:
    """One unit in one transaction."""

    transaction_id: int
    position: int
    queue_id: uuid.UUID
    mint_id: MintId
    token: Address


@dataclass(frozen=True, slots=True)
class RefundItem:
    """One refund in one transaction."""

    transaction_id: int
    position: int
    refund_id: uuid.UUID
    nonce: AuthorizationNonce
    beneficiary: Address
    amount: AtomicAmount


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item: `done`, `reverted`, or done `elsewhere` (in another transaction)."""

    transaction_id: int
    position: int
    outcome: str


async def store_payment_items(connection: Connection, transaction_id: int, ids: Sequence[uuid.UUID]) -> None:
    """Name the payments that a transaction carries, in order."""
    await connection.execute(STORE_PAYMENT_ITEMS, transaction_id, ids)


async def store_mint_items(connection: Connection, transaction_id: int, ids: Sequence[uuid.UUID]) -> None:
    """Name the units that a transaction carries, in order."""
    await connection.execute(STORE_MINT_ITEMS, transaction_id, ids)


async def store_refund_items(connection: Connection, transaction_id: int, ids: Sequence[uuid.UUID]) -> None:
    """Name the refunds that a transaction carries, in order."""
    await connection.execute(STORE_REFUND_ITEMS, transaction_id, ids)


async def payment_items(connection: Connection, transaction_ids: Sequence[int]) -> list[PaymentItem]:
    """The payments that these transactions carry."""
    rows = await connection.fetch(PAYMENT_ITEMS, transaction_ids)
    return [
        PaymentItem(
            row["transaction_id"],
            row["position"],
            row["id"],
            address_of(row["payer"]),
            AuthorizationNonce(bytes_of(row["authorization_nonce"])),
        )
        for row in rows
    ]


async def mint_items(connection: Connection, transaction_ids: Sequence[int]) -> list[MintItem]:
    """The units that these transactions carry."""
    rows = await connection.fetch(MINT_ITEMS, transaction_ids)
    return [
        MintItem(
            row["transaction_id"],
            row["position"],
            row["id"],
            MintId(bytes_of(row["mint_id"])),
            address_of(row["token_address"]),
        )
        for row in rows
    ]


async def refund_items(connection: Connection, transaction_ids: Sequence[int]) -> list[RefundItem]:
    """The refunds that these transactions carry; one whose row was lost is absent."""
    rows = await connection.fetch(REFUND_ITEMS, transaction_ids)
    return [
        RefundItem(
            row["transaction_id"],
            row["position"],
            row["id"],
            AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            address_of(row["beneficiary"]),
            AtomicAmount(int(row["amount"])),
        )
        for row in rows
    ]


async def note_outcomes(connection: Connection, outcomes: Sequence[ItemOutcome]) -> None:
    """Remember what mined transactions did not do of what they carried."""
    if outcomes:
        await connection.execute(
            NOTE_OUTCOMES,
            [o.transaction_id for o in outcomes],
            [o.position for o in outcomes],
            [o.outcome for o in outcomes],
        )


async def forget_outcomes(connection: Connection, transaction_ids: Sequence[int]) -> None:
    """What these transactions carried is open again."""
    await connection.execute(FORGET_OUTCOMES, transaction_ids)


async def undo(connection: Connection, transaction_ids: Sequence[int]) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """What these transactions carried had no effect through them; returns its payments and its units."""
    undone = await connection.fetch(ITEMS_UNDONE, transaction_ids)
    return (
        [row["payment_id"] for row in undone if row["payment_id"] is not None],
        [row["queue_id"] for row in undone if row["queue_id"] is not None],
    )
