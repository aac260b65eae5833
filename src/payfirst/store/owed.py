"""`owed`: what was paid for and not delivered, or delivered and no longer paid for. Named, never missing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from payfirst.store.database import Connection
from payfirst.store.never_reuse import where_held
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, TxHash, hex_text

# write_owed: the same debt is written once, however often it is found. One that had ended with its unit's delivery,
# or with another try, is open again; one that was refunded or settled by hand is not.
# The amount is the unit's share of what was paid; a payment's units share it evenly, because price is a unit's.
WRITE_OWED = """
INSERT INTO owed (direction, network, payment_id, unit, reason, asset, amount, beneficiary)
SELECT $1, p.network, p.id, o.unit, $4, p.asset,
       CASE WHEN o.unit IS NULL THEN p.amount ELSE p.amount / p.quantity END,
       CASE WHEN $1 = 'to_buyer' THEN p.payer ELSE p.pay_to END
FROM unnest($2::uuid[], $3::int[]) AS o(payment_id, unit) JOIN payment_queue p ON p.id = o.payment_id
WHERE o.unit IS NOT NULL
   OR NOT EXISTS (SELECT FROM owed w WHERE w.payment_id = p.id AND w.unit IS NULL AND w.reason = $4)
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

# write_unclaimed: money that no payment holds, to be given back to its payer. A payment that was refused because its
# authorization had been used before does not hold what came by that use. Written once, by a unique index.
WRITE_UNCLAIMED = f"""
INSERT INTO owed (direction, network, reason, asset, amount, beneficiary, authorization_nonce, tx_hash, note)
SELECT 'to_buyer', $1, 'money_without_payment', $2, m.amount, '0x' || encode(m.payer, 'hex'),
       '0x' || encode(m.nonce, 'hex'), m.tx_hash, 'came in ' || m.tx_hash
FROM unnest($3::bytea[], $4::bytea[], $5::numeric[], $6::text[], $7::bigint[])
     AS m(payer, nonce, amount, tx_hash, block)
WHERE NOT EXISTS (
    SELECT FROM (
        SELECT payment_id FROM authorizations
        WHERE {where_held("m.payer", "m.nonce", "decode(substr($2, 3), 'hex')", "$1::text")}
    ) a LEFT JOIN payment_queue p ON p.id = a.payment_id
    WHERE p.id IS NULL OR p.status <> 'failed' OR p.accepted_height < m.block)
ON CONFLICT DO NOTHING
RETURNING id, beneficiary, authorization_nonce, amount, tx_hash
"""

# find_unclaimed: which uses of authorizations are named as owed already.
FIND_UNCLAIMED = """
SELECT beneficiary, authorization_nonce FROM owed
WHERE payment_id IS NULL AND network = $1 AND asset = $2 AND authorization_nonce = ANY($3::text[])
"""

# settle_claimed: the payment for which money was owed without one has been credited after all.
SETTLE_CLAIMED = """
UPDATE owed o SET status = 'resolved', resolution = 'minted', resolved_at = now(), note = 'credited to payment ' || p.id
FROM payment_queue p
WHERE p.id = ANY($1::uuid[]) AND o.payment_id IS NULL AND o.network = p.network AND o.asset = p.asset
  AND o.beneficiary = p.payer AND o.authorization_nonce = p.authorization_nonce AND o.status = 'open'
"""

Direction = Literal["to_buyer", "to_seller"]


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Money that came by an authorization which no payment holds: of whom, how much, and by which transaction."""

    payer: Address
    nonce: AuthorizationNonce
    amount: AtomicAmount
    tx_hash: TxHash
    block: BlockNumber


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


async def write_unclaimed(
    connection: Connection, network: str, asset: Address, found: Sequence[Unclaimed]
) -> list[tuple[Address, AuthorizationNonce]]:
    """Name money without a payment as owed to its payers; returns those that were not named before."""
    rows = await connection.fetch(
        WRITE_UNCLAIMED,
        network,
        hex_text(asset),
        [u.payer for u in found],
        [u.nonce for u in found],
        [u.amount for u in found],
        [hex_text(u.tx_hash) for u in found],
        [u.block for u in found],
    )
    return [(address_of(r["beneficiary"]), AuthorizationNonce(bytes_of(r["authorization_nonce"]))) for r in rows]


async def unclaimed(
    connection: Connection, network: str, asset: Address, nonces: Sequence[AuthorizationNonce]
) -> set[tuple[Address, AuthorizationNonce]]:
    """Which of these uses are named as owed already, whatever has become of the debt."""
    rows = await connection.fetch(FIND_UNCLAIMED, network, hex_text(asset), [hex_text(n) for n in nonces])
    return {(address_of(r["beneficiary"]), AuthorizationNonce(bytes_of(r["authorization_nonce"]))) for r in rows}


async def settle_claimed(connection: Connection, payment_ids: Sequence[uuid.UUID]) -> None:
    """Close the debts for money whose payments have been credited after all."""
    await connection.execute(SETTLE_CLAIMED, payment_ids)
