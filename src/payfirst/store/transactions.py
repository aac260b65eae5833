"""`chain_transactions`, `chain_attempts`, `chain_transaction_items`: what was signed, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.signers import Purpose
from payfirst.units import (
    ZERO_ADDRESS,
    AccountNonce,
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    Gas,
    MintId,
    TxHash,
    UnixTime,
    Wei,
    hex_text,
)

# not_waiting: a transaction whose evidence waits is `sent`, but mined: nothing is to be done for it, its gas is paid.
NOT_WAITING = "NOT EXISTS (SELECT 1 FROM waiting_evidence w WHERE w.transaction_id = t.id)"

# store_transaction: the signed bytes, before anything is broadcast.
STORE_TRANSACTION = """
WITH stored AS (
    INSERT INTO chain_transactions (network, signer, account_nonce, purpose, signer_epoch, to_address, gas_limit,
                                    item_count)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    RETURNING id
)
INSERT INTO chain_attempts (hash, transaction_id, signed_bytes, max_fee_per_gas_wei, max_priority_fee_per_gas_wei,
                            is_noop)
SELECT $9, id, $10, $11, $12, $13 FROM stored
RETURNING transaction_id
"""

# store_payment_items: which payments a transaction carries, in the order of its calls.
STORE_PAYMENT_ITEMS = """
INSERT INTO chain_transaction_items (transaction_id, position, payment_id)
SELECT $1, ordinality - 1, id FROM unnest($2::uuid[]) WITH ORDINALITY AS i(id, ordinality)
"""

# store_mint_items: which units a transaction carries, in the order of its calldata.
STORE_MINT_ITEMS = """
INSERT INTO chain_transaction_items (transaction_id, position, queue_id)
SELECT $1, ordinality - 1, id FROM unnest($2::uuid[]) WITH ORDINALITY AS i(id, ordinality)
"""

# store_refund_items: which refunds a transaction carries, in the order of its calls.
STORE_REFUND_ITEMS = """
INSERT INTO chain_transaction_items (transaction_id, position, refund_id)
SELECT $1, ordinality - 1, id FROM unnest($2::uuid[]) WITH ORDINALITY AS i(id, ordinality)
"""

# count_unresolved: transactions of a signer that no block was seen to hold, and what they may cost at the most.
COUNT_UNRESOLVED = f"""
SELECT count(*) AS count, coalesce(sum(t.gas_limit * a.max_fee), 0) AS cost_wei
FROM chain_transactions t
CROSS JOIN LATERAL (
    SELECT max(max_fee_per_gas_wei) AS max_fee FROM chain_attempts WHERE transaction_id = t.id
) a
WHERE t.network = $1 AND t.signer = $2 AND t.state = 'sent' AND {NOT_WAITING}
"""

# unresolved_hashes: every hash under which an unresolved transaction could be mined, of any signer; and whether it was
# mined and its evidence waits.
UNRESOLVED_HASHES = f"""
SELECT a.hash, t.id, t.purpose, t.item_count, t.to_address, t.gas_limit, NOT {NOT_WAITING} AS waits
FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id
WHERE t.network = $1 AND t.state = 'sent'
"""

# our_hashes: which of these hashes are transactions of ours, resolved or not.
OUR_HASHES = "SELECT hash FROM chain_attempts WHERE hash = ANY($1::text[])"

# payment_items: the payments of some transactions, with the key by which evidence names them.
PAYMENT_ITEMS = """
SELECT i.transaction_id, i.position, p.id, p.payer, p.authorization_nonce
FROM chain_transaction_items i JOIN payment_queue p ON p.id = i.payment_id
WHERE i.transaction_id = ANY($1::bigint[])
"""

# mint_items: the units of some transactions, with the id by which evidence names them.
MINT_ITEMS = """
SELECT i.transaction_id, i.position, m.id, m.mint_id, m.token_address
FROM chain_transaction_items i JOIN mint_queue m ON m.id = i.queue_id
WHERE i.transaction_id = ANY($1::bigint[])
"""

# refund_items: the refunds of some transactions, with the nonce by which evidence names them.
REFUND_ITEMS = """
SELECT i.transaction_id, i.position, r.id, r.authorization_nonce, r.beneficiary, r.amount
FROM chain_transaction_items i JOIN refunds r ON r.id = i.refund_id
WHERE i.transaction_id = ANY($1::bigint[])
"""

# confirm_transactions: mined at depth, under one of its hashes.
CONFIRM_TRANSACTIONS = """
UPDATE chain_transactions t
SET state = 'confirmed', mined_hash = m.hash, mined_block = m.block, mined_block_hash = m.block_hash,
    succeeded = m.succeeded, gas_used = m.gas_used, gas_price_wei = m.gas_price, confirmed_at = now(),
    replace_requested_at = NULL
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bool[], $6::bigint[], $7::numeric[])
     AS m(id, hash, block, block_hash, succeeded, gas_used, gas_price)
