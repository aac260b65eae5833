"""How fast payments and units went through, what waits, and what failed: the facts of `payfirst stats` and `top`.

Times are measured from `created_at` of the payment (accepted) to `processed_at` of the row, in seconds. Indexes on both
tell the window's pages: nothing is scanned back to the beginning of all trade.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import asyncpg

from payfirst.store.database import Connection
from payfirst.store.queue_stats import STUCK_S

MINUTES = 10

# speed_of_payments: how long it took from accepted to completed, of those completed in the window ($2, seconds).
SPEED_OF_PAYMENTS = """
SELECT count(*) AS count, avg(s) AS average, min(s) AS minimum, max(s) AS maximum,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s) AS p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY s) AS p99
FROM (
    SELECT extract(epoch FROM processed_at - created_at)::float8 AS s FROM payment_queue
    WHERE network = $1 AND status = 'completed' AND processed_at > now() - $2 * interval '1 second'
) taken
"""

# speed_of_units: how long it took from the acceptance of the payment to its minted unit.
SPEED_OF_UNITS = """
SELECT count(*) AS count, avg(s) AS average, min(s) AS minimum, max(s) AS maximum,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s) AS p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY s) AS p99
FROM (
    SELECT extract(epoch FROM m.processed_at - p.created_at)::float8 AS s
    FROM mint_queue m JOIN payment_queue p ON p.id = m.payment_id
    WHERE m.network = $1 AND m.status = 'completed' AND m.processed_at > now() - $2 * interval '1 second'
) taken
"""

# rates_by_minute: what was accepted, completed and minted in each of the last minutes, the newest (which is not over)
# first; `seconds` is how much of the minute has passed.
RATES_BY_MINUTE = """
WITH accepted AS (
    SELECT date_trunc('minute', created_at) AS minute, count(*) AS n FROM payment_queue
    WHERE network = $1 AND created_at >= date_trunc('minute', now()) - $2 * interval '1 minute' GROUP BY 1
), paid AS (
    SELECT date_trunc('minute', processed_at) AS minute, count(*) AS n FROM payment_queue
    WHERE network = $1 AND status = 'completed'
      AND processed_at >= date_trunc('minute', now()) - $2 * interval '1 minute' GROUP BY 1
), minted AS (
    SELECT date_trunc('minute', processed_at) AS minute, count(*) AS n FROM mint_queue
    WHERE network = $1 AND status = 'completed'
      AND processed_at >= date_trunc('minute', now()) - $2 * interval '1 minute' GROUP BY 1
)
SELECT m.minute, coalesce(a.n, 0) AS accepted, coalesce(p.n, 0) AS completed, coalesce(u.n, 0) AS minted,
       least(60, greatest(1, extract(epoch FROM now() - m.minute)))::float8 AS seconds
FROM generate_series(date_trunc('minute', now()), date_trunc('minute', now()) - ($2 - 1) * interval '1 minute',
                     interval '-1 minute') AS m(minute)
LEFT JOIN accepted a USING (minute) LEFT JOIN paid p USING (minute) LEFT JOIN minted u USING (minute)
ORDER BY m.minute DESC
"""

# depth: how many rows stand in each status that is not an end, and the age of the oldest; accepted (payments) or
# created (units).
DEPTH = """
SELECT 'payments' AS queue, status, count(*) AS count, extract(epoch FROM now() - min(created_at))::float8 AS oldest_s
FROM payment_queue WHERE network = $1 AND status = 'pending' GROUP BY status
UNION ALL
SELECT 'payments', status, count(*), extract(epoch FROM now() - min(created_at))::float8
FROM payment_queue WHERE network = $1 AND status = 'sent' GROUP BY status
UNION ALL
SELECT 'mints', status, count(*), extract(epoch FROM now() - min(created_at))::float8
FROM mint_queue WHERE network = $1 AND status = 'pending' GROUP BY status
UNION ALL
SELECT 'mints', status, count(*), extract(epoch FROM now() - min(created_at))::float8
FROM mint_queue WHERE network = $1 AND status = 'sent' GROUP BY status
"""

# backlog: payments that could be sent now (not held, not put off), the age of the oldest, and what was completed in the
# last minute.
BACKLOG = """
SELECT count(*) AS count, extract(epoch FROM now() - min(created_at))::float8 AS oldest_s,
       (SELECT count(*) FROM payment_queue
        WHERE network = $1 AND status = 'completed' AND processed_at > now() - interval '1 minute') AS last_minute
