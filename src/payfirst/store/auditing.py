"""The rows that an audit puts beside the chain, and the repairs that have no other home."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from payfirst.store.database import Connection
from payfirst.store.never_reuse import where_held
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    MintId,
    hex_text,
)

# credited: which of these transfer logs completed payments name.
CREDITED = """
SELECT p.settled_block_hash, p.settled_log_index, p.payer, p.amount
FROM unnest($2::text[], $3::int[]) AS k(block_hash, log_index)
JOIN payment_queue p ON p.network = $1 AND p.settled_block_hash = k.block_hash AND p.settled_log_index = k.log_index
WHERE p.status = 'completed'
"""

# unsettled_pay_tos: where unsettled payments pay to; the configured address may have changed since.
UNSETTLED_PAY_TOS = "SELECT DISTINCT pay_to FROM payment_queue WHERE network = $1 AND status IN ('pending', 'sent')"

# claimed: which authorizations any payment holds, live or archived.
CLAIMED = f"""
SELECT k.payer, k.nonce AS authorization_nonce
FROM unnest($3::bytea[], $4::bytea[]) AS k(payer, nonce)
CROSS JOIN LATERAL (
    SELECT payment_id FROM authorizations WHERE {where_held("k.payer", "k.nonce", "$2", "$1::text")} OFFSET 0
) a
"""

# evidenced: the completed payments that name a transfer in these blocks; what a reorg took is followed elsewhere.
EVIDENCED = """
SELECT id, settled_block, settled_block_hash, settled_log_index FROM payment_queue
WHERE network = $1 AND asset = $2 AND pay_to = ANY($3::text[]) AND status = 'completed'
  AND finality IN ('open', 'final') AND settled_block BETWEEN $4 AND $5
"""

# units_of_ids: the rows of these mint ids.
UNITS_OF_IDS = """
SELECT id, mint_id, token_address, status, minted_block FROM mint_queue WHERE mint_id = ANY($1::text[])
"""

# archived_ids: which of these mint ids have moved to the history. Reads all of it: only for ids that nobody knows.
ARCHIVED_IDS = "SELECT mint_id FROM mint_history WHERE mint_id = ANY($1::text[])"

# units_minted_in: the units that are said to have been minted in these blocks.
UNITS_MINTED_IN = """
SELECT id, mint_id, token_address, status, minted_block FROM mint_queue
WHERE network = $1 AND status = 'completed' AND minted_block BETWEEN $2 AND $3
"""

# units_missing: completed payments of these blocks with fewer mint rows than units.
UNITS_MISSING = """
SELECT p.id FROM payment_queue p
WHERE p.network = $1 AND p.status = 'completed' AND p.payment_type = 'mint' AND p.settled_block BETWEEN $2 AND $3
  AND (SELECT count(*) FROM mint_queue m WHERE m.payment_id = p.id) <> p.quantity
"""

# stranded_payments: sent, and carried by no transaction whose outcome is open. One statement sees one moment.
STRANDED_PAYMENTS = """
SELECT p.id, p.tx_hash FROM payment_queue p
WHERE p.network = $1 AND p.status = 'sent' AND NOT EXISTS (
    SELECT 1 FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
    WHERE i.payment_id = p.id AND t.state = 'sent')
LIMIT $2
"""

# stranded_mints: as stranded_payments.
STRANDED_MINTS = """
SELECT m.id, m.mint_tx_hash AS tx_hash FROM mint_queue m
WHERE m.network = $1 AND m.status = 'sent' AND NOT EXISTS (
    SELECT 1 FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
    WHERE i.queue_id = m.id AND t.state = 'sent')
