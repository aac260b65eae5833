"""`payment_queue` from evidence on: credit, give back, expire, reorg, final. Every UPDATE states the old status.

`-- moves:` above a statement names its transitions; a test holds them against `payfirst.lifecycle`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.errors import LeaseLost
from payfirst.lifecycle import Finality, PaymentStatus
from payfirst.store.database import Connection
from payfirst.store.never_reuse import where_held
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    TxHash,
    UnixTime,
    hex_text,
)

# expiry_candidates: pending payments whose authorization no block from the cursor on can use.
EXPIRY_CANDIDATES = """
SELECT id, payer, authorization_nonce, accepted_height FROM payment_queue
WHERE network = $1 AND asset = $2 AND status = 'pending' AND valid_before <= $3
ORDER BY valid_before LIMIT $4
"""

# fail_expired: unused at a block at depth past validBefore.
# moves: pending -> failed
FAIL_EXPIRED = """
UPDATE payment_queue
SET status = 'failed', error_code = $2, error = $3, processed_at = now()
WHERE id = ANY($1::uuid[]) AND status = 'pending'
RETURNING id
"""

# lost_candidates: completed payments that a reorg took and that no block from the cursor on can bring back.
LOST_CANDIDATES = """
SELECT id, payer, authorization_nonce, accepted_height FROM payment_queue
WHERE network = $1 AND asset = $2 AND status = 'completed' AND finality = 'reorged' AND valid_before <= $3
ORDER BY valid_before LIMIT $4
"""

# mark_lost: a completed payment whose money cannot come any more; its row and its mints stay.
# finality: reorged -> lost
MARK_LOST = """
UPDATE payment_queue
SET finality = 'lost', error_code = 'payment_lost', error = $2, processed_at = now()
WHERE id = ANY($1::uuid[]) AND status = 'completed' AND finality = 'reorged'
RETURNING id
"""

# credit_candidates: the payments that these authorizations belong to, whatever has become of them. One probe each
# (OFFSET 0 keeps it so): a planner whose statistics are of a smaller table reads all of it once for each key.
CREDIT_CANDIDATES = f"""
SELECT p.id, p.token_address, p.payer, p.pay_to, p.amount, p.quantity, p.recipient, p.authorization_nonce, p.status,
       p.finality, p.accepted_height, p.supply_reserved, p.settled_block_hash, p.settled_log_index, p.tx_hash,
       extract(epoch FROM now() - p.created_at)::float8 AS age_s,
       CASE WHEN p.status = 'sent' THEN extract(epoch FROM now() - p.processed_at)::float8 END AS sent_s
FROM unnest($3::bytea[], $4::bytea[]) AS k(payer, nonce)
CROSS JOIN LATERAL (
    SELECT payment_id FROM authorizations WHERE {where_held("k.payer", "k.nonce", "$2", "$1::text")} OFFSET 0
) a
JOIN payment_queue p ON p.id = a.payment_id
"""

# mark_completed: the transfer is in a block at depth. Anyone may submit an authorization, so the money may
# come before we sent it, and after we gave up.
# The IN is on the expected status, not on the row's: where its statistics say that no row is `sent`, PostgreSQL reads
# all that are and compares each with the whole list.
# moves: pending -> completed, sent -> completed, failed -> completed
MARK_COMPLETED = """
UPDATE payment_queue p
SET status = 'completed', finality = 'open', tx_hash = e.tx_hash, settled_block = e.block,
    settled_block_hash = e.block_hash, settled_log_index = e.log_index, settled_by_us = e.ours, result = e.result,
    supply_reserved = e.reserved, processed_at = now(), error = NULL, error_code = NULL, suspected_code = NULL,
    suspected_height = NULL, lease_owner = NULL, lease_until = NULL
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::int[], $7::bool[], $8::jsonb[],
            $9::bool[], $10::bool[])
     AS e(id, expected, tx_hash, block, block_hash, log_index, ours, result, reserved, was_reserved)
WHERE p.id = e.id AND p.status = e.expected AND e.expected IN ('pending', 'sent', 'failed')
  AND p.supply_reserved = e.was_reserved
"""

# mark_back: a completed payment whose transfer a reorg took is in the chain again.
# finality: reorged -> open
MARK_BACK = """
UPDATE payment_queue p
SET finality = 'open', tx_hash = e.tx_hash, settled_block = e.block, settled_block_hash = e.block_hash,
    settled_log_index = e.log_index, settled_by_us = e.ours, processed_at = now()
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::bool[])
     AS e(id, tx_hash, block, block_hash, log_index, ours)
