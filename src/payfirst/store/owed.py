"""`owed`: what was paid for and not delivered, or delivered and no longer paid for. Named, never missing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from payfirst.store.database import Connection

# write_owed: the same debt is written once, however often it is found. One that had ended with its unit's delivery,
# or with another try, is open again; one that was refunded or settled by hand is not.
# The amount is the unit's share of what was paid; a payment's units share it evenly, because price is a unit's.
WRITE_OWED = """
INSERT INTO owed (direction, network, payment_id, unit, reason, asset, amount, beneficiary)
SELECT $1, p.network, p.id, o.unit, $4, p.asset,
       CASE WHEN o.unit IS NULL THEN p.amount ELSE p.amount / p.quantity END,
       CASE WHEN $1 = 'to_buyer' THEN p.payer ELSE p.pay_to END
FROM unnest($2::uuid[], $3::int[]) AS o(payment_id, unit) JOIN payment_queue p ON p.id = o.payment_id
ON CONFLICT (payment_id, unit, reason) DO UPDATE
SET status = 'open', resolution = NULL, note = NULL, resolved_at = NULL
WHERE owed.status = 'resolved' AND owed.resolution IN ('minted', 'tried_again')
"""

# settle_minted: a unit that was owed has been minted after all.
SETTLE_MINTED = """
UPDATE owed o SET status = 'resolved', resolution = 'minted', resolved_at = now(), note = 'minted after all'
FROM mint_queue m
WHERE m.id = ANY($1::uuid[]) AND o.payment_id = m.payment_id AND o.unit = m.unit AND o.status = 'open'
"""

Direction = Literal["to_buyer", "to_seller"]


@dataclass(frozen=True, slots=True)
class Debt:
    """A payment, or one unit of it (None: the whole of it)."""

    payment_id: uuid.UUID
    unit: int | None


async def write(connection: Connection, debts: Sequence[Debt], *, direction: Direction, reason: str) -> None:
    """Name debts to payers or to the seller."""
    await connection.execute(WRITE_OWED, direction, [d.payment_id for d in debts], [d.unit for d in debts], reason)


async def settle_minted(connection: Connection, queue_ids: Sequence[uuid.UUID]) -> None:
    """Close the debts of units that were minted after all."""
    await connection.execute(SETTLE_MINTED, queue_ids)
