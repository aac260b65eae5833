"""`wallet_payments` and `quarantined_payers`: payments whose signature only the chain can judge, and who burned gas.

Neither is needed for anything to be right: they bound what nonsense and malice may cost.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence

import asyncpg

from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.units import Address, hex_text

# Read as a whole by each API process: those who are free last.
REFUSED_MAX = 5_000
FORGOTTEN_AT_ONCE_MAX = 1_000

# note_wallet_payments: accepted without a look at the signature, in the commit that queues them.
NOTE_WALLET_PAYMENTS = """
INSERT INTO wallet_payments (payment_id, network, payer)
SELECT id, $1, payer FROM unnest($2::uuid[], $3::text[]) AS n(id, payer)
"""

# count_wallet_payments: those that are unsettled, by payer. Each is looked up by its id (OFFSET 0 keeps it so): there
# are few of them, and a planner without statistics would rather read the whole queue.
COUNT_WALLET_PAYMENTS = """
SELECT w.payer, count(*) AS payments
FROM wallet_payments w CROSS JOIN LATERAL (
    SELECT FROM payment_queue p WHERE p.id = w.payment_id AND p.status IN ('pending', 'sent') OFFSET 0
) unsettled
WHERE w.network = $1
GROUP BY w.payer
"""

# forget_settled: what is paid, failed or moved to history is counted no longer.
FORGET_SETTLED = """
DELETE FROM wallet_payments WHERE payment_id IN (
    SELECT w.payment_id FROM wallet_payments w
    WHERE NOT EXISTS (SELECT FROM payment_queue p WHERE p.id = w.payment_id AND p.status IN ('pending', 'sent'))
    LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""

# quarantine: these payers' code was there when a transaction ran out of gas; $3: it was in there alone, so it burned
# it. In order, so that two cannot wait for each other.
QUARANTINE = """
INSERT INTO quarantined_payers AS known (network, payer, burns, until)
SELECT $1, payer, $3, now() + $4 * interval '1 second' FROM unnest($2::text[]) AS q(payer) ORDER BY payer
ON CONFLICT (network, payer) DO UPDATE
SET burns = known.burns + excluded.burns, until = greatest(known.until, excluded.until)
"""

# quarantined: which of these payers are, and how often each burned a transaction of its own.
QUARANTINED = """
SELECT payer, burns FROM quarantined_payers WHERE network = $1 AND payer = ANY($2::text[]) AND until > now()
"""

# refused_payers: who burned a transaction of its own, and for how long nothing more is taken of it.
REFUSED_PAYERS = """
SELECT payer, extract(epoch FROM until - now())::float8 AS left_s FROM quarantined_payers
WHERE network = $1 AND burns > 0 AND until > now() ORDER BY until DESC LIMIT $2
"""

# list_quarantined: who is set apart and until when, and how many payments of each are unsettled.
LIST_QUARANTINED = """
SELECT q.payer, q.burns, q.created_at, q.until, coalesce(u.payments, 0) AS unsettled
FROM quarantined_payers q LEFT JOIN (
    SELECT payer, count(*) AS payments FROM payment_queue
    WHERE network = $1 AND status IN ('pending', 'sent') GROUP BY payer
) u ON u.payer = q.payer
WHERE q.network = $1 AND q.until > now() ORDER BY q.until DESC, q.payer LIMIT $2
"""

# release_payer: an operator lets it in again before its time is over.
RELEASE_PAYER = """
DELETE FROM quarantined_payers WHERE network = $1 AND payer = $2 AND until > now() RETURNING burns
"""

# forget_quarantines: their time is over.
FORGET_QUARANTINES = "DELETE FROM quarantined_payers WHERE until <= now()"


async def note(connection: Connection, *, network: str, payments: Mapping[uuid.UUID, Address]) -> None:
    """Payments that were queued in this same transaction, and their payers: accepted unverified."""
    await connection.execute(NOTE_WALLET_PAYMENTS, network, list(payments), [hex_text(p) for p in payments.values()])


async def count(connection: Connection, network: str) -> dict[Address, int]:
    """How many payments accepted unverified each payer has unsettled."""
    rows = await connection.fetch(COUNT_WALLET_PAYMENTS, network)
    return {address_of(row["payer"]): row["payments"] for row in rows}


async def quarantine(
    connection: Connection, *, network: str, payers: Collection[Address], burned: bool, for_s: int
) -> None:
    """Set payers apart; `burned`: each took the gas of a transaction that was its alone."""
    await connection.execute(QUARANTINE, network, [hex_text(p) for p in payers], int(burned), for_s)


async def quarantined(connection: Connection, *, network: str, payers: Sequence[Address]) -> dict[Address, int]:
    """Those of the payers that are set apart, and how many transactions of its own each burned."""
    rows = await connection.fetch(QUARANTINED, network, [hex_text(p) for p in payers])
    return {address_of(row["payer"]): row["burns"] for row in rows}


async def refused(connection: Connection, network: str) -> dict[Address, float]:
    """The payers of whom nothing is taken, and for how many seconds more."""
    return {address_of(r["payer"]): r["left_s"] for r in await connection.fetch(REFUSED_PAYERS, network, REFUSED_MAX)}


async def listed(connection: Connection, network: str, *, limit: int) -> list[asyncpg.Record]:
    """Who is set apart, those who are free last first."""
    return await connection.fetch(LIST_QUARANTINED, network, limit)


async def release(connection: Connection, *, network: str, payer: Address) -> int | None:
    """Set a payer apart no longer; returns how many transactions of its own it had burned, None if it was not."""
    burns: int | None = await connection.fetchval(RELEASE_PAYER, network, hex_text(payer))
    return burns


async def forget_old(connection: Connection) -> None:
    """Drop the rows that say nothing any more."""
    await connection.execute(FORGET_SETTLED, FORGOTTEN_AT_ONCE_MAX)
    await connection.execute(FORGET_QUARANTINES)