WHERE t.id = m.id AND t.state = 'sent'
"""

# note_outcomes: which items of a mined transaction were not done by it. The others, nearly all, are not written again:
# an item without an outcome is open while its transaction is `sent`, and done when that is mined.
NOTE_OUTCOMES = """
UPDATE chain_transaction_items i SET outcome = o.outcome
FROM unnest($1::bigint[], $2::int[], $3::text[]) AS o(transaction_id, position, outcome)
WHERE i.transaction_id = o.transaction_id AND i.position = o.position
"""

# reopen_transactions: a reorg took the blocks above a fork; the same bytes are to be sent again.
REOPEN_TRANSACTIONS = """
UPDATE chain_transactions
SET state = 'sent', mined_hash = NULL, mined_block = NULL, mined_block_hash = NULL, succeeded = NULL,
    gas_used = NULL, gas_price_wei = NULL, confirmed_at = NULL
WHERE network = $1 AND state = 'confirmed' AND mined_block > $2
RETURNING id
"""

# forget_outcomes: what items of reopened transactions came to is open again.
FORGET_OUTCOMES = """
UPDATE chain_transaction_items SET outcome = NULL WHERE transaction_id = ANY($1::bigint[])
"""

# used_up: unresolved transactions below the account nonce that the chain is at, with every hash of theirs.
USED_UP = f"""
SELECT t.id, t.account_nonce, array_agg(a.hash) AS hashes
FROM chain_transactions t JOIN chain_attempts a ON a.transaction_id = t.id
WHERE t.network = $1 AND t.signer = $2 AND t.state = 'sent' AND t.account_nonce < $3 AND {NOT_WAITING}
GROUP BY t.id ORDER BY t.account_nonce
"""

# signers_in_flight: whoever has unresolved transactions.
SIGNERS_IN_FLIGHT = "SELECT DISTINCT signer FROM chain_transactions WHERE network = $1 AND state = 'sent'"

# displace_transactions: a final block holds another transaction under the nonce; these can never be mined.
DISPLACE_TRANSACTIONS = """
UPDATE chain_transactions SET state = 'displaced', confirmed_at = now()
WHERE id = ANY($1::bigint[]) AND state = 'sent'
RETURNING id
"""

# items_undone: what displaced transactions carried had no effect through them.
ITEMS_UNDONE = """
UPDATE chain_transaction_items SET outcome = 'reverted' WHERE transaction_id = ANY($1::bigint[])
RETURNING payment_id, queue_id
"""

# missing_nonces: account nonces from the chain's on that were never given to any transaction. The bounds are named
# twice, so that only the index's part between them is read.
MISSING_NONCES = """
SELECT n.account_nonce FROM generate_series($3::bigint, $4::bigint) AS n(account_nonce)
WHERE NOT EXISTS (SELECT 1 FROM chain_transactions t
                  WHERE t.network = $1 AND t.signer = $2 AND t.account_nonce = n.account_nonce
                    AND t.account_nonce BETWEEN $3 AND $4)
ORDER BY n.account_nonce LIMIT $5
"""

# finalize_transactions: mined in a block that is final now.
FINALIZE_TRANSACTIONS = """
UPDATE chain_transactions SET state = 'final'
WHERE network = $1 AND state = 'confirmed' AND mined_block <= $2
"""

# read_in_flight: the newest attempt of each unresolved transaction of a signer, oldest nonce first, and until when
# any of its payments or refunds can be settled (null where it carries none: a unit can be minted at any time).
READ_IN_FLIGHT = f"""
SELECT t.id, t.account_nonce, t.to_address, t.gas_limit, a.hash, a.signed_bytes, a.max_fee_per_gas_wei,
       a.max_priority_fee_per_gas_wei, a.is_noop, a.broadcast_count,
       t.replace_requested_at IS NOT NULL AS replace_requested,
       extract(epoch FROM now() - a.last_broadcast_at)::float8 AS silent_s,
       (SELECT max(coalesce(p.valid_before, r.valid_before)) FROM chain_transaction_items i
        LEFT JOIN payment_queue p ON p.id = i.payment_id LEFT JOIN refunds r ON r.id = i.refund_id
        WHERE i.transaction_id = t.id) AS valid_before
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
class Envelope:
    """A signed transaction on its way into the store."""

    network: str
    signer: Address
    nonce: AccountNonce
    purpose: Purpose
    epoch: int
    to: Address
    gas_limit: int
    hash: TxHash
    signed: bytes
    max_fee: Wei
    max_priority_fee: Wei
    is_noop: bool = False


