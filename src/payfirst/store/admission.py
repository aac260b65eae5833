"""What an API process must know of the workers and the queue before it takes a payment. One read, no RPC."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.store import tokens
from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.store.tokens import Token
from payfirst.units import Address, BlockNumber, UnixTime

# The queue is counted only up to here: beyond it the exact number changes no decision.
COUNTED_MAX = 200_000

# read_workers: how old the chain head and the newest worker's heartbeat are, and how fast the queue drains.
READ_WORKERS = """
SELECT h.head_height, h.head_time, h.settled_per_s,
       extract(epoch FROM now() - h.head_seen_at)::float8 AS head_age_s,
       (SELECT extract(epoch FROM now() - max(heartbeat_at))::float8 FROM processes
        WHERE role = 'worker' AND network = $1) AS worker_age_s
FROM chain_heads h WHERE h.network = $1
"""

# count_waiting: pending payments and the units they would take, by token; a bounded count.
COUNT_WAITING = """
SELECT token_address, count(*) AS payments, coalesce(sum(quantity) FILTER (WHERE NOT supply_reserved), 0) AS units
FROM (
    SELECT token_address, quantity, supply_reserved FROM payment_queue
    WHERE network = $1 AND status = 'pending' LIMIT $2
) waiting
GROUP BY token_address
"""


@dataclass(frozen=True, slots=True)
class Workers:
    """Ages in seconds; `worker_age_s` is None when no worker ever lived."""

    head_height: BlockNumber
    head_time: UnixTime
    head_age_s: float
    worker_age_s: float | None
    settled_per_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What admission decides by; `waiting_units` are promised to nobody yet."""

    workers: Workers | None
    tokens: dict[Address, Token]
    waiting_payments: int
    waiting_units: dict[Address, int]


async def read(connection: Connection, network: str) -> Snapshot:
    """The state of workers, tokens and queue."""
    row = await connection.fetchrow(READ_WORKERS, network)
    waiting = await connection.fetch(COUNT_WAITING, network, COUNTED_MAX)
    offered = await tokens.read(connection, network)
    return Snapshot(
        workers=None
        if row is None
        else Workers(
            head_height=BlockNumber(row["head_height"]),
            head_time=UnixTime(row["head_time"]),
            head_age_s=row["head_age_s"],
            worker_age_s=row["worker_age_s"],
            settled_per_s=row["settled_per_s"],
        ),
        tokens={token.address: token for token in offered},
        waiting_payments=sum(r["payments"] for r in waiting),
        waiting_units={address_of(r["token_address"]): int(r["units"]) for r in waiting},
    )
