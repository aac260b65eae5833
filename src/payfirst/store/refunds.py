"""`refunds`: what is given back to buyers, each debt once. Every UPDATE states the old status.

`-- moves:` above a statement names its transitions; a test holds them against `payfirst.lifecycle`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from payfirst.errors import LeaseLost
from payfirst.store import treasuries
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, BlockNumber, MintId, TxHash, UnixTime, hex_text

# A unit may be owed for several reasons: what was settled for one of them is settled.
_SETTLED_BESIDE = """
EXISTS (
    SELECT 1 FROM owed same WHERE same.payment_id = o.payment_id AND same.unit = o.unit
      AND (same.status = 'refunded' OR same.resolution = 'by_hand'))
"""

# What may be refunded: a debt that is open, for money that no reorg can take back and nobody has put on hold, and for a
# unit that nothing of ours can mint any more: it is given up, and each transaction that held it has ended for good.
_REFUNDABLE = f"""
o.direction = 'to_buyer' AND o.status = 'open'
  AND p.status = 'completed' AND p.finality = 'final' AND p.held_reason IS NULL AND m.status = 'owed'
  AND NOT EXISTS (
    SELECT 1 FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
    WHERE i.queue_id = m.id AND t.state IN ('sent', 'confirmed'))
  AND NOT {_SETTLED_BESIDE}
"""
_DEBT = """
owed o JOIN payment_queue p ON p.id = o.payment_id
       JOIN mint_queue m ON m.payment_id = o.payment_id AND m.unit = o.unit
"""

# refundable_debts: what may be refunded and is not yet; a refund that was cancelled is none.
REFUNDABLE_DEBTS = f"""
SELECT o.id, o.unit, o.amount, o.beneficiary, p.payer, p.authorization_nonce
FROM {_DEBT}
WHERE o.network = $1 AND o.asset = $2 AND {_REFUNDABLE}
  AND NOT EXISTS (
    SELECT 1 FROM owed same JOIN refunds r ON r.owed_id = same.id
    WHERE same.payment_id = o.payment_id AND same.unit = o.unit AND r.status <> 'cancelled')
ORDER BY o.id LIMIT $3
"""

# open_refunds: one a debt; a unit that is owed for two reasons is refunded once, by the nonce that both have.
OPEN_REFUNDS = """
INSERT INTO refunds (id, owed_id, network, asset, treasury, beneficiary, amount, authorization_nonce)
SELECT n.id, o.id, o.network, o.asset, $1, o.beneficiary, o.amount, n.nonce
FROM unnest($2::uuid[], $3::bigint[], $4::text[]) AS n(id, owed_id, nonce) JOIN owed o ON o.id = n.owed_id
ORDER BY n.nonce
ON CONFLICT DO NOTHING
RETURNING id
"""

# owed_again: a debt had ended otherwise, and is there again.
# moves: cancelled -> waiting
OWED_AGAIN = """
UPDATE refunds r
SET status = 'waiting', owed_id = n.owed_id, error = NULL, approved_by = NULL, next_attempt_at = NULL,
    processed_at = now()
FROM unnest($1::bigint[], $2::text[]) AS n(owed_id, nonce)
WHERE r.network = $3 AND r.asset = $4 AND r.authorization_nonce = n.nonce AND r.status = 'cancelled'
"""

# cancel_ended: the debt was settled otherwise (minted after all, by hand) before anything was signed for it, or the
# chain says that what was signed cannot be used any more ($2).
# moves: waiting -> cancelled, approved -> cancelled, impossible -> cancelled
CANCEL_ENDED = f"""
WITH ended AS (
    SELECT r.id, o.payment_id FROM refunds r JOIN owed o ON o.id = r.owed_id
    WHERE r.network = $1 AND r.status IN ('waiting', 'approved', 'impossible')
      AND (o.resolved_at IS NOT NULL OR {_SETTLED_BESIDE})
      AND (r.status <> 'approved' OR r.valid_before IS NULL OR r.id = ANY($2::uuid[]))
)
UPDATE refunds r
SET status = 'cancelled', error = 'the debt ended otherwise', processed_at = now()
FROM ended e WHERE r.id = e.id AND r.status IN ('waiting', 'approved', 'impossible')
RETURNING e.payment_id
"""

# ended_but_signed: approved ones whose debts ended otherwise, with an authorization that was given to the chain.
ENDED_BUT_SIGNED = f"""
SELECT r.id, o.payment_id, r.authorization_nonce, r.valid_before, r.attempts, p.settled_block
FROM refunds r JOIN owed o ON o.id = r.owed_id JOIN payment_queue p ON p.id = o.payment_id
WHERE r.network = $1 AND r.asset = $2 AND r.status = 'approved' AND r.valid_before IS NOT NULL
  AND (o.resolved_at IS NOT NULL OR {_SETTLED_BESIDE})
  AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now())
