"""`treasuries`: what refunds are paid from, as the workers saw it last."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.units import Address, AtomicAmount, hex_text

# see_treasury: what refunds are paid from, as it was seen last.
SEE_TREASURY = """
INSERT INTO treasuries (network, asset, address, balance) VALUES ($1, $2, $3, $4)
ON CONFLICT (network, asset, address) DO UPDATE SET balance = EXCLUDED.balance, seen_at = now()
"""

# remember_payer: no worker has its key, but the chain shows a refund that it paid. It is never asked for uses of
# others: anyone could have paid one, to have a say in them.
REMEMBER_PAYER = """
INSERT INTO treasuries (network, asset, address, balance, seen_at) VALUES ($1, $2, $3, 0, to_timestamp(0))
ON CONFLICT DO NOTHING
"""

# known_treasuries: every account that has been to pay refunds: each may have used a nonce.
KNOWN_TREASURIES = """
SELECT address FROM treasuries WHERE network = $1 AND asset = $2 AND seen_at > to_timestamp(0) ORDER BY address
"""

# hold_treasury: it is short of money; nothing changes when that is known.
HOLD_TREASURY = """
UPDATE treasuries SET held_reason = $4
WHERE network = $1 AND asset = $2 AND address = $3 AND (held_reason IS NULL) <> ($4::text IS NULL)
"""

# lock_treasury: refunds are stored one transaction after the other, so that no limit is passed by two at once.
LOCK_TREASURY = "SELECT 1 FROM treasuries WHERE network = $1 AND asset = $2 AND address = $3 FOR UPDATE"

# read_treasuries: what there is, the one that was seen last first.
READ_TREASURIES = """
SELECT address, balance, held_reason, seen_at FROM treasuries
WHERE network = $1 AND asset = $2 AND seen_at > to_timestamp(0) ORDER BY seen_at DESC
"""


# sum_owed: what could be refunded in the end, in atomic units; money without a payment is not among it.
SUM_OWED = """
SELECT coalesce(sum(amount), 0) FROM owed
WHERE network = $1 AND asset = $2 AND direction = 'to_buyer' AND status = 'open' AND payment_id IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class TreasuryState:
    """A treasury as it was seen last; `held_reason` while it is short of money."""

    address: Address
    balance: AtomicAmount
    held_reason: str | None
    seen_at: dt.datetime


async def see(
    connection: Connection, network: str, asset: Address, treasury: Address, *, balance: AtomicAmount
) -> None:
    """Remember a treasury and what it has."""
    await connection.execute(SEE_TREASURY, network, hex_text(asset), hex_text(treasury), balance)


async def remember_payer(connection: Connection, network: str, asset: Address, payer: Address) -> None:
    """Remember an account of which the chain shows that it paid a refund."""
    await connection.execute(REMEMBER_PAYER, network, hex_text(asset), hex_text(payer))


async def known(connection: Connection, network: str, asset: Address) -> list[Address]:
    """Every account that has paid, or is to pay, refunds."""
    return [address_of(r["address"]) for r in await connection.fetch(KNOWN_TREASURIES, network, hex_text(asset))]


async def owed(connection: Connection, network: str, asset: Address) -> AtomicAmount:
    """What refunds may come to of all that is owed to buyers now."""
    return AtomicAmount(int(await connection.fetchval(SUM_OWED, network, hex_text(asset))))


async def hold(connection: Connection, network: str, asset: Address, treasury: Address, *, reason: str | None) -> bool:
    """Note that it is short of money, or (None) that it no longer is; False when that was known."""
    changed = await connection.execute(HOLD_TREASURY, network, hex_text(asset), hex_text(treasury), reason)
    return changed == "UPDATE 1"


async def lock(connection: Connection, network: str, asset: Address, treasury: Address) -> None:
    """Let nobody else store refunds of this treasury until this transaction ends."""
    await connection.execute(LOCK_TREASURY, network, hex_text(asset), hex_text(treasury))


async def read(connection: Connection, network: str, asset: Address) -> list[TreasuryState]:
    """Every treasury, the one that was seen last first."""
    return [
        TreasuryState(address_of(row["address"]), AtomicAmount(int(row["balance"])), row["held_reason"], row["seen_at"])
        for row in await connection.fetch(READ_TREASURIES, network, hex_text(asset))
    ]