LIMIT $2
"""

# return_stranded: back to the queue, as long as it still names the transaction that does not carry it.
# moves: sent -> pending
RETURN_STRANDED = """
UPDATE payment_queue
SET status = 'pending', tx_hash = NULL, processed_at = now()
WHERE id = $1 AND status = 'sent' AND tx_hash = $2
"""

# return_stranded_mint: as return_stranded.
# moves: sent -> pending
RETURN_STRANDED_MINT = """
UPDATE mint_queue
SET status = 'pending', mint_tx_hash = NULL, processed_at = now()
WHERE id = $1 AND status = 'sent' AND mint_tx_hash = $2
"""

# reservations: what each token has reserved, and what its payments and units hold. One statement sees one moment.
RESERVATIONS = """
SELECT t.address, t.reserved,
       (SELECT coalesce(sum(p.quantity), 0) FROM payment_queue p
        WHERE p.network = t.network AND p.token_address = t.address AND p.supply_reserved
          AND p.status IN ('pending', 'sent'))
       + (SELECT count(*) FROM mint_queue m
          WHERE m.network = t.network AND m.token_address = t.address AND m.status = 'pending')
       + (SELECT count(*) FROM mint_queue m
          WHERE m.network = t.network AND m.token_address = t.address AND m.status = 'sent') AS held
FROM tokens t WHERE t.network = $1 ORDER BY t.address
"""

# lock_token: whoever changes what this token has reserved waits until this transaction ends, or has ended.
LOCK_TOKEN = "SELECT reserved FROM tokens WHERE network = $1 AND address = $2 FOR UPDATE"

# set_reserved: as many as the rows hold, counted under the lock.
SET_RESERVED = "UPDATE tokens SET reserved = $4 WHERE network = $1 AND address = $2 AND reserved = $3"

# count_minted: units marked as minted, by token, live and archived.
COUNT_MINTED = """
SELECT token_address, sum(n)::int8 AS n FROM (
    SELECT token_address, count(*) AS n FROM mint_queue WHERE network = $1 AND status = 'completed' GROUP BY 1
    UNION ALL
    SELECT token_address, count(*) FROM mint_history WHERE network = $1 AND status = 'completed' GROUP BY 1
) c GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class EvidencedPayment:
    """A completed payment and the transfer log that it names."""

    id: uuid.UUID
    settled_block: BlockNumber
    settled_block_hash: BlockHash
    settled_log_index: int


@dataclass(frozen=True, slots=True)
class UnitRow:
    """A unit as its row says it."""

    id: uuid.UUID
    mint_id: MintId
    token: Address
    status: str
    minted_block: BlockNumber | None


@dataclass(frozen=True, slots=True)
class StrandedRow:
    """A payment or a unit that is sent and carried by nothing; the transaction that it names."""

    id: uuid.UUID
    tx_hash: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units that a token has reserved, and those that its rows hold."""

    token: Address
    reserved: int
    held: int


async def credited(
    connection: Connection, network: str, places: Sequence[tuple[BlockHash, int]]
) -> dict[tuple[BlockHash, int], tuple[Address, AtomicAmount]]:
    """Payer and amount of the completed payments that name these logs (block hash, log index)."""
    rows = await connection.fetch(CREDITED, network, [hex_text(h) for h, _ in places], [i for _, i in places])
    return {
        (BlockHash(bytes_of(r["settled_block_hash"])), r["settled_log_index"]): (
            address_of(r["payer"]),
            AtomicAmount(int(r["amount"])),
        )
        for r in rows
    }


async def unsettled_pay_tos(connection: Connection, network: str) -> set[Address]:
    """Where unsettled payments pay to."""
    return {address_of(row["pay_to"]) for row in await connection.fetch(UNSETTLED_PAY_TOS, network)}


async def claimed(
    connection: Connection, network: str, asset: Address, keys: Sequence[tuple[Address, AuthorizationNonce]]
) -> set[tuple[Address, AuthorizationNonce]]:
    """Which of these authorizations a payment holds, live or archived."""
    rows = await connection.fetch(CLAIMED, network, asset, [k[0] for k in keys], [k[1] for k in keys])
    return {(Address(r["payer"]), AuthorizationNonce(r["authorization_nonce"])) for r in rows}


async def evidenced(
    connection: Connection,
    network: str,
    asset: Address,
    pay_tos: Sequence[Address],
    *,
    first: BlockNumber,
    last: BlockNumber,
) -> list[EvidencedPayment]:
    """The completed payments that name a transfer in these blocks."""
    named = [hex_text(p) for p in pay_tos]
    rows = await connection.fetch(EVIDENCED, network, hex_text(asset), named, first, last)
    return [
        EvidencedPayment(
            r["id"],
            BlockNumber(r["settled_block"]),
            BlockHash(bytes_of(r["settled_block_hash"])),
            r["settled_log_index"],
        )
        for r in rows
    ]


async def units_of_ids(connection: Connection, ids: Sequence[MintId]) -> dict[MintId, UnitRow]:
    """The rows of these mint ids; ids of nobody's are absent."""
    rows = await connection.fetch(UNITS_OF_IDS, [hex_text(i) for i in ids])
    return {MintId(bytes_of(r["mint_id"])): _unit(r) for r in rows}