FROM payment_queue
WHERE network = $1 AND status = 'pending' AND held_reason IS NULL
  AND (next_attempt_at IS NULL OR next_attempt_at < now())
"""

# stuck: rows that have been `sent` for too long ($2, seconds); not what was seen in a block, and waits by its amount.
STUCK = """
SELECT (SELECT count(*) FROM payment_queue p WHERE network = $1 AND status = 'sent'
          AND processed_at < now() - $2 * interval '1 second'
          AND NOT EXISTS (SELECT 1 FROM waiting_evidence w WHERE p.id = ANY(w.payment_ids))) AS payments,
       (SELECT count(*) FROM mint_queue WHERE network = $1 AND status = 'sent'
          AND processed_at < now() - $2 * interval '1 second') AS mints
"""

# failures: payments that failed in the window, by cause, the most frequent first.
FAILURES = """
SELECT coalesce(error_code, 'by_hand') AS code, count(*) AS count, max(error) AS sentence FROM payment_queue
WHERE network = $1 AND status = 'failed' AND processed_at > now() - $2 * interval '1 second'
GROUP BY 1 ORDER BY count(*) DESC, 1
"""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of `count` rows, in seconds; None where there were none."""

    count: int
    average: float | None
    minimum: float | None
    maximum: float | None
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened in one minute, of which `seconds` have passed."""

    start: dt.datetime
    accepted: int
    completed: int
    minted: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Depth:
    """Rows of one queue (`payments`, `mints`) in one status, and the age of the oldest in seconds."""

    queue: str
    status: str
    count: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Cause:
    """Why payments failed: the code, how many, and one of the sentences."""

    code: str
    count: int
    sentence: str | None


@dataclass(frozen=True, slots=True)
class Performance:
    """`waiting` payments could be sent now; `per_second` were completed over the last minute."""

    window_s: float
    payments: Speed
    units: Speed
    minutes: tuple[Minute, ...]
    depth: tuple[Depth, ...]
    waiting: int
    waiting_oldest_s: float | None
    per_second: float
    stuck_payments: int
    stuck_mints: int
    failures: tuple[Cause, ...]


async def read(connection: Connection, network: str, *, window_s: float) -> Performance:
    """Everything at once; the rates by minute are of the last `MINUTES`, whatever the window."""
    payments = await connection.fetchrow(SPEED_OF_PAYMENTS, network, window_s)
    units = await connection.fetchrow(SPEED_OF_UNITS, network, window_s)
    minutes = await connection.fetch(RATES_BY_MINUTE, network, MINUTES)
    depth = await connection.fetch(DEPTH, network)
    backlog = await connection.fetchrow(BACKLOG, network)
    stuck = await connection.fetchrow(STUCK, network, STUCK_S)
    failures = await connection.fetch(FAILURES, network, window_s)
    assert payments is not None  # noqa: S101 - aggregates without GROUP BY always give a row, here and below
    assert units is not None  # noqa: S101
    assert backlog is not None  # noqa: S101
    assert stuck is not None  # noqa: S101
    return Performance(
        window_s=window_s,
        payments=_speed(payments),
        units=_speed(units),
        minutes=tuple(Minute(r["minute"], r["accepted"], r["completed"], r["minted"], r["seconds"]) for r in minutes),
        depth=tuple(Depth(row["queue"], row["status"], row["count"], row["oldest_s"]) for row in depth),
        waiting=backlog["count"],
        waiting_oldest_s=backlog["oldest_s"],
        per_second=backlog["last_minute"] / 60,
        stuck_payments=stuck["payments"],
        stuck_mints=stuck["mints"],
        failures=tuple(Cause(row["code"], row["count"], row["sentence"]) for row in failures),
    )


def _speed(row: asyncpg.Record) -> Speed:
    return Speed(row["count"], row["average"], row["minimum"], row["maximum"], row["p50"], row["p99"])