ORDER BY r.created_at, r.id LIMIT $3
"""

# read_waiting: what may be refunded, waits for an approval and is not above an amount (NULL: of any), oldest first.
READ_WAITING = f"""
SELECT r.id FROM refunds r JOIN {_DEBT} ON o.id = r.owed_id
WHERE r.network = $1 AND r.asset = $2 AND r.status = 'waiting' AND ($3::numeric IS NULL OR r.amount <= $3)
  AND {_REFUNDABLE}
ORDER BY r.created_at, r.id LIMIT $4
"""

# lock_units: hold the units of refunds, so that none is given back to minting until this transaction ends.
LOCK_UNITS = """
SELECT m.id FROM refunds r JOIN owed o ON o.id = r.owed_id
JOIN mint_queue m ON m.payment_id = o.payment_id AND m.unit = o.unit
WHERE r.id = ANY($1::uuid[]) ORDER BY m.id FOR UPDATE OF m
"""

# lock_debts: hold the debts of refunds, and all others of the same units, so that none is settled otherwise meanwhile.
LOCK_DEBTS = """
SELECT s.id FROM refunds r JOIN owed o ON o.id = r.owed_id
JOIN owed s ON s.id = o.id OR (s.payment_id = o.payment_id AND s.unit = o.unit)
WHERE r.id = ANY($1::uuid[]) ORDER BY s.id FOR UPDATE OF s
"""

# still_refundable: which of these refunds are still of what may be refunded; asked once their debts are held.
STILL_REFUNDABLE = f"""
SELECT r.id FROM refunds r JOIN {_DEBT} ON o.id = r.owed_id WHERE r.id = ANY($1::uuid[]) AND {_REFUNDABLE}
"""

# approve_refunds: from here on the unit is not minted any more (a trigger holds to it).
# moves: waiting -> approved
APPROVE_REFUNDS = """
UPDATE refunds SET status = 'approved', approved_by = $2, error = NULL, next_attempt_at = NULL, processed_at = now()
WHERE id = ANY($1::uuid[]) AND status = 'waiting'
RETURNING id
"""

# note_waiting: why refunds above an amount (NULL: of any) are not approved by themselves.
NOTE_WAITING = """
UPDATE refunds SET error = $4
WHERE network = $1 AND asset = $2 AND status = 'waiting' AND ($3::numeric IS NULL OR amount > $3)
  AND error IS DISTINCT FROM $4
"""

# due_refunds: approved ones whose turn it is, oldest first, with what is to be asked of the chain before.
DUE_REFUNDS = f"""
SELECT r.id, o.payment_id, o.unit, r.treasury, r.beneficiary, r.amount, r.authorization_nonce, r.valid_before,
       r.attempts, m.id AS queue_id, m.mint_id, m.token_address, m.recipient, p.accepted_height, p.settled_block
FROM refunds r JOIN {_DEBT} ON o.id = r.owed_id
WHERE r.network = $1 AND r.asset = $2 AND r.status = 'approved' AND {_REFUNDABLE}
  AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= now())
