"""What was sent lately and what went wrong lately: the parts of `payfirst top` that no other module reads."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.store.database import Connection

# Looked at are the newest transactions, so that it costs the same after a year.
TRANSACTIONS_MAX = 5_000
WINDOW_S = 600
TROUBLES_MAX = 6

# batches: what was sent in the window ($2, seconds), by purpose: transactions, items, gas and its price.
BATCHES = """
SELECT purpose, count(*) AS transactions, avg(item_count)::float8 AS items, max(item_count) AS items_max,
       (sum(gas_used) / nullif(sum(item_count) FILTER (WHERE gas_used IS NOT NULL), 0))::float8 AS gas_per_item,
       (sum(gas_used * gas_price_wei) / nullif(sum(gas_used), 0))::float8 AS gas_price_wei,
       coalesce(sum(gas_used * gas_price_wei), 0)::float8 AS spent_wei,
       count(*) FILTER (WHERE state = 'sent') AS unresolved
FROM chain_transactions
WHERE network = $1 AND id > (SELECT coalesce(max(id), 0) - $3 FROM chain_transactions)
  AND created_at > now() - $2 * interval '1 second'
GROUP BY purpose ORDER BY purpose DESC
"""

# troubles: the newest failures, what is put off and why, and what nodes said to broadcasts; the newest first.
TROUBLES = """
SELECT * FROM (
    (SELECT extract(epoch FROM now() - max(processed_at))::float8 AS age_s, 'failed' AS what, count(*) AS count,
            coalesce(max(error), error_code, 'by hand') AS sentence
     FROM payment_queue
     WHERE network = $1 AND status = 'failed' AND processed_at > now() - interval '1 hour'
     GROUP BY error_code ORDER BY 1 LIMIT $2)
    UNION ALL
    (SELECT extract(epoch FROM now() - min(created_at))::float8, 'payment waits', count(*), error
     FROM payment_queue WHERE network = $1 AND status = 'pending' AND error IS NOT NULL
     GROUP BY error ORDER BY 1 LIMIT $2)
    UNION ALL
    (SELECT extract(epoch FROM now() - min(created_at))::float8, 'unit waits', count(*), error
     FROM mint_queue WHERE network = $1 AND status = 'pending' AND error IS NOT NULL
     GROUP BY error ORDER BY 1 LIMIT $2)
    UNION ALL
    (SELECT extract(epoch FROM now() - max(a.last_broadcast_at))::float8, 'broadcast', count(*), a.last_error
     FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id
     WHERE t.network = $1 AND t.state = 'sent' AND a.last_error IS NOT NULL
     GROUP BY a.last_error ORDER BY 1 LIMIT $2)
) every ORDER BY age_s LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Batches:
    """Of one purpose; gas and its price where something was mined, the price in wei a gas."""

    purpose: str
    transactions: int
    items: float
    items_max: int
    gas_per_item: float | None
    gas_price_wei: float | None
    spent_wei: float
    unresolved: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong, how often, and how long ago it was last seen (or has been waited for)."""

    age_s: float
    what: str
    count: int
    sentence: str


async def batches(connection: Connection, network: str) -> list[Batches]:
    """What was sent in the last ten minutes."""
    rows = await connection.fetch(BATCHES, network, WINDOW_S, TRANSACTIONS_MAX)
    return [Batches(**row) for row in rows]


async def troubles(connection: Connection, network: str) -> list[Trouble]:
    """The newest few things that went wrong."""
    rows = await connection.fetch(TROUBLES, network, TROUBLES_MAX)
    return [Trouble(row["age_s"] or 0.0, row["what"], row["count"], row["sentence"]) for row in rows]
