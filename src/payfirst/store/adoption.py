"""Transactions of our signers that the chain holds and the database does not: what is missing, and taking it in."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.never_reuse import where_held
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.signers import Purpose
from payfirst.units import (
    AccountNonce,
    Address,
    AuthorizationNonce,
    BlockNumber,
    Gas,
    MintId,
    TxHash,
    Wei,
    hex_text,
)

# missing_nonces: account nonces below the chain's count ($3), from the signer's first known one or $4, without a row.
MISSING_NONCES = """
WITH known AS (
    SELECT greatest($4, coalesce((SELECT min(account_nonce) FROM chain_transactions
                                  WHERE network = $1 AND signer = $2), s.next_nonce)) AS first
    FROM signers s WHERE s.network = $1 AND s.address = $2
)
SELECT n FROM known, generate_series(known.first, $3 - 1) AS n
WHERE NOT EXISTS (
    SELECT 1 FROM chain_transactions t WHERE t.network = $1 AND t.signer = $2 AND t.account_nonce = n)
ORDER BY n
"""

# unresolved_below: transactions whose nonce the chain has used ($3), and of which no outcome is known.
UNRESOLVED_BELOW = """
SELECT t.id, t.account_nonce, t.purpose, t.item_count, t.to_address, array_agg(a.hash) AS hashes,
       (array_agg(a.signed_bytes ORDER BY a.created_at) FILTER (WHERE NOT a.is_noop))[1] AS signed_bytes
FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id
WHERE t.network = $1 AND t.signer = $2 AND t.state = 'sent' AND t.account_nonce < $3
  AND NOT EXISTS (SELECT 1 FROM waiting_evidence w WHERE w.transaction_id = t.id)
GROUP BY t.id ORDER BY t.account_nonce
"""

# mined_below: the block of the newest resolved transaction below a nonce: those above it are in later blocks.
MINED_BELOW = """
SELECT mined_block FROM chain_transactions
WHERE network = $1 AND signer = $2 AND account_nonce < $3 AND mined_block IS NOT NULL
ORDER BY account_nonce DESC LIMIT 1
"""

# adopt_transaction: the row of a nonce that has none.
ADOPT_TRANSACTION = """
INSERT INTO chain_transactions (network, signer, account_nonce, purpose, signer_epoch, to_address, gas_limit,
                                item_count)
VALUES ($1, $2, $3, $4, 0, $5, $6, 0)
ON CONFLICT (network, signer, account_nonce) DO NOTHING
"""

# adopt_attempt: another hash of a nonce of ours, mined already. Any hash of a nonce settles its rows.
ADOPT_ATTEMPT = """
INSERT INTO chain_attempts (hash, transaction_id, signed_bytes, max_fee_per_gas_wei, max_priority_fee_per_gas_wei,
                            is_noop, broadcast_count, last_broadcast_at, adopted_at)
SELECT $4, t.id, $5, $6, $7, $8, 1, now(), now()
FROM chain_transactions t
WHERE t.network = $1 AND t.signer = $2 AND t.account_nonce = $3 AND t.state = 'sent'
ON CONFLICT (hash) DO NOTHING
RETURNING transaction_id
"""

# link_payments: the payments that an adopted transaction carried, if they are older than the loss ($4): a later one may
# be a stranger's, copied from the public calldata, and its money is another's.
LINK_PAYMENTS = f"""
INSERT INTO chain_transaction_items (transaction_id, position, payment_id)
SELECT $1, b.base + row_number() OVER (ORDER BY k.ordinality) - 1, p.id
FROM unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY AS k(payer, nonce, ordinality)
CROSS JOIN LATERAL (
    SELECT payment_id FROM authorizations WHERE {where_held("k.payer", "k.nonce", "$5", "$6::text")} OFFSET 0
) a
JOIN payment_queue p ON p.id = a.payment_id AND p.created_at <= $4,
     (SELECT coalesce(max(position) + 1, 0) AS base FROM chain_transaction_items WHERE transaction_id = $1) b
WHERE NOT EXISTS (SELECT 1 FROM chain_transaction_items i WHERE i.transaction_id = $1 AND i.payment_id = p.id)
"""

# link_mints: the units that an adopted transaction carried.
LINK_MINTS = """
INSERT INTO chain_transaction_items (transaction_id, position, queue_id)
SELECT $1, b.base + row_number() OVER (ORDER BY k.ordinality) - 1, m.id
FROM unnest($2::text[]) WITH ORDINALITY AS k(mint_id, ordinality) JOIN mint_queue m ON m.mint_id = k.mint_id,
     (SELECT coalesce(max(position) + 1, 0) AS base FROM chain_transaction_items WHERE transaction_id = $1) b