ORDER BY r.created_at, r.id LIMIT $3
"""

# postpone_refunds: not now, and why.
POSTPONE_REFUNDS = """
UPDATE refunds SET error = $2, next_attempt_at = now() + $3 * interval '1 second', attempts = attempts + 1
WHERE id = ANY($1::uuid[]) AND status = 'approved'
"""

# end_impossible: the chain says for good that the derived nonce pays nobody; a person settles the debt.
# moves: approved -> impossible
END_IMPOSSIBLE = """
UPDATE refunds SET status = 'impossible', error = $2, next_attempt_at = NULL, processed_at = now()
WHERE id = $1 AND status = 'approved'
RETURNING (SELECT payment_id FROM owed WHERE owed.id = owed_id) AS payment_id
"""

# retry_refunds: the operator has mended what held them; they are due at once.
RETRY_REFUNDS = """
UPDATE refunds SET error = NULL, next_attempt_at = NULL, attempts = 0
WHERE id = ANY($1::uuid[]) AND status = 'approved'
RETURNING id
"""

# mark_refunds_sent: the transaction that carries them is stored in this same commit.
# moves: approved -> sent
MARK_REFUNDS_SENT = """
UPDATE refunds
SET status = 'sent', tx_hash = $2, treasury = $3, valid_before = $4, sent_at = now(), processed_at = now(),
    error = NULL, next_attempt_at = NULL, attempts = attempts + 1
WHERE id = ANY($1::uuid[]) AND status = 'approved'
"""

# complete_refunds: the chain shows a use of the derived nonce by a treasury of ours, and the money after it.
# moves: waiting -> completed, approved -> completed, sent -> completed
COMPLETE_REFUNDS = """
UPDATE refunds r
SET status = 'completed', tx_hash = e.tx_hash, treasury = e.treasury, refunded_block = $3, error = NULL,
    next_attempt_at = NULL, processed_at = now()
FROM unnest($4::text[], $5::text[], $6::text[], $7::numeric[], $8::text[])
     AS e(treasury, nonce, beneficiary, amount, tx_hash)
WHERE r.network = $1 AND r.asset = $2 AND r.authorization_nonce = e.nonce AND r.beneficiary = e.beneficiary
  AND r.amount = e.amount AND r.status IN ('waiting', 'approved', 'sent')
  AND EXISTS (SELECT 1 FROM treasuries t WHERE t.network = $1 AND t.asset = $2 AND t.address = e.treasury)
RETURNING r.id, r.owed_id
"""

# close_refunded: what was owed has been given back, for whatever reasons it was owed.
CLOSE_REFUNDED = """
UPDATE owed o SET status = 'refunded', resolved_at = now(), note = 'refunded'
FROM owed paid
WHERE paid.id = ANY($1::bigint[]) AND o.payment_id = paid.payment_id AND o.unit = paid.unit
  AND o.direction = 'to_buyer' AND o.status IN ('open', 'resolved')
RETURNING o.payment_id
"""

# return_refunds: their transaction was mined without them; the next look at the chain says why.
# moves: sent -> approved
RETURN_REFUNDS = """
UPDATE refunds
SET status = 'approved', tx_hash = NULL, error = 'its transaction was mined and paid nothing for it',
    next_attempt_at = now() + least(300, 2 ^ least(attempts, 9)) * interval '1 second', processed_at = now()
WHERE tx_hash = ANY($1::text[]) AND status = 'sent'
RETURNING (SELECT payment_id FROM owed WHERE owed.id = owed_id) AS payment_id
"""

# return_stranded: no transaction that names them can be mined or confirmed any more: one of an older release's workers
# has confirmed it, which knows nothing of refunds, or its rows are lost. The next look at the chain says what it did.
# moves: sent -> approved
RETURN_STRANDED = """
UPDATE refunds r
SET status = 'approved', error = 'its transaction has ended: the chain is asked what it did', next_attempt_at = NULL,
    processed_at = now()
