"""`chain_transactions`: what was signed, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.store import transaction_items
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.signers import Purpose
from payfirst.store.transaction_items import ItemOutcome
from payfirst.units import (
    ZERO_ADDRESS,
    AccountNonce,
    Address,
    BlockHash,
    BlockNumber,
    Gas,
    TxHash,
    Wei,
    hex_text,
)

# not_waiting: a transaction whose evidence waits is `sent`, but mined: nothing is to be done for it, its gas is paid.
NOT_WAITING = "NOT EXISTS (SELECT 1 FROM waiting_evidence w WHERE w.transaction_id = t.id)"

# store_transaction: the signed bytes, before anything is broadcast.
STORE_TRANSACTION = """
WITH stored AS (
    INSERT INTO chain_transactions (network, signer, account_nonce, purpose, signer_epoch, to_address, gas_limit,
                                    item_count)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    RETURNING id
)
INSERT INTO chain_attempts (hash, transaction_id, signed_bytes, max_fee_per_gas_wei, max_priority_fee_per_gas_wei,
                            is_noop)
SELECT $9, id, $10, $11, $12, $13 FROM stored
RETURNING transaction_id
"""

# count_unresolved: transactions of a signer that no block was seen to hold, and what they may cost at the most.
COUNT_UNRESOLVED = f"""
SELECT count(*) AS count, coalesce(sum(t.gas_limit * a.max_fee), 0) AS cost_wei
FROM chain_transactions t
CROSS JOIN LATERAL (
    SELECT max(max_fee_per_gas_wei) AS max_fee FROM chain_attempts WHERE transaction_id = t.id
) a
WHERE t.network = $1 AND t.signer = $2 AND t.state = 'sent' AND {NOT_WAITING}
"""

# unresolved_hashes: every hash under which an unresolved transaction could be mined, of any signer; and whether it was
# mined and its evidence waits.
UNRESOLVED_HASHES = f"""
SELECT a.hash, t.id, t.purpose, t.item_count, t.to_address, t.gas_limit, NOT {NOT_WAITING} AS waits
FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id
WHERE t.network = $1 AND t.state = 'sent'
"""

# our_hashes: which of these hashes are transactions of ours, resolved or not.
OUR_HASHES = "SELECT hash FROM chain_attempts WHERE hash = ANY($1::text[])"

# confirm_transactions: mined at depth, under one of its hashes.
CONFIRM_TRANSACTIONS = """
UPDATE chain_transactions t
SET state = 'confirmed', mined_hash = m.hash, mined_block = m.block, mined_block_hash = m.block_hash,
    succeeded = m.succeeded, gas_used = m.gas_used, gas_price_wei = m.gas_price, confirmed_at = now(),
    replace_requested_at = NULL
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bool[], $6::bigint[], $7::numeric[])
     AS m(id, hash, block, block_hash, succeeded, gas_used, gas_price)
WHERE t.id = m.id AND t.state = 'sent'
"""

# reopen_transactions: a reorg took the blocks above a fork; the same bytes are to be sent again.
REOPEN_TRANSACTIONS = """
UPDATE chain_transactions
SET state = 'sent', mined_hash = NULL, mined_block = NULL, mined_block_hash = NULL, succeeded = NULL,
    gas_used = NULL, gas_price_wei = NULL, confirmed_at = NULL
WHERE network = $1 AND state = 'confirmed' AND mined_block > $2
RETURNING id
"""

# displace_transactions: a final block holds another transaction under the nonce; these can never be mined.
DISPLACE_TRANSACTIONS = """
UPDATE chain_transactions SET state = 'displaced', confirmed_at = now()
WHERE id = ANY($1::bigint[]) AND state = 'sent'
RETURNING id
"""

# finalize_transactions: mined in a block that is final now.
FINALIZE_TRANSACTIONS = """
UPDATE chain_transactions SET state = 'final'
WHERE network = $1 AND state = 'confirmed' AND mined_block <= $2
"""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed transaction on its way into the store."""

    network: str
    signer: Address
    nonce: AccountNonce
    purpose: Purpose
    epoch: int
    to: Address
    gas_limit: int
    hash: TxHash
    signed: bytes
    max_fee: Wei
    max_priority_fee: Wei
    is_noop: bool = False


