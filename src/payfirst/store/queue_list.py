"""Pages of the queues for people and scripts, newest first, however large the tables are.

No statement reads more than a chunk of ids: the bound of a chunk is looked up in an index first, the filters judge
what lies above it. Ids begin with their time (uuid v7), so keyset paging by id is paging by age.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import asyncpg

from payfirst.lifecycle import MintStatus, PaymentStatus
from payfirst.store.database import Connection
from payfirst.units import Address, AuthorizationNonce, TxHash, hex_text, uuid7

CHUNK_ROWS = 20_000
# A filter that finds next to nothing stops looking then, and says how far it came.
LOOK_S_MAX = 20.0
# Ids are made by the clocks of the API's machines: a page begins so much earlier than was asked for.
CLOCK_SLACK_S = 600
NEWEST = uuid.UUID(int=2**128 - 1)

Source = Literal["all", "pending", "sent", "completed", "failed", "owed", "held"]

# Literals, so that the partial index of a status is used.
_SOURCE_CONDITION: dict[Source, str] = {
    "all": "true",
    "held": "held_reason IS NOT NULL",
    **{s.value: f"status = '{s.value}'" for s in (*PaymentStatus, *MintStatus)},
}

_CHUNK_FLOOR = """
SELECT id FROM {table} WHERE network = $1 AND id < $2 AND id >= $3 AND {source} ORDER BY id DESC OFFSET $4 LIMIT 1
"""

# chunk_floor: the id with so many of the source's rows between it and the one after which the page begins.
CHUNK_FLOOR = {
    (table, source): _CHUNK_FLOOR.format(table=table, source=condition)
    for table in ("payment_queue", "mint_queue")
    for source, condition in _SOURCE_CONDITION.items()
}

# chunk_floor_of_payer: as chunk_floor, among one payer's payments; the never-reuse key finds those.
CHUNK_FLOOR_OF_PAYER = """
SELECT payment_id FROM authorizations
WHERE network = $1 AND payer = $5 AND payment_id < $2 AND payment_id >= $3
ORDER BY payment_id DESC OFFSET $4 LIMIT 1
"""

_PAYMENTS_PAGE = """
SELECT id, status, finality, payer, token_address, amount, quantity, recipient, tx_hash,
       coalesce(error_code, suspected_code) AS code, error, held_reason, attempts, created_at, processed_at
FROM payment_queue
WHERE network = $1 AND id < $2 AND id >= $3 AND {source}
  AND ($5::text IS NULL OR token_address = $5) AND ($6::text IS NULL OR coalesce(error_code, suspected_code) = $6)
  AND ($7::timestamptz IS NULL OR created_at >= $7) AND ($8::text IS NULL OR status = $8) {payer}
ORDER BY id DESC LIMIT $4
"""
_OF_PAYER = """
  AND id IN (SELECT payment_id FROM authorizations WHERE network = $1 AND payer = $9 AND payment_id >= $3)
"""

# payments_page: the payments of a chunk that the filters let through.
PAYMENTS_PAGE = {s: _PAYMENTS_PAGE.format(source=c, payer="") for s, c in _SOURCE_CONDITION.items()}

# payments_page_of_payer: the same, of one payer.
PAYMENTS_PAGE_OF_PAYER = {s: _PAYMENTS_PAGE.format(source=c, payer=_OF_PAYER) for s, c in _SOURCE_CONDITION.items()}

_MINTS_PAGE = """
SELECT id, payment_id, unit, status, token_address, recipient, mint_id, mint_tx_hash AS tx_hash,
       coalesce(error_code, suspected_code) AS code, error, held_reason, attempts, next_attempt_at, created_at,
       processed_at
FROM mint_queue
WHERE network = $1 AND id < $2 AND id >= $3 AND {source}
  AND ($5::text IS NULL OR token_address = $5) AND ($6::text IS NULL OR coalesce(error_code, suspected_code) = $6)
  AND ($7::timestamptz IS NULL OR created_at >= $7) AND ($8::text IS NULL OR status = $8)
  AND ($9::bytea IS NULL
       OR payment_id IN (SELECT payment_id FROM authorizations WHERE network = $1 AND payer = $9))