WHERE r.network = $1 AND r.status = 'sent' AND NOT EXISTS (
    SELECT 1 FROM chain_attempts a JOIN chain_transactions t ON t.id = a.transaction_id
    WHERE a.hash = r.tx_hash AND t.state IN ('sent', 'confirmed'))
RETURNING (SELECT payment_id FROM owed WHERE owed.id = owed_id) AS payment_id
"""

# reorg_refunds: a reorg took the blocks above a fork; the same bytes are to be sent again.
# moves: completed -> sent
REORG_REFUNDS = """
UPDATE refunds SET status = 'sent', refunded_block = NULL, processed_at = now()
WHERE network = $1 AND refunded_block > $2 AND status = 'completed'
RETURNING owed_id
"""

# reopen_debts: what a reorg took was not given back.
REOPEN_DEBTS = """
UPDATE owed SET status = 'open', resolved_at = NULL, note = NULL
WHERE id = ANY($1::bigint[]) AND status = 'refunded'
RETURNING payment_id
"""

# read_outflow: what a treasury has on its way, and what all refunds of the last 24 hours came to.
READ_OUTFLOW = """
SELECT coalesce(sum(amount) FILTER (WHERE status = 'sent' AND treasury = $3), 0) AS on_its_way,
       coalesce(sum(amount) FILTER (WHERE sent_at > now() - interval '24 hours'), 0) AS of_the_day
FROM refunds WHERE network = $1 AND asset = $2 AND status IN ('sent', 'completed')
"""


@dataclass(frozen=True, slots=True)
class RefundableDebt:
    """An open debt that may be refunded: what its nonce is derived from, and what is to be paid to whom."""

    owed_id: int
    unit: int | None
    payer: Address
    nonce: AuthorizationNonce  # the payment's


@dataclass(frozen=True, slots=True)
class NewRefund:
    """A refund that is being opened."""

    id: uuid.UUID
    owed_id: int
    nonce: AuthorizationNonce  # derived


@dataclass(frozen=True, slots=True)
class SignedRefund:
    """A refund with an authorization that the chain may have, as much of it as a look-up takes (see DueRefund)."""

    id: uuid.UUID
    payment_id: uuid.UUID
    nonce: AuthorizationNonce
    valid_before: UnixTime | None
    attempts: int
    since: BlockNumber


@dataclass(frozen=True, slots=True)
class DueRefund:
    """An approved refund whose turn it is, with the unit it is for.

    `nonce` is derived from what is refunded; `valid_before` is that of the authorization signed last, None for none;
    `since` is the block that paid: nothing before it can be this refund.
    """

    id: uuid.UUID
    payment_id: uuid.UUID
    unit: int
    treasury: Address
    beneficiary: Address
    amount: AtomicAmount
    nonce: AuthorizationNonce
    valid_before: UnixTime | None
    attempts: int
    queue_id: uuid.UUID
    mint_id: MintId
    token: Address
    recipient: Address
    accepted_height: BlockNumber
    since: BlockNumber


@dataclass(frozen=True, slots=True)
class Refunded:
    """A transfer that the chain holds: which treasury paid whom how much, under which nonce and transaction."""

    treasury: Address
    nonce: AuthorizationNonce
    beneficiary: Address
    amount: AtomicAmount
    tx_hash: TxHash


@dataclass(frozen=True, slots=True)
class Outflow:
    """What a treasury has on its way, and what all refunds of the last 24 hours came to."""

    on_its_way: AtomicAmount
    of_the_day: AtomicAmount


async def refundable(connection: Connection, network: str, asset: Address, *, limit: int) -> list[RefundableDebt]:
    """Open debts that may be refunded and have no refund yet, oldest first."""
    rows = await connection.fetch(REFUNDABLE_DEBTS, network, hex_text(asset), limit)
    return [
        RefundableDebt(
            row["id"],
            row["unit"],
            address_of(row["payer"]),
            AuthorizationNonce(bytes_of(row["authorization_nonce"])),
        )
        for row in rows
    ]


async def open_new(
    connection: Connection, network: str, asset: Address, *, treasury: Address, new: Sequence[NewRefund]
) -> int:
    """Open refunds, and those again that had been cancelled; returns how many are new."""
    debts, nonces = [n.owed_id for n in new], [hex_text(n.nonce) for n in new]
    opened = await connection.fetch(OPEN_REFUNDS, hex_text(treasury), [n.id for n in new], debts, nonces)
    await connection.execute(OWED_AGAIN, debts, nonces, network, hex_text(asset))
    return len(opened)


async def cancel_ended(connection: Connection, network: str, *, unusable: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Give up refunds whose debts ended otherwise; returns the payments.

    One that has been signed for only where the caller knows its authorization to be `unusable` for good.
    """
    return _payments(await connection.fetch(CANCEL_ENDED, network, unusable))


