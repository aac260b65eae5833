"""`chain_attempts`: the bytes in flight under each account nonce, sent again or replaced; and nonces without any."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.transactions import NOT_WAITING
from payfirst.units import AccountNonce, Address, Gas, TxHash, UnixTime, Wei, hex_text

# used_up: unresolved transactions below the account nonce that the chain is at, with every hash of theirs.
USED_UP = f"""
SELECT t.id, t.account_nonce, array_agg(a.hash) AS hashes
FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id
WHERE t.network = $1 AND t.signer = $2 AND t.state = 'sent' AND t.account_nonce < $3 AND {NOT_WAITING}
GROUP BY t.id ORDER BY t.account_nonce
"""

# signers_in_flight: whoever has unresolved transactions.
SIGNERS_IN_FLIGHT = "SELECT DISTINCT signer FROM chain_transactions WHERE network = $1 AND state = 'sent'"

# missing_nonces: account nonces from the chain's on that were never given to any transaction. The bounds are named
# twice, so that only the index's part between them is read.
MISSING_NONCES = """
SELECT n.account_nonce FROM generate_series($3::bigint, $4::bigint) AS n(account_nonce)
WHERE NOT EXISTS (SELECT 1 FROM chain_transactions t
                  WHERE t.network = $1 AND t.signer = $2 AND t.account_nonce = n.account_nonce
                    AND t.account_nonce BETWEEN $3 AND $4)
ORDER BY n.account_nonce LIMIT $5
"""

# read_in_flight: the newest attempt of each unresolved transaction of a signer, oldest nonce first, and until when
# any of its payments or refunds can be settled (null where it carries none: a unit can be minted at any time).
READ_IN_FLIGHT = f"""
SELECT t.id, t.account_nonce, t.to_address, t.gas_limit, a.hash, a.signed_bytes, a.max_fee_per_gas_wei,
       a.max_priority_fee_per_gas_wei, a.is_noop, a.broadcast_count,
       t.replace_requested_at IS NOT NULL AS replace_requested,
       extract(epoch FROM now() - a.last_broadcast_at)::float8 AS silent_s,
       (SELECT max(coalesce((SELECT valid_before FROM payment_queue WHERE id = i.payment_id),
                            (SELECT valid_before FROM refunds WHERE id = i.refund_id)))
        FROM chain_transaction_items i WHERE i.transaction_id = t.id) AS valid_before
FROM chain_transactions t
CROSS JOIN LATERAL (
    SELECT * FROM chain_attempts WHERE transaction_id = t.id ORDER BY created_at DESC, broadcast_count LIMIT 1
) a
WHERE t.network = $1 AND t.signer = $2 AND t.state = 'sent' AND {NOT_WAITING}
ORDER BY t.account_nonce
"""

# store_replacement: other bytes for an account nonce that is spent already, under the epoch of its holder. Every
# hash of the nonce is kept: any of them may be the one that is mined.
STORE_REPLACEMENT = """
INSERT INTO chain_attempts (hash, transaction_id, signed_bytes, max_fee_per_gas_wei, max_priority_fee_per_gas_wei,
                            is_noop)
SELECT $1, t.id, $3, $4, $5, $6
FROM chain_transactions t JOIN signers s ON s.network = t.network AND s.address = t.signer
WHERE t.id = $2 AND t.state = 'sent' AND s.epoch = $7
ON CONFLICT (hash) DO NOTHING
"""

# answer_request: an operator's wish for a replacement is fulfilled by the one just stored.
ANSWER_REQUEST = """
UPDATE chain_transactions SET replace_requested_at = NULL WHERE id = $1 AND replace_requested_at IS NOT NULL
"""

# rename_payments: what is on its way is shown under the hash that was sent last.
RENAME_PAYMENTS = """
UPDATE payment_queue SET tx_hash = $2
WHERE id IN (SELECT payment_id FROM chain_transaction_items WHERE transaction_id = $1) AND status = 'sent'
  AND tx_hash IN (SELECT hash FROM chain_attempts WHERE transaction_id = $1)
"""

# rename_mints: as rename_payments.
RENAME_MINTS = """
UPDATE mint_queue SET mint_tx_hash = $2
WHERE id IN (SELECT queue_id FROM chain_transaction_items WHERE transaction_id = $1) AND status = 'sent'
  AND mint_tx_hash IN (SELECT hash FROM chain_attempts WHERE transaction_id = $1)
