"""Counts and rates of both queues, as `GET /api/payment/stats` and `/api/queue/stats` answer them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from payfirst.store.database import Connection

Queue = Literal["payment_queue", "mint_queue"]

STUCK_S = 300
# All rows are counted, which takes a minute where there are 50 million; other statements end after 30 s.
COUNT_S_MAX = 240.0

# count_by_status: the seed's first check.
COUNT_BY_STATUS = {
    "payment_queue": "SELECT status, count(*) FROM payment_queue GROUP BY status",
    "mint_queue": "SELECT status, count(*) FROM mint_queue GROUP BY status",
}

# recent_speed: over the last minute, how long completion took and how many completed a second.
_RECENT_SPEED = """
SELECT avg(extract(epoch FROM processed_at - created_at))::float8 AS avg_seconds, count(*) / 60.0::float8 AS rate
FROM {queue} WHERE status = 'completed' AND processed_at > now() - interval '1 minute'
"""
RECENT_SPEED = {queue: _RECENT_SPEED.format(queue=queue) for queue in ("payment_queue", "mint_queue")}

# waiting: the age of the oldest pending row, and the rows that have been `sent` for too long.
_WAITING = """
SELECT (SELECT extract(epoch FROM now() - min(created_at))::float8 FROM {queue} WHERE status = 'pending') AS oldest,
       (SELECT count(*) FROM {queue} WHERE status = 'sent' AND processed_at < now() - $1 * interval '1 second') AS stuck
"""
WAITING = {queue: _WAITING.format(queue=queue) for queue in ("payment_queue", "mint_queue")}


@dataclass(frozen=True, slots=True)
class QueueStats:
    """`avg_seconds` and `rate_per_second` are of the last minute; `stuck_in_sent` means for over five minutes."""

    by_status: dict[str, int]
    avg_seconds: float | None
    rate_per_second: float
    oldest_pending_seconds: float | None
    stuck_in_sent: int


async def read(connection: Connection, queue: Queue) -> QueueStats:
    """Counts and rates of one queue."""
    counts = await connection.fetch(COUNT_BY_STATUS[queue], timeout=COUNT_S_MAX)
    speed = await connection.fetchrow(RECENT_SPEED[queue])
    waiting = await connection.fetchrow(WAITING[queue], STUCK_S)
    assert speed is not None  # noqa: S101 - aggregates without GROUP BY always give a row
    assert waiting is not None  # noqa: S101 - likewise
    return QueueStats(
        by_status={row["status"]: row["count"] for row in counts},
        avg_seconds=speed["avg_seconds"],
        rate_per_second=float(speed["rate"]),
        oldest_pending_seconds=waiting["oldest"],
        stuck_in_sent=waiting["stuck"],
    )