@dataclass(frozen=True, slots=True)
class UsedUp:
    """An unresolved transaction whose account nonce the chain has passed, and every hash it could have."""

    id: int
    signer: Address
    nonce: AccountNonce
    hashes: tuple[TxHash, ...]


@dataclass(frozen=True, slots=True)
class Undone:
    """What displaced transactions carried: payments and units that had no effect through them."""

    transactions: list[int]
    payments: list[uuid.UUID]
    units: list[uuid.UUID]


_NO_GAS = Gas(0)


@dataclass(frozen=True, slots=True)
class UnresolvedHash:
    """A hash under which one of our transactions could be mined."""

    hash: TxHash
    transaction_id: int
    purpose: Purpose
    item_count: int
    to: Address = ZERO_ADDRESS
    waits: bool = False  # mined, and believed later
    gas_limit: Gas = _NO_GAS


@dataclass(frozen=True, slots=True)
class PaymentItem:
    """One payment in one transaction."""

    transaction_id: int
    position: int
    payment_id: uuid.UUID
    payer: Address
    nonce: AuthorizationNonce


@dataclass(frozen=True, slots=True)
class MintItem:
    """One unit in one transaction."""

    transaction_id: int
    position: int
    queue_id: uuid.UUID
    mint_id: MintId
    token: Address


@dataclass(frozen=True, slots=True)
class RefundItem:
    """One refund in one transaction."""

    transaction_id: int
    position: int
    refund_id: uuid.UUID
    nonce: AuthorizationNonce
    beneficiary: Address
    amount: AtomicAmount


@dataclass(frozen=True, slots=True)
class MinedTransaction:
    """One of our transactions in a block at depth."""

    id: int
    hash: TxHash
    block: BlockNumber
    block_hash: BlockHash
    succeeded: bool
    gas_used: int
    gas_price: Wei


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item: `done`, `reverted`, or done `elsewhere` (in another transaction)."""

    transaction_id: int
    position: int
    outcome: str


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
class Unresolved:
    """A signer's transactions without a known outcome, and what they may cost at the most."""

    count: int
    cost: Wei


@dataclass(frozen=True, slots=True)
class Replacement:
    """Other signed bytes for a transaction's account nonce: the same call at a higher fee, or a no-op."""

    transaction_id: int
    hash: TxHash
    signed: bytes
    max_fee: Wei
    max_priority_fee: Wei
    is_noop: bool


async def store(connection: Connection, envelope: Envelope, *, item_count: int) -> int:
    """Store a signed transaction and its first attempt; returns its id."""
    stored: int = await connection.fetchval(
        STORE_TRANSACTION,
        envelope.network,
        hex_text(envelope.signer),
        envelope.nonce,
        envelope.purpose,
        envelope.epoch,
        hex_text(envelope.to),
        envelope.gas_limit,
        item_count,
        hex_text(envelope.hash),
        envelope.signed,
        envelope.max_fee,
        envelope.max_priority_fee,
        envelope.is_noop,
    )
    return stored


async def store_payment_items(connection: Connection, transaction_id: int, ids: Sequence[uuid.UUID]) -> None:
    """Name the payments that a transaction carries, in order."""
    await connection.execute(STORE_PAYMENT_ITEMS, transaction_id, ids)


async def store_mint_items(connection: Connection, transaction_id: int, ids: Sequence[uuid.UUID]) -> None:
    """Name the units that a transaction carries, in order."""
    await connection.execute(STORE_MINT_ITEMS, transaction_id, ids)


async def store_refund_items(connection: Connection, transaction_id: int, ids: Sequence[uuid.UUID]) -> None:
    """Name the refunds that a transaction carries, in order."""
    await connection.execute(STORE_REFUND_ITEMS, transaction_id, ids)


