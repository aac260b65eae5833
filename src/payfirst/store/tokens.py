"""`tokens`: what is for sale, what it costs, and how much of it is left."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from payfirst.store.claims import is_ours
from payfirst.store.database import Connection
from payfirst.store.rows import address_of
from payfirst.units import Address, AtomicAmount, BlockNumber, hex_text

# add_token: offer a token at a price; the rest is read from the chain. One that is there is left as it is.
ADD_TOKEN = """
INSERT INTO tokens (network, address, price) VALUES ($1, $2, $3) ON CONFLICT (network, address) DO NOTHING
"""

# change_price: what is offered from here on; payments keep the amount they were accepted with.
CHANGE_PRICE = "UPDATE tokens SET price = $4 WHERE network = $1 AND address = $2 AND price = $3"

# pause_token: sell no more of it. What was accepted is settled and minted all the same.
PAUSE_TOKEN = "UPDATE tokens SET status = 'paused' WHERE network = $1 AND address = $2 AND status = 'active'"

# resume_token: sell it again, and believe that it mints again; a worker that finds out otherwise holds it again.
RESUME_TOKEN = """
UPDATE tokens SET status = 'active', held_reason = NULL
WHERE network = $1 AND address = $2 AND (status = 'paused' OR held_reason IS NOT NULL)
"""

# read_tokens: everything that is or was offered.
READ_TOKENS = """
SELECT address, price, status, name, symbol, mint_amount, max_mint_count, minted, reserved, held_reason,
       synced_height, extract(epoch FROM now() - synced_at)::float8 AS synced_age_s
FROM tokens WHERE network = $1 ORDER BY created_at, address
"""

# sync_token: what the contract says at a block that was read, in the transaction that counts that block's mints.
SYNC_TOKEN = """
UPDATE tokens
SET name = $3, symbol = $4, mint_amount = $5, max_mint_count = $6, minted = $7,
    synced_height = $8, synced_at = now()
WHERE network = $1 AND address = $2
"""

# sync_newer_token: what a command has read, unless a worker has counted a block of the same height or above. Units
# minted since the workers' cursor are counted twice until they get there: sold too few for a moment, never too many.
SYNC_NEWER_TOKEN = """
UPDATE tokens
SET name = $3, symbol = $4, mint_amount = $5, max_mint_count = $6, minted = $7,
    synced_height = $8, synced_at = now()
WHERE network = $1 AND address = $2 AND (synced_height IS NULL OR synced_height < $8)
"""

# lock_supply: nobody else reserves these tokens until this transaction ends.
LOCK_SUPPLY = """
SELECT address, max_mint_count, minted, reserved, status, held_reason FROM tokens
WHERE network = $1 AND address = ANY($2::text[]) ORDER BY address FOR UPDATE
"""

# add_reserved: units that are promised to payments, more or fewer.
ADD_RESERVED = """
UPDATE tokens t SET reserved = reserved + d.units
FROM unnest($2::text[], $3::bigint[]) AS d(address, units)
WHERE t.network = $1 AND t.address = d.address
"""

# take_supply: promise units where that many are left, without a look before. The tokens that had them are returned.
TAKE_SUPPLY = """
UPDATE tokens t SET reserved = reserved + d.units
FROM (SELECT * FROM unnest($2::text[], $3::bigint[]) AS n(address, units) ORDER BY address) AS d
WHERE t.network = $1 AND t.address = d.address AND t.minted + t.reserved + d.units <= t.max_mint_count
RETURNING t.address
"""

# mark_reserved: these pending payments hold supply, so that a crash between here and sending leaks none.
MARK_RESERVED = f"""
UPDATE payment_queue SET supply_reserved = true
WHERE id = ANY($1::uuid[]) AND status = 'pending' AND NOT supply_reserved AND {is_ours("$2", "$3")}
"""

# hold_token: accept no more payments for a token that refuses to mint, and say why.
HOLD_TOKEN = """
UPDATE tokens SET held_reason = $3 WHERE network = $1 AND address = $2 AND held_reason IS DISTINCT FROM $3
"""

# end_hold: it mints again.
END_HOLD = "UPDATE tokens SET held_reason = NULL WHERE network = $1 AND address = $2 AND held_reason IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Token:
    """A token on offer. Counts are in mints; `price` is in the asset's atomic units a mint."""

    address: Address
    price: AtomicAmount
    active: bool
    name: str | None
    symbol: str | None
    mint_amount: int | None
    max_mint_count: int | None
    minted: int
    reserved: int
    held_reason: str | None
    synced_height: BlockNumber | None
    synced_age_s: float | None


@dataclass(frozen=True, slots=True)
class Supply:
    """What is left of a token, under its row lock; `max_mint_count` is None before the first sync."""

    address: Address
    max_mint_count: int | None
    minted: int
    reserved: int


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token's contract says at one block."""

    address: Address
    name: str
    symbol: str
    mint_amount: int
    max_mint_count: int
    minted: int