WHERE NOT EXISTS (SELECT 1 FROM chain_transaction_items i WHERE i.transaction_id = $1 AND i.queue_id = m.id)
"""

# count_items: as many as were linked.
COUNT_ITEMS = """
UPDATE chain_transactions
SET item_count = (SELECT count(*) FROM chain_transaction_items WHERE transaction_id = $1) WHERE id = $1
"""

# adopted_among: which of these hashes were adopted, and not stored before they were sent.
ADOPTED_AMONG = "SELECT hash FROM chain_attempts WHERE hash = ANY($1::text[]) AND adopted_at IS NOT NULL"

# carried: which payments the transactions of these hashes carry.
CARRIED = """
SELECT a.hash, i.payment_id FROM chain_attempts a JOIN chain_transaction_items i ON i.transaction_id = a.transaction_id
WHERE a.hash = ANY($1::text[]) AND i.payment_id IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A transaction whose nonce the chain has used, with every hash that is known of it.

    `signed`: bytes of one that is not a no-op; None where there are only such.
    """

    id: int
    nonce: AccountNonce
    purpose: Purpose
    item_count: int
    to: Address
    hashes: tuple[TxHash, ...]
    signed: bytes | None


@dataclass(frozen=True, slots=True)
class Adopted:
    """A mined transaction of a signer of ours, with what it was to do."""

    signer: Address
    nonce: AccountNonce
    purpose: Purpose
    to: Address
    gas_limit: Gas
    hash: TxHash
    signed: bytes
    max_fee: Wei
    max_priority_fee: Wei
    is_noop: bool
    payments: tuple[tuple[Address, AuthorizationNonce], ...]
    mints: tuple[MintId, ...]


async def missing_nonces(
    connection: Connection, network: str, signer: Address, *, chain_nonce: AccountNonce, from_nonce: int
) -> list[AccountNonce]:
    """The nonces below the chain's count that no transaction of the database has."""
    rows = await connection.fetch(MISSING_NONCES, network, hex_text(signer), chain_nonce, from_nonce)
    return [AccountNonce(row["n"]) for row in rows]


async def unresolved_below(
    connection: Connection, network: str, signer: Address, chain_nonce: AccountNonce
) -> list[Unresolved]:
    """The signer's transactions without an outcome whose nonces the chain has used."""
    rows = await connection.fetch(UNRESOLVED_BELOW, network, hex_text(signer), chain_nonce)
    return [
        Unresolved(
            row["id"],
            AccountNonce(row["account_nonce"]),
            row["purpose"],
            row["item_count"],
            address_of(row["to_address"]),
            tuple(TxHash(bytes_of(h)) for h in row["hashes"]),
            row["signed_bytes"],
        )
        for row in rows
    ]


async def mined_below(connection: Connection, network: str, signer: Address, nonce: AccountNonce) -> BlockNumber | None:
    """The block of the newest resolved transaction below `nonce`, None when there is none."""
    found = await connection.fetchval(MINED_BELOW, network, hex_text(signer), nonce)
    return None if found is None else BlockNumber(found)


async def adopt(
    connection: Connection, network: str, asset: Address, found: Adopted, *, cut: dt.datetime | None
) -> bool:
    """Take a mined transaction in; False when it is known, or its nonce was resolved under another hash.

    `cut`: payments that were made up to then may be its items; None: none may.
    """
    signer = hex_text(found.signer)
    await connection.execute(
        ADOPT_TRANSACTION, network, signer, found.nonce, found.purpose, hex_text(found.to), found.gas_limit
    )
    transaction_id = await connection.fetchval(
        ADOPT_ATTEMPT,
        network,
        signer,
        found.nonce,
        hex_text(found.hash),
        found.signed,
        found.max_fee,
        found.max_priority_fee,
        found.is_noop,
    )
    if transaction_id is None:
        return False
    if found.payments:
        payers, nonces = [p for p, _ in found.payments], [n for _, n in found.payments]
        await connection.execute(LINK_PAYMENTS, transaction_id, payers, nonces, cut, asset, network)
    if found.mints:
        await connection.execute(LINK_MINTS, transaction_id, [hex_text(m) for m in found.mints])
    await connection.execute(COUNT_ITEMS, transaction_id)
    return True


async def adopted(connection: Connection, hashes: Sequence[TxHash]) -> set[TxHash]:
    """Which of these transactions of ours were adopted."""
    rows = await connection.fetch(ADOPTED_AMONG, [hex_text(h) for h in hashes])
    return {TxHash(bytes_of(row["hash"])) for row in rows}


async def carried(connection: Connection, hashes: Sequence[TxHash]) -> set[tuple[TxHash, uuid.UUID]]:
    """Which payments each of these transactions carries."""
    rows = await connection.fetch(CARRIED, [hex_text(h) for h in hashes])
    return {(TxHash(bytes_of(row["hash"])), row["payment_id"]) for row in rows}