async def count_unresolved(connection: Connection, network: str, signer: Address) -> Unresolved:
    """How many transactions of a signer have no known outcome, and what they may cost."""
    row = await connection.fetchrow(COUNT_UNRESOLVED, network, hex_text(signer))
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Unresolved(row["count"], Wei(int(row["cost_wei"])))


async def unresolved_hashes(connection: Connection, network: str) -> dict[TxHash, UnresolvedHash]:
    """Every hash under which an unresolved transaction of ours could be mined."""
    rows = await connection.fetch(UNRESOLVED_HASHES, network)
    found = [
        UnresolvedHash(
            TxHash(bytes_of(row["hash"])),
            row["id"],
            row["purpose"],
            row["item_count"],
            address_of(row["to_address"]),
            row["waits"],
            Gas(row["gas_limit"]),
        )
        for row in rows
    ]
    return {u.hash: u for u in found}


async def ours(connection: Connection, hashes: Sequence[TxHash]) -> set[TxHash]:
    """Which of these transactions are ours."""
    rows = await connection.fetch(OUR_HASHES, [hex_text(h) for h in hashes])
    return {TxHash(bytes_of(row["hash"])) for row in rows}


async def payment_items(connection: Connection, transaction_ids: Sequence[int]) -> list[PaymentItem]:
    """The payments that these transactions carry."""
    rows = await connection.fetch(PAYMENT_ITEMS, transaction_ids)
    return [
        PaymentItem(
            row["transaction_id"],
            row["position"],
            row["id"],
            address_of(row["payer"]),
            AuthorizationNonce(bytes_of(row["authorization_nonce"])),
        )
        for row in rows
    ]


async def mint_items(connection: Connection, transaction_ids: Sequence[int]) -> list[MintItem]:
    """The units that these transactions carry."""
    rows = await connection.fetch(MINT_ITEMS, transaction_ids)
    return [
        MintItem(
            row["transaction_id"],
            row["position"],
            row["id"],
            MintId(bytes_of(row["mint_id"])),
            address_of(row["token_address"]),
        )
        for row in rows
    ]


async def refund_items(connection: Connection, transaction_ids: Sequence[int]) -> list[RefundItem]:
    """The refunds that these transactions carry; one whose row was lost is absent."""
    rows = await connection.fetch(REFUND_ITEMS, transaction_ids)
    return [
        RefundItem(
            row["transaction_id"],
            row["position"],
            row["id"],
            AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            address_of(row["beneficiary"]),
            AtomicAmount(int(row["amount"])),
        )
        for row in rows
    ]


async def confirm(connection: Connection, mined: Sequence[MinedTransaction], outcomes: Sequence[ItemOutcome]) -> int:
    """Mark transactions mined at depth, and their items that were not done by them; returns how many changed."""
    changed = await connection.execute(
        CONFIRM_TRANSACTIONS,
        [m.id for m in mined],
        [hex_text(m.hash) for m in mined],
        [m.block for m in mined],
        [hex_text(m.block_hash) for m in mined],
        [m.succeeded for m in mined],
        [m.gas_used for m in mined],
        [m.gas_price for m in mined],
    )
    undone = [o for o in outcomes if o.outcome != "done"]
    if undone:
        await connection.execute(
            NOTE_OUTCOMES,
            [o.transaction_id for o in undone],
            [o.position for o in undone],
            [o.outcome for o in undone],
        )
    return int(changed.split()[-1])


async def reopen_above(connection: Connection, network: str, height: BlockNumber) -> list[int]:
    """A reorg took what was mined above `height`: those transactions are unresolved again."""
    ids = [row["id"] for row in await connection.fetch(REOPEN_TRANSACTIONS, network, height)]
    await connection.execute(FORGET_OUTCOMES, ids)
    return ids


async def finalize(connection: Connection, network: str, height: BlockNumber) -> None:
    """What was mined at or below `height` cannot be taken back."""
    await connection.execute(FINALIZE_TRANSACTIONS, network, height)


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


async def displace(connection: Connection, ids: Sequence[int]) -> Undone:
    """Another transaction has their account nonces for good; the caller returns what they carried."""
    displaced = [row["id"] for row in await connection.fetch(DISPLACE_TRANSACTIONS, ids)]
    items = await connection.fetch(ITEMS_UNDONE, displaced)
    return Undone(
        transactions=displaced,
        payments=[row["payment_id"] for row in items if row["payment_id"] is not None],
        units=[row["queue_id"] for row in items if row["queue_id"] is not None],
    )


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
