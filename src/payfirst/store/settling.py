"""`payment_queue` up to sending: claim, postpone, reserve, send, refuse. Every UPDATE states the old status.

`-- moves:` above a statement names its transitions; a test holds them against `payfirst.lifecycle`.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from payfirst.errors import LeaseLost
from payfirst.store.claims import holds_signer, is_alone, is_ours
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockNumber,
    TxHash,
    UnixTime,
    hex_text,
)

_CLAIMED = """
p.id, p.token_address, p.payer, p.pay_to, p.amount, p.quantity, p.authorization_nonce, p.valid_after, p.valid_before,
p.signature, p.accepted_height, p.supply_reserved, p.attempts, p.suspected_code, p.suspected_height, p.share_max,
EXISTS (SELECT FROM wallet_payments w WHERE w.payment_id = p.id) AS by_wallet
"""

_DUE = f"""
network = $1 AND asset = $2 AND status = 'pending' AND held_reason IS NULL AND valid_before > $5
AND (next_attempt_at IS NULL OR next_attempt_at <= now()) AND (lease_until IS NULL OR lease_until < now())
AND {holds_signer("$1", "$3", "$4")} AND id <> ALL($7::uuid[])
"""

# read_pending: the oldest due payments of one asset, for the only process that settles, whose lease of a signer stands
# for them: no row is written. None where another one settles, and would read the same. Held and claimed rows are
# skipped, those that this process works with ($7), and what is too near to its end to be sent ($5, Unix seconds).
# Nothing for who lost the signer and does not know it yet.
READ_PENDING = f"""
SELECT {_CLAIMED} FROM payment_queue p WHERE {_DUE} AND {is_alone("settle", "$1", "$3")} ORDER BY id LIMIT $6
"""

# claim_pending: lease the same rows one by one: for one of several processes, or where some are locked by somebody.
CLAIM_PENDING = f"""
UPDATE payment_queue p
SET lease_owner = $3, lease_epoch = $4, lease_until = now() + $8 * interval '1 second'
FROM (SELECT id FROM payment_queue WHERE {_DUE} ORDER BY id LIMIT $6 FOR UPDATE SKIP LOCKED) due
WHERE p.id = due.id
RETURNING {_CLAIMED}
"""

# claim_reorged: lease what a reorg took and no transaction of ours would bring back: somebody else had submitted it.
CLAIM_REORGED = f"""
UPDATE payment_queue p
SET lease_owner = $3, lease_epoch = $4, lease_until = now() + $5 * interval '1 second'
FROM (
    SELECT id FROM payment_queue q
    WHERE network = $1 AND asset = $2 AND status = 'completed' AND finality = 'reorged' AND valid_before > $7
      AND (lease_until IS NULL OR lease_until < now())
      AND NOT EXISTS (
          SELECT FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
          WHERE i.payment_id = q.id AND t.state = 'sent'
      )
      AND EXISTS (SELECT FROM signers s WHERE s.network = $1 AND s.address = $3 AND s.epoch = $4)
    ORDER BY valid_before LIMIT $6 FOR UPDATE OF q SKIP LOCKED
) due
WHERE p.id = due.id
RETURNING {_CLAIMED}
"""

# note_sent_again: the transaction that carries them is stored in this same commit; they stay completed.
NOTE_SENT_AGAIN = """
UPDATE payment_queue SET lease_owner = NULL, lease_until = NULL, attempts = attempts + 1
WHERE id = ANY($1::uuid[]) AND status = 'completed' AND finality = 'reorged' AND lease_owner = $2 AND lease_epoch = $3
"""

# free_claims: the signer has a new holder; what an earlier one had claimed and not sent is due again.
FREE_CLAIMS = """
UPDATE payment_queue SET lease_owner = NULL, lease_until = NULL
WHERE network = $1 AND status = 'pending' AND lease_owner = $2 AND lease_epoch < $3
"""

# on_its_way: what payers have on its way to the chain. What was seen there is off their balance. NOT IN, because that
# is looked up in a hash of the few, whatever the planner believes of their number.
ON_ITS_WAY = """
SELECT payer, sum(amount) AS amount FROM payment_queue p
WHERE status = 'sent' AND network = $1 AND asset = $2
  AND id NOT IN (SELECT unnest(payment_ids) FROM waiting_evidence WHERE network = $1)