"""

# rename_refunds: as rename_payments.
RENAME_REFUNDS = """
UPDATE refunds SET tx_hash = $2
WHERE status = 'sent' AND tx_hash IN (SELECT hash FROM chain_attempts WHERE transaction_id = $1)
"""

# note_broadcast: the bytes were handed to a node, or it was tried; an error decides nothing.
NOTE_BROADCAST = """
UPDATE chain_attempts
SET broadcast_count = broadcast_count + 1, last_broadcast_at = now(), last_error = $2
WHERE hash = $1
"""


@dataclass(frozen=True, slots=True)
class UsedUp:
    """An unresolved transaction whose account nonce the chain has passed, and every hash it could have."""

    id: int
    signer: Address
    nonce: AccountNonce
    hashes: tuple[TxHash, ...]


@dataclass(frozen=True, slots=True)
class InFlight:
    """An unresolved transaction and its newest attempt.

    `silent_s` is None before the first broadcast; `valid_before` is that of its last payment or refund, None for mints;
    `replace_requested`: an operator wants other bytes for its nonce without waiting.
    """

    id: int
    nonce: AccountNonce
    to: Address
    gas_limit: Gas
    hash: TxHash
    signed: bytes
    max_fee: Wei
    max_priority_fee: Wei
    is_noop: bool
    broadcast_count: int
    silent_s: float | None
    valid_before: UnixTime | None
    replace_requested: bool = False


@dataclass(frozen=True, slots=True)
class Replacement:
    """Other signed bytes for a transaction's account nonce: the same call at a higher fee, or a no-op."""

    transaction_id: int
    hash: TxHash
    signed: bytes
    max_fee: Wei
    max_priority_fee: Wei
    is_noop: bool


async def signers_in_flight(connection: Connection, network: str) -> list[Address]:
    """The signers that have unresolved transactions."""
    return [address_of(row["signer"]) for row in await connection.fetch(SIGNERS_IN_FLIGHT, network)]


async def used_up(connection: Connection, network: str, signer: Address, *, chain_nonce: AccountNonce) -> list[UsedUp]:
    """A signer's unresolved transactions below the nonce that the chain is at, lowest first."""
    rows = await connection.fetch(USED_UP, network, hex_text(signer), chain_nonce)
    return [
        UsedUp(row["id"], signer, AccountNonce(row["account_nonce"]), tuple(TxHash(bytes_of(h)) for h in row["hashes"]))
        for row in rows
    ]


async def missing_nonces(
    connection: Connection, network: str, signer: Address, *, first: AccountNonce, last: AccountNonce, limit: int
) -> list[AccountNonce]:
    """The account nonces from `first` to `last` that no transaction of ours has, lowest first."""
    rows = await connection.fetch(MISSING_NONCES, network, hex_text(signer), first, last, limit)
    return [AccountNonce(row["account_nonce"]) for row in rows]


async def in_flight(connection: Connection, network: str, signer: Address) -> list[InFlight]:
    """A signer's unresolved transactions, oldest nonce first."""
    rows = await connection.fetch(READ_IN_FLIGHT, network, hex_text(signer))
    return [
        InFlight(
            id=row["id"],
            nonce=AccountNonce(row["account_nonce"]),
            to=address_of(row["to_address"]),
            gas_limit=Gas(row["gas_limit"]),
            hash=TxHash(bytes_of(row["hash"])),
            signed=row["signed_bytes"],
            max_fee=Wei(int(row["max_fee_per_gas_wei"])),
            max_priority_fee=Wei(int(row["max_priority_fee_per_gas_wei"])),
            is_noop=row["is_noop"],
            broadcast_count=row["broadcast_count"],
            silent_s=row["silent_s"],
            valid_before=None if row["valid_before"] is None else UnixTime(row["valid_before"]),
            replace_requested=row["replace_requested"],
        )
        for row in rows
    ]


async def store_replacement(connection: Connection, new: Replacement, *, epoch: int) -> bool:
    """Store other bytes for a nonce; False when it was resolved meanwhile, or the signer has another holder.

    Payments, units and refunds on their way are then shown under the new hash, unless it is a no-op's.
    """
    stored = await connection.execute(
        STORE_REPLACEMENT,
        hex_text(new.hash),
        new.transaction_id,
        new.signed,
        new.max_fee,
        new.max_priority_fee,
        new.is_noop,
        epoch,
    )
    if stored != "INSERT 0 1":
        return False
    await connection.execute(ANSWER_REQUEST, new.transaction_id)
    if not new.is_noop:
        await connection.execute(RENAME_PAYMENTS, new.transaction_id, hex_text(new.hash))
        await connection.execute(RENAME_MINTS, new.transaction_id, hex_text(new.hash))
        await connection.execute(RENAME_REFUNDS, new.transaction_id, hex_text(new.hash))
    return True


async def note_broadcast(connection: Connection, tx_hash: TxHash, *, error: str | None) -> None:
    """Remember that the bytes were handed to a node, or what it said against them."""
    await connection.execute(NOTE_BROADCAST, hex_text(tx_hash), error)