async def add(connection: Connection, network: str, address: Address, *, price: AtomicAmount) -> bool:
    """Offer a token; False when it is there already, which changes nothing."""
    return (await connection.execute(ADD_TOKEN, network, hex_text(address), price)) == "INSERT 0 1"


async def change_price(
    connection: Connection, network: str, address: Address, *, before: AtomicAmount, after: AtomicAmount
) -> bool:
    """Ask another price from here on; False when the price is no longer `before`."""
    changed = await connection.execute(CHANGE_PRICE, network, hex_text(address), before, after)
    return changed == "UPDATE 1"


async def pause(connection: Connection, network: str, address: Address) -> bool:
    """Sell no more of a token; False when it is paused already."""
    return (await connection.execute(PAUSE_TOKEN, network, hex_text(address))) == "UPDATE 1"


async def resume(connection: Connection, network: str, address: Address) -> bool:
    """Sell it again; False when it was neither paused nor held."""
    return (await connection.execute(RESUME_TOKEN, network, hex_text(address))) == "UPDATE 1"


async def find(connection: Connection, network: str, address: Address) -> Token | None:
    """One token, None when it was never offered."""
    return next((t for t in await read(connection, network) if t.address == address), None)


async def read(connection: Connection, network: str) -> list[Token]:
    """All tokens of a network, oldest first."""
    rows = await connection.fetch(READ_TOKENS, network)
    return [
        Token(
            address=address_of(row["address"]),
            price=AtomicAmount(int(row["price"])),
            active=row["status"] == "active",
            name=row["name"],
            symbol=row["symbol"],
            mint_amount=_whole(row["mint_amount"]),
            max_mint_count=_whole(row["max_mint_count"]),
            minted=int(row["minted"]),
            reserved=row["reserved"],
            held_reason=row["held_reason"],
            synced_height=row["synced_height"],
            synced_age_s=row["synced_age_s"],
        )
        for row in rows
    ]


async def sync(connection: Connection, network: str, facts: TokenFacts, *, height: BlockNumber) -> None:
    """Store what the contract says at `height`, in the transaction that applies that block."""
    await connection.execute(SYNC_TOKEN, network, *_stored(facts), height)


async def sync_newer(connection: Connection, network: str, facts: TokenFacts, *, height: BlockNumber) -> bool:
    """Store what the contract says at `height`; False when it is known from that height or a later one."""
    return (await connection.execute(SYNC_NEWER_TOKEN, network, *_stored(facts), height)) == "UPDATE 1"


async def lock_supply(connection: Connection, network: str, addresses: Sequence[Address]) -> dict[Address, Supply]:
    """Lock the rows of these tokens and say what is left. Lock payments first, tokens second."""
    rows = await connection.fetch(LOCK_SUPPLY, network, [hex_text(a) for a in addresses])
    found = [
        Supply(
            address=address_of(row["address"]),
            max_mint_count=_whole(row["max_mint_count"]),
            minted=int(row["minted"]),
            reserved=row["reserved"],
        )
        for row in rows
    ]
    return {s.address: s for s in found}


async def take_supply(connection: Connection, network: str, units: Mapping[Address, int]) -> bool:
    """Promise so many more units of each token; False when one of them has not so many left: roll back then."""
    if not units:
        return True
    taken = await connection.fetch(TAKE_SUPPLY, network, [hex_text(a) for a in units], list(units.values()))
    return len(taken) == len(units)


async def add_reserved(connection: Connection, network: str, units: dict[Address, int]) -> None:
    """Raise (or, with negative numbers, lower) the units promised to payments."""
    await connection.execute(ADD_RESERVED, network, [hex_text(a) for a in units], list(units.values()))


async def mark_reserved(connection: Connection, ids: Sequence[uuid.UUID], *, owner: str, epoch: int) -> int:
    """Note on the payments that they hold supply; returns how many changed."""
    changed = await connection.execute(MARK_RESERVED, ids, owner, epoch)
    return int(changed.split()[-1])


async def hold(connection: Connection, network: str, address: Address, *, reason: str) -> bool:
    """Accept no more payments for a token; False when it is held for this reason already."""
    return (await connection.execute(HOLD_TOKEN, network, hex_text(address), reason)) == "UPDATE 1"


async def end_hold(connection: Connection, network: str, address: Address) -> bool:
    """Accept payments for it again; False when it was not held."""
    return (await connection.execute(END_HOLD, network, hex_text(address))) == "UPDATE 1"


def _stored(facts: TokenFacts) -> tuple[object, ...]:
    return (
        hex_text(facts.address),
        facts.name,
        facts.symbol,
        facts.mint_amount,
        facts.max_mint_count,
        facts.minted,
    )


def _whole(value: Decimal | None) -> int | None:
    return None if value is None else int(value)