async def ended_but_signed(connection: Connection, network: str, asset: Address, *, limit: int) -> list[SignedRefund]:
    """Approved refunds whose debts ended otherwise, while their authorizations may be used yet."""
    return [
        SignedRefund(
            id=row["id"],
            payment_id=row["payment_id"],
            nonce=AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            valid_before=UnixTime(row["valid_before"]),
            attempts=row["attempts"],
            since=BlockNumber(row["settled_block"]),
        )
        for row in await connection.fetch(ENDED_BUT_SIGNED, network, hex_text(asset), limit)
    ]


async def waiting(
    connection: Connection, network: str, asset: Address, *, amount_max: AtomicAmount | None, limit: int
) -> list[uuid.UUID]:
    """Refunds of at most `amount_max` each that nobody has approved yet, and that may be, oldest first."""
    rows = await connection.fetch(READ_WAITING, network, hex_text(asset), amount_max, limit)
    return [row["id"] for row in rows]


async def approve(connection: Connection, ids: Sequence[uuid.UUID], *, by: str) -> list[uuid.UUID]:
    """Approve those whose debt may still be refunded; returns them."""
    still = await _lock(connection, ids)
    return [row["id"] for row in await connection.fetch(APPROVE_REFUNDS, still, by)]


async def note_waiting(
    connection: Connection, network: str, asset: Address, *, above: AtomicAmount | None, why: str
) -> None:
    """Say why refunds above an amount (None: all that wait) are not approved by themselves."""
    await connection.execute(NOTE_WAITING, network, hex_text(asset), above, why)


async def due(connection: Connection, network: str, asset: Address, *, limit: int) -> list[DueRefund]:
    """Approved refunds whose turn it is, oldest first."""
    rows = await connection.fetch(DUE_REFUNDS, network, hex_text(asset), limit)
    return [
        DueRefund(
            id=row["id"],
            payment_id=row["payment_id"],
            unit=row["unit"],
            treasury=address_of(row["treasury"]),
            beneficiary=address_of(row["beneficiary"]),
            amount=AtomicAmount(int(row["amount"])),
            nonce=AuthorizationNonce(bytes_of(row["authorization_nonce"])),
            valid_before=None if row["valid_before"] is None else UnixTime(row["valid_before"]),
            attempts=row["attempts"],
            queue_id=row["queue_id"],
            mint_id=MintId(bytes_of(row["mint_id"])),
            token=address_of(row["token_address"]),
            recipient=address_of(row["recipient"]),
            accepted_height=BlockNumber(row["accepted_height"]),
            since=BlockNumber(row["settled_block"]),
        )
        for row in rows
    ]


async def postpone(connection: Connection, ids: Sequence[uuid.UUID], *, why: str, delay_s: float) -> None:
    """Let approved refunds wait for `delay_s`."""
    await connection.execute(POSTPONE_REFUNDS, ids, why, delay_s)


async def end_impossible(connection: Connection, refund_id: uuid.UUID, *, why: str) -> list[uuid.UUID]:
    """Leave the debt to a person, for good; returns the payment if the refund was approved."""
    return _payments(await connection.fetch(END_IMPOSSIBLE, refund_id, why))


