"""What the exporter reads: the state of queues, debts, signers, chain and processes. Reads only, live rows only.

Nothing here counts history: completed rows are counted by the workers as they complete them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from payfirst.store.database import Connection

STUCK_S = 300
# Rows of processes that beat within this time are shown; the beat is once a second.
LIVE_S = 10

# read_depths: how many rows wait in each status, and since when the oldest of them has been in it.
# The partial indexes hold just these rows.
READ_DEPTHS = """
SELECT 'payment' AS queue, 'pending' AS status, count(*) AS depth,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
FROM payment_queue WHERE status = 'pending'
UNION ALL
SELECT 'payment', 'sent', count(*), coalesce(extract(epoch FROM now() - min(processed_at)), 0)::float8
FROM payment_queue WHERE status = 'sent'
UNION ALL
SELECT 'mint', 'pending', count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
FROM mint_queue WHERE status = 'pending'
UNION ALL
SELECT 'mint', 'sent', count(*), coalesce(extract(epoch FROM now() - min(processed_at)), 0)::float8
FROM mint_queue WHERE status = 'sent'
"""

# read_stuck: what has been sent for longer than it should take; not what was seen in a block, and waits by its amount.
READ_STUCK = """
SELECT 'payment' AS queue, count(*) AS rows FROM payment_queue p
WHERE status = 'sent' AND processed_at < now() - $1 * interval '1 second'
  AND NOT EXISTS (SELECT 1 FROM waiting_evidence w WHERE p.id = ANY(w.payment_ids))
UNION ALL
SELECT 'mint', count(*) FROM mint_queue WHERE status = 'sent' AND processed_at < now() - $1 * interval '1 second'
"""

# read_owed: open debts; both directions are there also when nothing is owed.
READ_OWED = """
SELECT d.direction, coalesce(o.reason, '') AS reason, coalesce(o.asset, '') AS asset, count(o.id) AS debts,
       coalesce(sum(o.amount), 0)::float8 AS amount
FROM unnest(ARRAY['to_buyer', 'to_seller']) AS d(direction)
LEFT JOIN owed o ON o.direction = d.direction AND o.status = 'open'
GROUP BY 1, 2, 3
"""

# read_refunds: refunds that are under way, and those that a person has to settle.
READ_REFUNDS = """
SELECT s.status, count(r.id) AS refunds, coalesce(sum(r.amount), 0)::float8 AS amount
FROM unnest(ARRAY['waiting', 'approved', 'sent', 'impossible']) AS s(status) LEFT JOIN refunds r ON r.status = s.status
GROUP BY 1
"""

# read_treasuries: what the accounts that refunds are paid from have, and whether a refund waits for more; one that no
# worker has held for a day is a former one.
READ_TREASURIES = """
SELECT network, asset, address, balance::float8 AS balance, held_reason IS NOT NULL AS short
FROM treasuries WHERE seen_at > now() - interval '1 day'
"""

# read_signers: each signer's gas money, and how far its nonces are ahead of what is confirmed.
READ_SIGNERS = """
SELECT s.network, s.address, s.purpose, s.next_nonce, s.paused_reason IS NOT NULL AS paused,
       s.balance_wei::float8 AS balance_wei, count(t.id) AS unresolved,
       coalesce(s.next_nonce - min(t.account_nonce), 0) AS nonce_lag,
       coalesce(extract(epoch FROM now() - min(t.created_at)), 0)::float8 AS oldest_s
FROM signers s LEFT JOIN chain_transactions t
     ON t.network = s.network AND t.signer = s.address AND t.state = 'sent'
GROUP BY s.network, s.address
"""

# read_heads: how far the chain is, and how far it was read.
READ_HEADS = """
SELECT network, head_height, confirmable_height, cursor_height, final_height, settled_per_s,
       extract(epoch FROM now() - head_seen_at)::float8 AS seen_s
FROM chain_heads
"""

# read_tokens: what can still be sold.
READ_TOKENS = """
SELECT network, address, coalesce(symbol, '') AS symbol, status = 'active' AND held_reason IS NULL AS sells,
       minted::float8 AS minted, reserved::float8 AS reserved, max_mint_count::float8 AS max_mint_count
FROM tokens
"""

# read_processes: what the live processes published. Of two that claim one name, the later is the one that lives.
READ_PROCESSES = """
SELECT DISTINCT ON (role, host, pid) role, host, pid, network, extract(epoch FROM started_at)::float8 AS started,
       extract(epoch FROM now() - heartbeat_at)::float8 AS silent_s, stats -> 'metrics' AS metrics
FROM processes WHERE heartbeat_at > now() - $1 * interval '1 second'
ORDER BY role, host, pid, started_at DESC
"""

# read_size: the database on disk.
READ_SIZE = "SELECT pg_database_size(current_database())"


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the database; each row has the columns of its statement above."""

    depths: Sequence[asyncpg.Record]
    stuck: Sequence[asyncpg.Record]
    owed: Sequence[asyncpg.Record]
    refunds: Sequence[asyncpg.Record]
    treasuries: Sequence[asyncpg.Record]
    signers: Sequence[asyncpg.Record]
    heads: Sequence[asyncpg.Record]
    tokens: Sequence[asyncpg.Record]
    processes: Sequence[asyncpg.Record]
    size_bytes: int


async def read(connection: Connection) -> Reading:
    """Everything, in one transaction that writes nothing."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return Reading(
            depths=await connection.fetch(READ_DEPTHS),
            stuck=await connection.fetch(READ_STUCK, STUCK_S),
            owed=await connection.fetch(READ_OWED),
            refunds=await connection.fetch(READ_REFUNDS),
            treasuries=await connection.fetch(READ_TREASURIES),
            signers=await connection.fetch(READ_SIGNERS),
            heads=await connection.fetch(READ_HEADS),
            tokens=await connection.fetch(READ_TOKENS),
            processes=await connection.fetch(READ_PROCESSES, LIVE_S),
            size_bytes=await connection.fetchval(READ_SIZE),
        )