GROUP BY payer
"""

# lock_claimed: hold the claimed rows while supply is reserved for them. Payments first, tokens second.
LOCK_CLAIMED = f"""
SELECT id FROM payment_queue
WHERE id = ANY($1::uuid[]) AND status = 'pending' AND {is_ours("$3", "$4")} AND {holds_signer("$2", "$3", "$4")}
ORDER BY id FOR UPDATE
"""

# postpone: give payments back to the queue, due after a while, with what was suspected of them and where.
POSTPONE = f"""
UPDATE payment_queue p
SET lease_owner = NULL, lease_until = NULL, next_attempt_at = now() + d.delay_s * interval '1 second',
    suspected_code = d.code, suspected_height = d.height, error = d.error, attempts = attempts + 1
FROM unnest($1::uuid[], $2::float8[], $3::text[], $4::bigint[], $5::text[]) AS d(id, delay_s, code, height, error)
WHERE p.id = d.id AND p.status = 'pending' AND {is_ours("$7", "$8")} AND {holds_signer("$6", "$7", "$8")}
"""

# mark_sent: the transaction that carries them is stored in this same commit, under the signer's epoch, and supply taken
# for all but those that hold theirs already ($5).
# moves: pending -> sent
MARK_SENT = f"""
UPDATE payment_queue
SET status = 'sent', tx_hash = $2, processed_at = now(), error = NULL, error_code = NULL, suspected_code = NULL,
    suspected_height = NULL, lease_owner = NULL, lease_until = NULL, attempts = attempts + 1, supply_reserved = true
WHERE id = ANY($1::uuid[]) AND status = 'pending' AND {is_ours("$3", "$4")}
  AND supply_reserved = (id = ANY($5::uuid[]))
RETURNING extract(epoch FROM now() - created_at)::float8 AS age_s
"""

# fail_claimed: refused before anything was sent; no money moved.
# moves: pending -> failed
FAIL_CLAIMED = f"""
UPDATE payment_queue p
SET status = 'failed', error_code = d.code, error = d.error, processed_at = now()
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS d(id, code, error)
WHERE p.id = d.id AND p.status = 'pending' AND {is_ours("$5", "$6")} AND {holds_signer("$4", "$5", "$6")}
RETURNING p.id
"""


@dataclass(frozen=True, slots=True)
class ClaimedPayment:
    """A pending payment that a settle worker works with; `suspected_*` is what an earlier pre-flight saw.

    `share_max` is how many payments may share its transaction, `by_wallet` that nobody has verified its signature.
    """

    id: uuid.UUID
    token: Address
    payer: Address
    pay_to: Address
    amount: AtomicAmount
    quantity: int
    nonce: AuthorizationNonce
    valid_after: UnixTime
    valid_before: UnixTime
    signature: bytes
    accepted_height: BlockNumber
    supply_reserved: bool
    attempts: int
    suspected_code: str | None
    suspected_height: BlockNumber | None
    share_max: int | None = None
    by_wallet: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """In whose name rows are worked with: a signer (as text) of a network under an epoch."""

    network: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Postponed:
    """A payment that goes back to the queue for `delay_s`."""

    id: uuid.UUID
    delay_s: float
    code: str | None = None
    height: BlockNumber | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A payment that ends without a transfer."""

    id: uuid.UUID
    code: str
    sentence: str


async def claim_pending(
    connection: Connection,
    *,
    asset: Address,
    claim: Claim,
    lease_s: float,
    limit: int,
    valid_before_min: UnixTime,
    besides: Collection[uuid.UUID],
    by_row: bool,
) -> list[ClaimedPayment]:
    """Up to `limit` due payments, oldest first: by the signer's lease where this process is alone, else each leased.

    `besides` those that this process works with already. `by_row`: lease each in any case.
    """
    due = (claim.network, hex_text(asset), claim.owner, claim.epoch, valid_before_min, limit, list(besides))
    rows = [] if by_row else await connection.fetch(READ_PENDING, *due)
    return _claimed(rows or await connection.fetch(CLAIM_PENDING, *due, lease_s))