WHERE p.id = e.id AND p.status = 'completed' AND p.finality = 'reorged'
"""

# mark_back_mints: mints name the transaction that paid for them.
MARK_BACK_MINTS = """
UPDATE mint_queue m SET payment_tx_hash = e.tx_hash
FROM unnest($1::uuid[], $2::text[]) AS e(id, tx_hash)
WHERE m.payment_id = e.id AND m.payment_tx_hash <> e.tx_hash
"""

# return_reverted: their transaction was mined without them; the next pre-flight says why.
# moves: sent -> pending
RETURN_REVERTED = """
UPDATE payment_queue p
SET status = 'pending', tx_hash = NULL, processed_at = now(), share_max = greatest(1, t.item_count / 2),
    next_attempt_at = now() + interval '1 second' * CASE WHEN t.item_count > 1 THEN 1
                                                    ELSE least(30, 2 ^ least(p.attempts - 1, 5)) END
FROM chain_attempts a JOIN chain_transactions t ON t.id = a.transaction_id
WHERE p.id = ANY($1::uuid[]) AND p.status = 'sent' AND p.tx_hash = ANY($2::text[]) AND a.hash = p.tx_hash
"""

# fail_used_before: the authorization was used at or below the acceptance height, so that was not for us.
# moves: pending -> failed
FAIL_USED_BEFORE = """
UPDATE payment_queue
SET status = 'failed', error_code = $2, error = $3, processed_at = now()
WHERE id = ANY($1::uuid[]) AND status = 'pending'
"""

# reorg_payments: a reorg took the blocks above a fork; the payments stay completed, their mints wait.
# finality: open -> reorged
REORG_PAYMENTS = """
UPDATE payment_queue SET finality = 'reorged'
WHERE network = $1 AND status = 'completed' AND finality = 'open' AND settled_block > $2
RETURNING id
"""

# finalize_payments: settled in a block that is final now.
# finality: open -> final
FINALIZE_PAYMENTS = """
UPDATE payment_queue SET finality = 'final'
WHERE id IN (
    SELECT id FROM payment_queue
    WHERE network = $1 AND status = 'completed' AND finality = 'open' AND settled_block <= $2 LIMIT $3
) AND finality = 'open'
"""

# live_pay_tos: every address that unsettled payments pay to; the configured one may have changed since.
LIVE_PAY_TOS = """
SELECT pay_to FROM payment_queue WHERE network = $1 AND status = 'pending'
UNION
SELECT pay_to FROM payment_queue WHERE network = $1 AND status = 'sent'
UNION
SELECT pay_to FROM payment_queue WHERE network = $1 AND status = 'failed' AND valid_before > $2
"""


@dataclass(frozen=True, slots=True)
class CreditCandidate:
    """A payment that an authorization found on chain belongs to.

    `age_s` is since it was accepted, `sent_s` since it was sent (None where it is not).
    """

    id: uuid.UUID
    token: Address
    payer: Address
    pay_to: Address
    amount: AtomicAmount
    quantity: int
    recipient: Address
    nonce: AuthorizationNonce
    status: PaymentStatus
    finality: Finality
    accepted_height: BlockNumber
    supply_reserved: bool
    settled_block_hash: BlockHash | None
    settled_log_index: int | None
    tx_hash: TxHash | None
    age_s: float = 0.0
    sent_s: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A payment and the evidence that it was made."""

    id: uuid.UUID
    expected: PaymentStatus
    tx_hash: TxHash
    block: BlockNumber
    block_hash: BlockHash
    log_index: int
    ours: bool
    was_reserved: bool  # as it was read: a settler may have reserved since
    reserved: bool
    result_json: str


@dataclass(frozen=True, slots=True)
class ExpiryCandidate:
    """A pending payment past its validBefore."""

    id: uuid.UUID
    payer: Address
    nonce: AuthorizationNonce
    accepted_height: BlockNumber


async def expiry_candidates(
    connection: Connection, *, network: str, asset: Address, chain_time: UnixTime, limit: int
) -> list[ExpiryCandidate]:
    """Pending payments that no block from `chain_time` on can settle."""
    return await _past_their_end(connection, EXPIRY_CANDIDATES, network, asset, chain_time, limit)


async def lost_candidates(
    connection: Connection, *, network: str, asset: Address, chain_time: UnixTime, limit: int
) -> list[ExpiryCandidate]:
    """Completed payments that a reorg took and no block from `chain_time` on can bring back."""
    return await _past_their_end(connection, LOST_CANDIDATES, network, asset, chain_time, limit)


async def mark_lost(connection: Connection, ids: Sequence[uuid.UUID], *, sentence: str) -> list[uuid.UUID]:
    """The money cannot come any more; the caller writes what the seller is owed in the same transaction."""
    return [row["id"] for row in await connection.fetch(MARK_LOST, ids, sentence)]


