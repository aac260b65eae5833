"""What a system that drains still has to do."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.store.database import Connection

# count_remaining: rows that are not at an end. Held ones wait for an operator, not for a worker, and so do the units of
# a payment that is held, or that a reorg took for good.
COUNT_REMAINING = """
SELECT p.pending, p.sent, m.pending AS to_mint, m.sent AS minting, p.held + m.held AS held,
       (SELECT count(*) FROM chain_transactions WHERE network = $1 AND state = 'sent') AS transactions,
       (SELECT count(*) FROM owed WHERE network = $1 AND status = 'open') AS owed
FROM (
    SELECT count(*) FILTER (WHERE status = 'pending' AND held_reason IS NULL) AS pending,
           count(*) FILTER (WHERE status = 'pending' AND held_reason IS NOT NULL) AS held,
           count(*) FILTER (WHERE status = 'sent') AS sent
    FROM payment_queue WHERE network = $1 AND (status = 'pending' OR status = 'sent')
) p CROSS JOIN (
    SELECT count(*) FILTER (WHERE u.status = 'pending' AND NOT u.is_held) AS pending,
           count(*) FILTER (WHERE u.status = 'pending' AND u.is_held) AS held,
           count(*) FILTER (WHERE u.status = 'sent') AS sent
    FROM (
        SELECT q.status, q.held_reason IS NOT NULL OR p.held_reason IS NOT NULL OR p.finality = 'lost' AS is_held
        FROM mint_queue q JOIN payment_queue p ON p.id = q.payment_id
        WHERE q.network = $1 AND (q.status = 'pending' OR q.status = 'sent')
    ) u
) m
"""


@dataclass(frozen=True, slots=True)
class Remaining:
    """Payments and units by what is still to be done with them; `transactions` have no known outcome."""

    pending: int
    sent: int
    to_mint: int
    minting: int
    transactions: int
    held: int
    owed: int

    @property
    def is_done(self) -> bool:
        """Whether the workers have nothing left to do; what is held or owed is an operator's."""
        return not (self.pending or self.sent or self.to_mint or self.minting or self.transactions)


async def count(connection: Connection, network: str) -> Remaining:
    """What is left."""
    row = await connection.fetchrow(COUNT_REMAINING, network)
    assert row is not None  # noqa: S101 - a SELECT without FROM always gives a row
    return Remaining(**row)