async def claim_reorged(
    connection: Connection,
    *,
    network: str,
    asset: Address,
    claim: Claim,
    lease_s: float,
    limit: int,
    valid_before_min: UnixTime,
) -> list[ClaimedPayment]:
    """Lease up to `limit` completed payments whose transfer a reorg took and that nothing of ours carries."""
    rows = await connection.fetch(
        CLAIM_REORGED, network, hex_text(asset), claim.owner, claim.epoch, lease_s, limit, valid_before_min
    )
    return _claimed(rows)


def _claimed(rows: Sequence[asyncpg.Record]) -> list[ClaimedPayment]:
    claimed = [
        ClaimedPayment(
            id=row["id"],
            token=address_of(row["token_address"]),
            payer=address_of(row["payer"]),
            pay_to=address_of(row["pay_to"]),
            amount=AtomicAmount(int(row["amount"])),
            quantity=row["quantity"],
            nonce=AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            valid_after=UnixTime(row["valid_after"]),
            valid_before=UnixTime(row["valid_before"]),
            signature=row["signature"],
            accepted_height=BlockNumber(row["accepted_height"]),
            supply_reserved=row["supply_reserved"],
            attempts=row["attempts"],
            suspected_code=row["suspected_code"],
            suspected_height=row["suspected_height"],
            share_max=row["share_max"],
            by_wallet=row["by_wallet"],
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda p: p.id)


async def free_claims(connection: Connection, claim: Claim) -> None:
    """Make what an earlier holder of the signer had claimed due again."""
    await connection.execute(FREE_CLAIMS, claim.network, claim.owner, claim.epoch)


async def on_its_way(connection: Connection, *, network: str, asset: Address) -> dict[Address, AtomicAmount]:
    """The sum of what each payer has in `sent`; payers without are absent."""
    rows = await connection.fetch(ON_ITS_WAY, network, hex_text(asset))
    return {address_of(row["payer"]): AtomicAmount(int(row["amount"])) for row in rows}


async def lock_claimed(connection: Connection, ids: Sequence[uuid.UUID], *, claim: Claim) -> None:
    """Hold the claimed rows until the transaction ends. Raises LeaseLost when some are no longer ours."""
    rows = await connection.fetch(LOCK_CLAIMED, ids, claim.network, claim.owner, claim.epoch)
    if len(rows) != len(ids):
        raise LeaseLost(f"{len(ids) - len(rows)} claimed payments are no longer ours")


async def postpone(connection: Connection, postponed: Sequence[Postponed], *, claim: Claim) -> None:
    """Give payments back to the queue."""
    await connection.execute(
        POSTPONE,
        [p.id for p in postponed],
        [p.delay_s for p in postponed],
        [p.code for p in postponed],
        [p.height for p in postponed],
        [p.reason for p in postponed],
        claim.network,
        claim.owner,
        claim.epoch,
    )


async def note_sent_again(connection: Connection, ids: Sequence[uuid.UUID], *, claim: Claim) -> None:
    """Give the leases of `claim_reorged` back, all of them: raises LeaseLost (and so undoes everything) otherwise."""
    changed = int((await connection.execute(NOTE_SENT_AGAIN, ids, claim.owner, claim.epoch)).split()[-1])
    if changed != len(ids):
        raise LeaseLost(f"{changed} of {len(ids)} payments that a reorg took were still claimed")


async def mark_sent(
    connection: Connection, payments: Sequence[ClaimedPayment], *, tx_hash: TxHash, claim: Claim
) -> list[float]:
    """Turn the batch `sent`, all of it: raises LeaseLost (and so undoes everything) otherwise.

    All of it holds supply then: the caller takes what is missing in the same transaction. Returns the seconds since
    each was accepted.
    """
    ids = [p.id for p in payments]
    holding = [p.id for p in payments if p.supply_reserved]
    changed = await connection.fetch(MARK_SENT, ids, hex_text(tx_hash), claim.owner, claim.epoch, holding)
    if len(changed) != len(ids):
        raise LeaseLost(f"{len(changed)} of a batch of {len(ids)} payments were still claimed")
    return [row["age_s"] for row in changed]


async def fail_claimed(connection: Connection, failed: Sequence[Failed], *, claim: Claim) -> list[uuid.UUID]:
    """End payments for which no money moved; returns those that did end."""
    rows = await connection.fetch(
        FAIL_CLAIMED,
        [f.id for f in failed],
        [f.code for f in failed],
        [f.sentence for f in failed],
        claim.network,
        claim.owner,
        claim.epoch,
    )
    return [row["id"] for row in rows]