async def _past_their_end(
    connection: Connection, query: str, network: str, asset: Address, chain_time: UnixTime, limit: int
) -> list[ExpiryCandidate]:
    rows = await connection.fetch(query, network, hex_text(asset), chain_time, limit)
    return [
        ExpiryCandidate(
            row["id"],
            address_of(row["payer"]),
            AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            BlockNumber(row["accepted_height"]),
        )
        for row in rows
    ]


async def fail_expired(
    connection: Connection, ids: Sequence[uuid.UUID], *, code: str, sentence: str
) -> list[uuid.UUID]:
    """End payments whose authorization expired unused; returns those that did end."""
    return [row["id"] for row in await connection.fetch(FAIL_EXPIRED, ids, code, sentence)]


async def credit_candidates(
    connection: Connection,
    *,
    network: str,
    asset: Address,
    keys: Sequence[tuple[Address, AuthorizationNonce]],
) -> list[CreditCandidate]:
    """The payments that these authorizations belong to; an authorization of nobody's is absent."""
    rows = await connection.fetch(CREDIT_CANDIDATES, network, asset, [k[0] for k in keys], [k[1] for k in keys])
    return [
        CreditCandidate(
            id=row["id"],
            token=address_of(row["token_address"]),
            payer=address_of(row["payer"]),
            pay_to=address_of(row["pay_to"]),
            amount=AtomicAmount(int(row["amount"])),
            quantity=row["quantity"],
            recipient=address_of(row["recipient"]),
            nonce=AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            status=PaymentStatus(row["status"]),
            finality=Finality(row["finality"]),
            accepted_height=BlockNumber(row["accepted_height"]),
            supply_reserved=row["supply_reserved"],
            settled_block_hash=None
            if row["settled_block_hash"] is None
            else BlockHash(bytes_of(row["settled_block_hash"])),
            settled_log_index=row["settled_log_index"],
            tx_hash=None if row["tx_hash"] is None else TxHash(bytes_of(row["tx_hash"])),
            age_s=row["age_s"],
            sent_s=row["sent_s"],
        )
        for row in rows
    ]


async def mark_completed(connection: Connection, completions: Sequence[Completion]) -> None:
    """Credit payments. Raises LeaseLost when one of them has moved since it was read."""
    changed = await connection.execute(
        MARK_COMPLETED,
        [c.id for c in completions],
        [c.expected.value for c in completions],
        [hex_text(c.tx_hash) for c in completions],
        [c.block for c in completions],
        [hex_text(c.block_hash) for c in completions],
        [c.log_index for c in completions],
        [c.ours for c in completions],
        [c.result_json for c in completions],
        [c.reserved for c in completions],
        [c.was_reserved for c in completions],
    )
    if changed != f"UPDATE {len(completions)}":
        raise LeaseLost(f"{changed} of {len(completions)} payments to complete")


async def mark_back(connection: Connection, completions: Sequence[Completion]) -> None:
    """Payments that a reorg had taken are in the chain again. Raises LeaseLost when one has moved."""
    ids, hashes = [c.id for c in completions], [hex_text(c.tx_hash) for c in completions]
    changed = await connection.execute(
        MARK_BACK,
        ids,
        hashes,
        [c.block for c in completions],
        [hex_text(c.block_hash) for c in completions],
        [c.log_index for c in completions],
        [c.ours for c in completions],
    )
    if changed != f"UPDATE {len(completions)}":
        raise LeaseLost(f"{changed} of {len(completions)} payments to take back")
    await connection.execute(MARK_BACK_MINTS, ids, hashes)


async def return_reverted(connection: Connection, ids: Sequence[uuid.UUID], *, mined: Sequence[TxHash]) -> None:
    """Payments that one of the `mined` transactions was to carry, and did not, are pending again."""
    await connection.execute(RETURN_REVERTED, ids, [hex_text(h) for h in mined])


async def fail_used_before(connection: Connection, ids: Sequence[uuid.UUID], *, code: str, sentence: str) -> None:
    """End payments whose authorization had been used before they were accepted."""
    await connection.execute(FAIL_USED_BEFORE, ids, code, sentence)


async def reorg_above(connection: Connection, network: str, height: BlockNumber) -> list[uuid.UUID]:
    """A reorg took what was settled above `height`; returns the payments it took."""
    return [row["id"] for row in await connection.fetch(REORG_PAYMENTS, network, height)]


async def finalize(connection: Connection, network: str, height: BlockNumber, *, limit: int) -> int:
    """Mark payments settled at or below `height` final; returns how many changed."""
    return int((await connection.execute(FINALIZE_PAYMENTS, network, height, limit)).split()[-1])


async def live_pay_tos(connection: Connection, network: str, *, chain_time: UnixTime) -> set[Address]:
    """The addresses into which money for payments of ours can still come."""
    rows = await connection.fetch(LIVE_PAY_TOS, network, chain_time)
    return {address_of(row["pay_to"]) for row in rows}