@dataclass(frozen=True, slots=True)
class Undone:
    """What displaced transactions carried: payments and units that had no effect through them."""

    transactions: list[int]
    payments: list[uuid.UUID]
    units: list[uuid.UUID]


_NO_GAS = Gas(0)


@dataclass(frozen=True, slots=True)
class UnresolvedHash:
    """A hash under which one of our transactions could be mined."""

    hash: TxHash
    transaction_id: int
    purpose: Purpose
    item_count: int
    to: Address = ZERO_ADDRESS
    waits: bool = False  # mined, and believed later
    gas_limit: Gas = _NO_GAS


@dataclass(frozen=True, slots=True)
class MinedTransaction:
    """One of our transactions in a block at depth."""

    id: int
    hash: TxHash
    block: BlockNumber
    block_hash: BlockHash
    succeeded: bool
    gas_used: int
    gas_price: Wei


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A signer's transactions without a known outcome, and what they may cost at the most."""

    count: int
    cost: Wei


async def store(connection: Connection, envelope: Envelope, *, item_count: int) -> int:
    """Store a signed transaction and its first attempt; returns its id."""
    stored: int = await connection.fetchval(
        STORE_TRANSACTION,
        envelope.network,
        hex_text(envelope.signer),
        envelope.nonce,
        envelope.purpose,
        envelope.epoch,
        hex_text(envelope.to),
        envelope.gas_limit,
        item_count,
        hex_text(envelope.hash),
        envelope.signed,
        envelope.max_fee,
        envelope.max_priority_fee,
        envelope.is_noop,
    )
    return stored


async def count_unresolved(connection: Connection, network: str, signer: Address) -> Unresolved:
    """How many transactions of a signer have no known outcome, and what they may cost."""
    row = await connection.fetchrow(COUNT_UNRESOLVED, network, hex_text(signer))
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Unresolved(row["count"], Wei(int(row["cost_wei"])))


async def unresolved_hashes(connection: Connection, network: str) -> dict[TxHash, UnresolvedHash]:
    """Every hash under which an unresolved transaction of ours could be mined."""
    rows = await connection.fetch(UNRESOLVED_HASHES, network)
    found = [
        UnresolvedHash(
            TxHash(bytes_of(row["hash"])),
            row["id"],
            row["purpose"],
            row["item_count"],
            address_of(row["to_address"]),
            row["waits"],
            Gas(row["gas_limit"]),
        )
        for row in rows
    ]
    return {u.hash: u for u in found}


async def ours(connection: Connection, hashes: Sequence[TxHash]) -> set[TxHash]:
    """Which of these transactions are ours."""
    rows = await connection.fetch(OUR_HASHES, [hex_text(h) for h in hashes])
    return {TxHash(bytes_of(row["hash"])) for row in rows}


async def confirm(connection: Connection, mined: Sequence[MinedTransaction], outcomes: Sequence[ItemOutcome]) -> int:
    """Mark transactions mined at depth, and their items that were not done by them; returns how many changed."""
    changed = await connection.execute(
        CONFIRM_TRANSACTIONS,
        [m.id for m in mined],
        [hex_text(m.hash) for m in mined],
        [m.block for m in mined],
        [hex_text(m.block_hash) for m in mined],
        [m.succeeded for m in mined],
        [m.gas_used for m in mined],
        [m.gas_price for m in mined],
    )
    await transaction_items.note_outcomes(connection, [o for o in outcomes if o.outcome != "done"])
    return int(changed.split()[-1])


async def reopen_above(connection: Connection, network: str, height: BlockNumber) -> list[int]:
    """A reorg took what was mined above `height`: those transactions are unresolved again."""
    ids = [row["id"] for row in await connection.fetch(REOPEN_TRANSACTIONS, network, height)]
    await transaction_items.forget_outcomes(connection, ids)
    return ids


async def finalize(connection: Connection, network: str, height: BlockNumber) -> None:
    """What was mined at or below `height` cannot be taken back."""
    await connection.execute(FINALIZE_TRANSACTIONS, network, height)


async def displace(connection: Connection, ids: Sequence[int]) -> Undone:
    """Another transaction has their account nonces for good; the caller returns what they carried."""
    displaced = [row["id"] for row in await connection.fetch(DISPLACE_TRANSACTIONS, ids)]
    payments, units = await transaction_items.undo(connection, displaced)
    return Undone(transactions=displaced, payments=payments, units=units)
