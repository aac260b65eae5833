"""What an API process must know of the workers and the queue before it takes a payment. No RPC."""

from __future__ import annotations

from dataclasses import dataclass, field

from payfirst.store import short_payers, tokens, wallets
from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.store.short_payers import ShortPayer
from payfirst.store.tokens import Token
from payfirst.units import Address, BlockNumber, UnixTime

# The payers with most unsettled payments that a process is told of.
CROWDED_MAX = 10_000

# read_workers: how old the chain head and the newest worker's heartbeat are, how far the chain was read for evidence,
# and how fast the queue drains.
READ_WORKERS = """
SELECT h.head_height, h.head_time, h.cursor_height, h.cursor_time, h.settled_per_s, h.confirmable_height,
       extract(epoch FROM now() - h.head_seen_at)::float8 AS head_age_s,
       (SELECT extract(epoch FROM now() - max(heartbeat_at))::float8 FROM processes
        WHERE role = 'worker' AND network = $1) AS worker_age_s
FROM chain_heads h WHERE h.network = $1
"""

# count_unsettled: pending and sent payments by token, the pending among them, and the units that those would take; and
# the payers with at least $3 of them. Live rows only, read once, and no more than the queue may hold.
COUNT_UNSETTLED = """
WITH live AS MATERIALIZED (
    (SELECT token_address, payer, quantity, supply_reserved, true AS is_pending FROM payment_queue
     WHERE network = $1 AND status = 'pending' LIMIT $2)
    UNION ALL
    (SELECT token_address, payer, quantity, supply_reserved, false FROM payment_queue
     WHERE network = $1 AND status = 'sent' LIMIT $2)
)
SELECT token_address, NULL AS payer, count(*) AS unsettled, count(*) FILTER (WHERE is_pending) AS pending,
       coalesce(sum(quantity) FILTER (WHERE is_pending AND NOT supply_reserved), 0) AS units
FROM live GROUP BY token_address
UNION ALL
(SELECT NULL, payer, count(*), 0, 0 FROM live GROUP BY payer HAVING count(*) >= $3 ORDER BY count(*) DESC LIMIT $4)
"""


@dataclass(frozen=True, slots=True)
class Workers:
    """Ages in seconds; `worker_age_s` is None when no worker ever lived. The cursor is the last block confirmed,
    `confirmable_height` the newest that is deep enough (None before a worker of this release wrote it).
    """

    head_height: BlockNumber
    head_time: UnixTime
    head_age_s: float
    cursor_height: BlockNumber
    cursor_time: UnixTime
    worker_age_s: float | None
    settled_per_s: float
    confirmable_height: BlockNumber | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """How many payments are unsettled (pending or sent), and whose.

    `waiting_payments` are the pending ones, `waiting_units` what they ask for that is promised to nobody yet. `crowded`
    names only payers with many payments; `wallets` are unsettled payments that were accepted unverified, by payer, and
    `quarantined` those of whom nothing is taken, for so many seconds more.
    """

    waiting_payments: int
    waiting_units: dict[Address, int]
    unsettled_payments: int
    unsettled_by_token: dict[Address, int]
    crowded: dict[Address, int]
    short: dict[Address, ShortPayer]
    wallets: dict[Address, int] = field(default_factory=dict)
    quarantined: dict[Address, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What admission decides by."""

    workers: Workers | None
    tokens: dict[Address, Token]
    queue: Queue


EMPTY_QUEUE = Queue(0, {}, 0, {}, {}, {})


async def read_workers(connection: Connection, network: str) -> Workers | None:
    """The state of workers and chain, None before any worker ever saw the chain."""
    row = await connection.fetchrow(READ_WORKERS, network)
    if row is None:
        return None
    return Workers(
        head_height=BlockNumber(row["head_height"]),
        head_time=UnixTime(row["head_time"]),
        head_age_s=row["head_age_s"],
        cursor_height=BlockNumber(row["cursor_height"]),
        cursor_time=UnixTime(row["cursor_time"]),
        worker_age_s=row["worker_age_s"],
        settled_per_s=row["settled_per_s"],
        confirmable_height=row["confirmable_height"],
    )


async def read_tokens(connection: Connection, network: str) -> dict[Address, Token]:
    """What is or was on offer."""
    return {token.address: token for token in await tokens.read(connection, network)}


async def count_queue(
    connection: Connection, network: str, *, asset: Address, count_max: int, crowded_min: int
) -> Queue:
    """The queue, counted up to `count_max`; its cost grows with what is unsettled, not with history."""
    counted = await connection.fetch(COUNT_UNSETTLED, network, count_max, crowded_min, CROWDED_MAX)
    live = [row for row in counted if row["payer"] is None]
    crowded = [row for row in counted if row["payer"] is not None]
    return Queue(
        waiting_payments=sum(row["pending"] for row in live),
        waiting_units={address_of(row["token_address"]): int(row["units"]) for row in live},
        unsettled_payments=sum(row["unsettled"] for row in live),
        unsettled_by_token={address_of(row["token_address"]): row["unsettled"] for row in live},
        crowded={address_of(row["payer"]): row["unsettled"] for row in crowded},
        short=await short_payers.read(connection, network=network, asset=asset),
        wallets=await wallets.count(connection, network),
        quarantined=await wallets.refused(connection, network),
    )
