"""`short_payers`: whose balance a pre-flight saw fall short of what they signed, and how much they had.

News for admission, which asks no chain. No row of it is needed for anything to be right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.units import Address, AtomicAmount, BlockNumber, hex_text

# Read as a whole by each API process: the newest are kept, and for so long.
KEPT_MAX = 5_000
KEPT_S = 3_600

# note_short: what these payers had at a block; later blocks are believed. In order, so that two cannot wait for each
# other.
NOTE_SHORT = """
INSERT INTO short_payers AS known (network, asset, payer, balance, height)
SELECT $1, $2, payer, balance, $5 FROM unnest($3::text[], $4::numeric[]) AS s(payer, balance) ORDER BY payer
ON CONFLICT (network, asset, payer) DO UPDATE
SET balance = excluded.balance, height = excluded.height, seen_at = now() WHERE known.height <= excluded.height
"""

# forget_able: at a block these payers had enough for all they signed. A row that another worker writes is its to judge.
FORGET_ABLE = """
DELETE FROM short_payers WHERE (network, asset, payer) IN (
    SELECT network, asset, payer FROM short_payers
    WHERE network = $1 AND asset = $2 AND payer = ANY($3::text[]) AND height <= $4
    FOR UPDATE SKIP LOCKED
)
"""

# forget_old: what is old, and what is more than is kept.
FORGET_OLD = """
DELETE FROM short_payers
WHERE seen_at < greatest(
    now() - $1 * interval '1 second',
    (SELECT seen_at FROM short_payers ORDER BY seen_at DESC OFFSET $2 LIMIT 1)
)
"""

# read_short: the payers, and what they have unsettled: the index on live rows finds it.
READ_SHORT = """
SELECT s.payer, s.balance, s.height, extract(epoch FROM now() - s.seen_at)::float8 AS age_s, u.payments, u.value
FROM (
    SELECT * FROM short_payers WHERE network = $1 AND asset = $2 ORDER BY seen_at DESC LIMIT $3
) s
CROSS JOIN LATERAL (
    SELECT count(*) AS payments, coalesce(sum(p.amount), 0) AS value FROM payment_queue p
    WHERE p.payer = s.payer AND p.status IN ('pending', 'sent') AND p.network = s.network AND p.asset = s.asset
) u
"""


@dataclass(frozen=True, slots=True)
class ShortPayer:
    """What a payer had at `height`, seen `age_s` ago, and the number and sum of its unsettled payments."""

    balance: AtomicAmount
    height: BlockNumber
    age_s: float
    payments: int
    value: AtomicAmount


async def note(
    connection: Connection,
    *,
    network: str,
    asset: Address,
    short: Mapping[Address, AtomicAmount],
    able: Collection[Address],
    height: BlockNumber,
) -> None:
    """Keep what a pre-flight at `height` saw: the balances of those who are short, and who is not."""
    where = (network, hex_text(asset))
    if short:
        await connection.execute(NOTE_SHORT, *where, [hex_text(p) for p in short], list(short.values()), height)
    if able:
        await connection.execute(FORGET_ABLE, *where, [hex_text(p) for p in able], height)


async def forget_old(connection: Connection) -> None:
    """Drop the rows that say nothing any more, and the oldest of too many."""
    await connection.execute(FORGET_OLD, KEPT_S, KEPT_MAX - 1)


async def read(connection: Connection, *, network: str, asset: Address) -> dict[Address, ShortPayer]:
    """The payers last seen short, with what they have unsettled."""
    rows = await connection.fetch(READ_SHORT, network, hex_text(asset), KEPT_MAX)
    return {
        address_of(row["payer"]): ShortPayer(
            balance=AtomicAmount(int(row["balance"])),
            height=BlockNumber(row["height"]),
            age_s=row["age_s"],
            payments=row["payments"],
            value=AtomicAmount(int(row["value"])),
        )
        for row in rows
    }