async def archived_ids(connection: Connection, ids: Sequence[MintId]) -> set[MintId]:
    """Which of these mint ids have moved to the history."""
    return {MintId(bytes_of(r["mint_id"])) for r in await connection.fetch(ARCHIVED_IDS, [hex_text(i) for i in ids])}


async def units_minted_in(
    connection: Connection, network: str, *, first: BlockNumber, last: BlockNumber
) -> list[UnitRow]:
    """The units that are said to have been minted in these blocks."""
    return [_unit(r) for r in await connection.fetch(UNITS_MINTED_IN, network, first, last)]


async def units_missing(
    connection: Connection, network: str, *, first: BlockNumber, last: BlockNumber
) -> list[uuid.UUID]:
    """The completed payments of these blocks with fewer mint rows than units."""
    return [r["id"] for r in await connection.fetch(UNITS_MISSING, network, first, last)]


async def stranded(connection: Connection, network: str, *, limit: int) -> tuple[list[StrandedRow], list[StrandedRow]]:
    """Payments, and units, that are sent and that no unresolved transaction carries."""
    payments = await connection.fetch(STRANDED_PAYMENTS, network, limit)
    mints = await connection.fetch(STRANDED_MINTS, network, limit)
    return [StrandedRow(r["id"], r["tx_hash"]) for r in payments], [StrandedRow(r["id"], r["tx_hash"]) for r in mints]


async def return_stranded(connection: Connection, row: StrandedRow) -> bool:
    """Give a stranded payment back to the queue; False when it has moved since."""
    return (await connection.execute(RETURN_STRANDED, row.id, row.tx_hash)) == "UPDATE 1"


async def return_stranded_mint(connection: Connection, row: StrandedRow) -> bool:
    """Give a stranded unit back to the queue; False when it has moved since."""
    return (await connection.execute(RETURN_STRANDED_MINT, row.id, row.tx_hash)) == "UPDATE 1"


async def reservations(connection: Connection, network: str) -> list[Reservation]:
    """What each token has reserved, and what its rows hold."""
    rows = await connection.fetch(RESERVATIONS, network)
    return [Reservation(address_of(r["address"]), int(r["reserved"]), int(r["held"])) for r in rows]


async def correct_reserved(connection: Connection, network: str, token: Address) -> Reservation | None:
    """Count a token's reservation again, in the caller's transaction; None when there was nothing to correct."""
    await connection.fetchval(LOCK_TOKEN, network, hex_text(token))
    # A new statement, so it sees all that was committed before the lock was had; the rest adds to the new count.
    found = next((r for r in await reservations(connection, network) if r.token == token), None)
    if found is None or found.reserved == found.held:
        return None
    await connection.execute(SET_RESERVED, network, hex_text(token), found.reserved, found.held)
    return found


async def count_minted(connection: Connection, network: str) -> dict[Address, int]:
    """Units marked as minted, by token. Reads every unit: not for a routine look."""
    return {address_of(r["token_address"]): int(r["n"]) for r in await connection.fetch(COUNT_MINTED, network)}


def _unit(row: asyncpg.Record) -> UnitRow:
    return UnitRow(
        row["id"],
        MintId(bytes_of(row["mint_id"])),
        address_of(row["token_address"]),
        row["status"],
        None if row["minted_block"] is None else BlockNumber(row["minted_block"]),
    )