ORDER BY id DESC LIMIT $4
"""

# mints_page: the units of a chunk that the filters let through.
MINTS_PAGE = {s: _MINTS_PAGE.format(source=c) for s, c in _SOURCE_CONDITION.items()}

# mints_of_payment: all units of one payment.
MINTS_OF_PAYMENT = """
SELECT id, payment_id, unit, status, token_address, recipient, mint_id, mint_tx_hash AS tx_hash,
       coalesce(error_code, suspected_code) AS code, error, held_reason, attempts, next_attempt_at, created_at,
       processed_at
FROM mint_queue WHERE payment_id = $1 ORDER BY unit
"""

# owed_page: debts, the newest first; they are few.
OWED_PAGE = """
SELECT o.id, o.direction, o.payment_id, o.unit, o.reason, o.asset, o.amount, o.beneficiary, o.status, o.resolution,
       o.note, o.created_at, o.resolved_at
FROM owed o
WHERE o.network = $1 AND o.id < $2 AND ($3::text IS NULL OR o.status = $3) AND ($4::text IS NULL OR o.direction = $4)
ORDER BY o.id DESC LIMIT $5
"""

# stuck_in_sent: the seed's query, with its oldest first.
STUCK_IN_SENT = """
SELECT id FROM payment_queue
WHERE network = $1 AND status = 'sent' AND processed_at < now() - $2 * interval '1 second'
ORDER BY processed_at LIMIT $3
"""

# units_stuck_in_sent: the payments whose units have been `sent` for as long.
UNITS_STUCK_IN_SENT = """
SELECT payment_id, min(processed_at) AS since FROM mint_queue
WHERE network = $1 AND status = 'sent' AND processed_at < now() - $2 * interval '1 second'
GROUP BY payment_id ORDER BY since LIMIT $3
"""


# ids_by_hash: the payments that a transaction hash stands for: where one is, or any attempt that carried one.
IDS_BY_HASH = """
SELECT id FROM payment_queue WHERE tx_hash = $1
UNION
SELECT i.payment_id FROM chain_attempts a JOIN chain_transaction_items i ON i.transaction_id = a.transaction_id
WHERE a.hash = $1 AND i.payment_id IS NOT NULL
UNION
SELECT m.payment_id FROM chain_attempts a JOIN chain_transaction_items i ON i.transaction_id = a.transaction_id
JOIN mint_queue m ON m.id = i.queue_id WHERE a.hash = $1
UNION
SELECT m.payment_id FROM chain_attempts a JOIN chain_transaction_items i ON i.transaction_id = a.transaction_id
JOIN mint_history m ON m.id = i.queue_id WHERE a.hash = $1
UNION
SELECT payment_id FROM mint_queue WHERE payment_tx_hash = $1
UNION
SELECT id FROM payment_history WHERE tx_hash = $1
ORDER BY id LIMIT $2
"""

# ids_by_authorization: the payment that holds an authorization, or all of a payer's.
IDS_BY_AUTHORIZATION = """
SELECT payment_id FROM authorizations
WHERE network = $1 AND payer = $2 AND ($3::bytea IS NULL OR authorization_nonce = $3)
ORDER BY payment_id DESC LIMIT $4
"""

# id_by_unit: the payment of a unit.
ID_BY_UNIT = """
SELECT payment_id FROM mint_queue WHERE id = $1
UNION ALL
SELECT payment_id FROM mint_history WHERE id = $1
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """What rows are wanted. `source` picks the index that is walked; the rest is judged row by row."""

    source: Source = "all"
    status: str | None = None
    payer: Address | None = None
    token: Address | None = None
    code: str | None = None
    since: dt.datetime | None = None

    @property
    def floor(self) -> uuid.UUID:
        """The smallest id that a row since then can have."""
        if self.since is None:
            return uuid.UUID(int=0)
        return uuid7(now_ms=max(0, int(self.since.timestamp() - CLOCK_SLACK_S) * 1000), random_bits=0)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as the table has them. `next` is what to go on after, None at the end; `gave_up`: time ran out."""

    rows: list[asyncpg.Record]
    next: uuid.UUID | None
    gave_up: bool = False


async def payments(connection: Connection, network: str, want: Filter, *, after: uuid.UUID, limit: int) -> Page:
    """One page of payments."""
    return await _page(connection, "payment_queue", network, want, after=after, limit=limit)


async def mints(connection: Connection, network: str, want: Filter, *, after: uuid.UUID, limit: int) -> Page:
    """One page of units."""
    return await _page(connection, "mint_queue", network, want, after=after, limit=limit)


async def _page(
    connection: Connection, table: str, network: str, want: Filter, *, after: uuid.UUID, limit: int
) -> Page:
    found: list[asyncpg.Record] = []
    until = time.monotonic() + LOOK_S_MAX
    while True:
        floor = await _chunk_floor(connection, table, network, want, after=after)
        found += await _chunk(connection, table, network, want, after=after, floor=floor, limit=limit - len(found))
        if len(found) == limit:
            return Page(found, found[-1]["id"])
        if floor is None:
            return Page(found, None)
        # The row of the floor itself was judged.
        after = floor
        if time.monotonic() > until:
            return Page(found, after, gave_up=True)


async def _chunk_floor(
    connection: Connection, table: str, network: str, want: Filter, *, after: uuid.UUID
) -> uuid.UUID | None:
    """None: fewer rows than a chunk are left."""
    if table == "payment_queue" and want.payer is not None:
        args = (network, after, want.floor, CHUNK_ROWS - 1, want.payer)
        floor = await connection.fetchval(CHUNK_FLOOR_OF_PAYER, *args)
    else:
        floor = await connection.fetchval(CHUNK_FLOOR[table, want.source], network, after, want.floor, CHUNK_ROWS - 1)
    return None if floor is None else uuid.UUID(int=floor.int)


async def _chunk(
    connection: Connection,
    table: str,
    network: str,
    want: Filter,
    *,
    after: uuid.UUID,
    floor: uuid.UUID | None,
    limit: int,
) -> list[asyncpg.Record]:
    args: list[object] = [
        network,
        after,
        want.floor if floor is None else floor,
        limit,
        None if want.token is None else hex_text(want.token),
        want.code,
        want.since,
        want.status,
    ]
    if table == "mint_queue":
        return await connection.fetch(MINTS_PAGE[want.source], *args, want.payer)
    if want.payer is None:
        return await connection.fetch(PAYMENTS_PAGE[want.source], *args)
    return await connection.fetch(PAYMENTS_PAGE_OF_PAYER[want.source], *args, want.payer)


async def mints_of_payment(connection: Connection, payment_id: uuid.UUID) -> list[asyncpg.Record]:
    """The units of one payment, in order."""
    return await connection.fetch(MINTS_OF_PAYMENT, payment_id)


async def owed(
    connection: Connection, network: str, *, status: str | None, direction: str | None, after: int, limit: int
) -> list[asyncpg.Record]:
    """Debts below an id, the newest first."""
    return await connection.fetch(OWED_PAGE, network, after, status, direction, limit)


async def stuck(connection: Connection, network: str, *, older_than_s: int, limit: int) -> list[uuid.UUID]:
    """The payments that have been `sent` for longer, the oldest first."""
    return [row["id"] for row in await connection.fetch(STUCK_IN_SENT, network, older_than_s, limit)]


async def stuck_by_units(connection: Connection, network: str, *, older_than_s: int, limit: int) -> list[uuid.UUID]:
    """The payments with units that have been `sent` for longer, the oldest first."""
    rows = await connection.fetch(UNITS_STUCK_IN_SENT, network, older_than_s, limit)
    return [row["payment_id"] for row in rows]


async def every_page(
    connection: Connection, network: str, want: Filter, *, table: Literal["payments", "mints"], after: uuid.UUID
) -> AsyncIterator[list[asyncpg.Record]]:
    """Every row that is wanted, a page a statement, so that no snapshot is held for as long as an export takes."""
    fetch = payments if table == "payments" else mints
    while True:
        page = await fetch(connection, network, want, after=after, limit=1_000)
        yield page.rows
        if page.next is None:
            return
        after = page.next


async def ids_by_hash(connection: Connection, tx_hash: TxHash, *, limit: int) -> list[uuid.UUID]:
    """The payments that have to do with a transaction."""
    return [row["id"] for row in await connection.fetch(IDS_BY_HASH, hex_text(tx_hash), limit)]


async def ids_by_authorization(
    connection: Connection, network: str, payer: Address, nonce: AuthorizationNonce | None, *, limit: int
) -> list[uuid.UUID]:
    """The payment of one authorization, or the newest of a payer."""
    rows = await connection.fetch(IDS_BY_AUTHORIZATION, network, payer, nonce, limit)
    return [row["payment_id"] for row in rows]


async def id_by_unit(connection: Connection, queue_id: uuid.UUID) -> uuid.UUID | None:
    """The payment of a unit."""
    found: uuid.UUID | None = await connection.fetchval(ID_BY_UNIT, queue_id)
    return found