async def retry(connection: Connection, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Make approved refunds due at once; returns those that are approved."""
    return [row["id"] for row in await connection.fetch(RETRY_REFUNDS, ids)]


async def mark_sent(
    connection: Connection,
    network: str,
    asset: Address,
    ids: Sequence[uuid.UUID],
    *,
    tx_hash: TxHash,
    treasury: Address,
    valid_before: UnixTime,
    of_the_day_max: AtomicAmount | None,
    balance: AtomicAmount,
) -> None:
    """Turn the batch `sent`, all of it; raises LeaseLost (and so undoes everything) otherwise.

    Also when one of its debts may not be refunded any more, or when with it more would be on its way than `balance`,
    or more than `of_the_day_max` were refunded in 24 hours.
    """
    await treasuries.lock(connection, network, asset, treasury)
    still = await _lock(connection, ids)
    if len(still) != len(ids):
        raise LeaseLost(f"{len(ids) - len(still)} debts may not be refunded any more")
    changed = await connection.execute(MARK_REFUNDS_SENT, ids, hex_text(tx_hash), hex_text(treasury), valid_before)
    if changed != f"UPDATE {len(ids)}":
        raise LeaseLost(f"{changed} of a batch of {len(ids)} refunds")
    out = await outflow(connection, network, asset, treasury=treasury)
    if out.on_its_way > balance or (of_the_day_max is not None and out.of_the_day > of_the_day_max):
        raise LeaseLost("other refunds have been sent meanwhile, and these do not fit beside them")


async def complete(
    connection: Connection, network: str, asset: Address, found: Sequence[Refunded], *, block: BlockNumber
) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """Complete the refunds that `block` shows, and close their debts; nonces of nobody's are passed over.

    Returns the refunds, and their payments.
    """
    rows = await connection.fetch(
        COMPLETE_REFUNDS,
        network,
        hex_text(asset),
        block,
        [hex_text(f.treasury) for f in found],
        [hex_text(f.nonce) for f in found],
        [hex_text(f.beneficiary) for f in found],
        [f.amount for f in found],
        [hex_text(f.tx_hash) for f in found],
    )
    closed = await connection.fetch(CLOSE_REFUNDED, [row["owed_id"] for row in rows])
    return [row["id"] for row in rows], _payments(closed)


async def return_unpaid(connection: Connection, mined: Sequence[TxHash]) -> list[uuid.UUID]:
    """Refunds that one of the `mined` transactions was to carry, and did not, are approved again; their payments."""
    return _payments(await connection.fetch(RETURN_REFUNDS, [hex_text(h) for h in mined]))


async def return_stranded(connection: Connection, network: str) -> list[uuid.UUID]:
    """Refunds that no transaction carries any more are approved again; their payments."""
    return _payments(await connection.fetch(RETURN_STRANDED, network))


async def reorg_above(connection: Connection, network: str, height: BlockNumber) -> list[uuid.UUID]:
    """A reorg took what was refunded above `height`; returns the payments."""
    taken = await connection.fetch(REORG_REFUNDS, network, height)
    return _payments(await connection.fetch(REOPEN_DEBTS, [row["owed_id"] for row in taken]))


async def outflow(connection: Connection, network: str, asset: Address, *, treasury: Address) -> Outflow:
    """What is on its way from a treasury, and what was refunded in 24 hours by all of them."""
    row = await connection.fetchrow(READ_OUTFLOW, network, hex_text(asset), hex_text(treasury))
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Outflow(AtomicAmount(int(row["on_its_way"])), AtomicAmount(int(row["of_the_day"])))


async def _lock(connection: Connection, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Hold units and debts until this transaction ends; returns the refunds that may still be paid."""
    await connection.execute(LOCK_UNITS, ids)
    await connection.execute(LOCK_DEBTS, ids)
    return [row["id"] for row in await connection.fetch(STILL_REFUNDABLE, ids)]


def _payments(rows: Sequence[asyncpg.Record]) -> list[uuid.UUID]:
    return [row["payment_id"] for row in rows if row["payment_id"] is not None]
