"""`mint_queue`: one row a unit, and only beside a completed payment."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from payfirst.errors import LeaseLost
from payfirst.lifecycle import MintStatus
from payfirst.store.claims import holds_signer, is_alone, is_ours
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.settling import Claim
from payfirst.units import Address, BlockNumber, MintId, TxHash, hex_text

# insert_mints: the units of completed payments. The foreign key refuses them for any other payment.
INSERT_MINTS = """
INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient, mint_id, status,
                        error, error_code, processed_at)
SELECT m.id, m.payment_id, m.unit, m.tx_hash, $1, m.token, m.recipient, m.mint_id, m.status, m.error, m.code,
       CASE WHEN m.status = 'owed' THEN now() END
FROM unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[])
     AS m(id, payment_id, unit, tx_hash, token, recipient, mint_id, status, error, code)
"""

# tokens_to_mint: the tokens that have due units; on a hold too, because trying again is what ends it.
TOKENS_TO_MINT = """
SELECT t.address FROM tokens t
WHERE t.network = $1 AND EXISTS (
    SELECT 1 FROM mint_queue m
    WHERE m.network = t.network AND m.token_address = t.address AND m.status = 'pending' AND m.held_reason IS NULL
      AND (m.next_attempt_at IS NULL OR m.next_attempt_at <= now())
      AND (m.lease_until IS NULL OR m.lease_until < now()))
"""

_CLAIMED = "m.id, m.payment_id, m.unit, m.recipient, m.mint_id, m.attempts, m.suspected_code, m.suspected_height"

_DUE = f"""
FROM mint_queue m JOIN payment_queue p ON p.id = m.payment_id
WHERE m.network = $1 AND m.token_address = $2 AND m.status = 'pending' AND m.held_reason IS NULL
  AND (m.next_attempt_at IS NULL OR m.next_attempt_at <= now()) AND (m.lease_until IS NULL OR m.lease_until < now())
  AND p.finality IN ('open', 'final') AND p.held_reason IS NULL AND {holds_signer("$1", "$3", "$4")}
  AND m.id <> ALL($6::uuid[])
"""

# read_mints: the oldest due units of one token, for the only process that mints, whose lease of a signer stands for
# them: no row is written. None where another one mints, and would read the same. Units whose payment a reorg took wait
# for its return, and those that are on hold, by themselves or with their payment, for their release; those that this
# process works with ($6) are skipped. Nothing for who lost the signer.
READ_MINTS = f"""
SELECT {_CLAIMED}, p.accepted_height {_DUE} AND {is_alone("mint", "$1", "$3")} ORDER BY m.id LIMIT $5
"""

# claim_mints: lease the same units one by one: for one of several processes, or where some are locked by somebody.
CLAIM_MINTS = f"""
UPDATE mint_queue m
SET lease_owner = $3, lease_epoch = $4, lease_until = now() + $7 * interval '1 second'
FROM (SELECT m.id, p.accepted_height {_DUE} ORDER BY m.id LIMIT $5
      FOR UPDATE OF m SKIP LOCKED FOR SHARE OF p SKIP LOCKED) due
WHERE m.id = due.id
RETURNING {_CLAIMED}, due.accepted_height
"""

# free_mint_claims: the signer has a new holder; what an earlier one had claimed and not sent is due again.
FREE_MINT_CLAIMS = """
UPDATE mint_queue SET lease_owner = NULL, lease_until = NULL
WHERE network = $1 AND status = 'pending' AND lease_owner = $2 AND lease_epoch < $3
"""

# lock_paid: the payments of these units that the chain still holds and nobody has put on hold; no reorg is undone
# until this commit ends.
LOCK_PAID = """
SELECT id FROM payment_queue
WHERE id = ANY($1::uuid[]) AND status = 'completed' AND finality IN ('open', 'final') AND held_reason IS NULL
ORDER BY id FOR SHARE
"""

# mark_mints_sent: the transaction that carries them is stored in this same commit, under the signer's epoch.
# moves: pending -> sent
MARK_MINTS_SENT = f"""
UPDATE mint_queue
SET status = 'sent', mint_tx_hash = $2, processed_at = now(), error = NULL, error_code = NULL,
    suspected_code = NULL, suspected_height = NULL, lease_owner = NULL, lease_until = NULL, attempts = attempts + 1
WHERE id = ANY($1::uuid[]) AND status = 'pending' AND {is_ours("$3", "$4")}
"""

# postpone_mints: give units back to the queue, due after a while, with what was suspected of them and where.
POSTPONE_MINTS = f"""
UPDATE mint_queue m
SET lease_owner = NULL, lease_until = NULL, next_attempt_at = now() + $2 * interval '1 second',
    suspected_code = $3, suspected_height = $4, error = $5, attempts = attempts + 1
WHERE m.id = ANY($1::uuid[]) AND m.status = 'pending' AND {is_ours("$7", "$8")} AND {holds_signer("$6", "$7", "$8")}
"""

# mark_minted: the chain holds the mint id at depth, under whatever transaction; also for a unit given up as owed. Each
# is looked up by its mint id. The statuses come out of the subquery (OFFSET 0 keeps it one), so that the planner does
# not know them: where its statistics say that no unit has one of them, it reads all that have and compares each with
# the whole list.
# moves: pending -> completed, sent -> completed, owed -> completed
MARK_MINTED = """
UPDATE mint_queue m
SET status = 'completed', mint_tx_hash = e.tx_hash, minted_block = $3, processed_at = now(), error = NULL,
    error_code = NULL, lease_owner = NULL, lease_until = NULL
FROM unnest($1::text[], $2::text[]) AS e(mint_id, tx_hash)
CROSS JOIN LATERAL (
    SELECT id, status, ARRAY['pending', 'sent', 'owed'] AS status_before
    FROM mint_queue WHERE mint_id = e.mint_id OFFSET 0
) old
WHERE m.id = old.id AND m.status = ANY(old.status_before)
RETURNING m.id, m.token_address, m.payment_id, old.status AS before,
          extract(epoch FROM now() - m.created_at)::float8 AS age_s,
          extract(epoch FROM now() - (SELECT created_at FROM payment_queue WHERE id = m.payment_id))::float8 AS paid_s
"""

# return_mints: their transaction, or another under its nonce, was mined without them. Waits longer each time: gas
# is paid for every one.
# moves: sent -> pending
RETURN_MINTS = """
UPDATE mint_queue
SET status = 'pending', mint_tx_hash = NULL, processed_at = now(),
    next_attempt_at = now() + least(60, 2 ^ least(attempts - 1, 6)) * interval '1 second',
    error = 'its transaction ended and minted nothing for it'
WHERE id = ANY($1::uuid[]) AND status = 'sent' AND mint_tx_hash = ANY($2::text[])
"""

# mark_owed: a unit that cannot be delivered; the row stays, and `owed` names it.
# moves: pending -> owed
MARK_OWED = f"""
UPDATE mint_queue
SET status = 'owed', error = $2, error_code = $3, processed_at = now(), lease_owner = NULL, lease_until = NULL
WHERE id = ANY($1::uuid[]) AND status = 'pending' AND {is_ours("$5", "$6")} AND {holds_signer("$4", "$5", "$6")}
RETURNING id, payment_id, unit, token_address
"""

# reorg_mints: a reorg took the blocks above a fork; the same bytes are to be sent again.
# moves: completed -> sent
REORG_MINTS = """
UPDATE mint_queue SET status = 'sent', minted_block = NULL
WHERE network = $1 AND status = 'completed' AND minted_block > $2
RETURNING token_address
"""


@dataclass(frozen=True, slots=True)
class NewMint:
    """One unit of a payment that is being completed."""

    id: uuid.UUID
    payment_id: uuid.UUID
    unit: int
    payment_tx_hash: TxHash
    token: Address
    recipient: Address
    mint_id: MintId
    status: MintStatus = MintStatus.PENDING
    error: str | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimedMint:
    """A unit that a mint worker works with; `suspected_*` is what an earlier pre-flight saw.

    `accepted_height` is where the chain stood when its payment was accepted.
    """

    id: uuid.UUID
    payment_id: uuid.UUID
    unit: int
    recipient: Address
    mint_id: MintId
    attempts: int
    suspected_code: str | None
    suspected_height: BlockNumber | None
    accepted_height: BlockNumber


@dataclass(frozen=True, slots=True)
class Minted:
    """A unit that has just been found on chain, and what it was before.

    `age_s` is since its payment was completed, `paid_s` since that was accepted.
    """

    id: uuid.UUID
    payment_id: uuid.UUID
    token: Address
    before: MintStatus
    age_s: float
    paid_s: float


@dataclass(frozen=True, slots=True)
class OwedUnit:
    """A unit that has just been given up."""

    payment_id: uuid.UUID
    unit: int
    token: Address


async def insert(connection: Connection, *, network: str, mints: Sequence[NewMint]) -> None:
    """Create the units of completed payments, in the transaction that completes them."""
    await connection.execute(
        INSERT_MINTS,
        network,
        [m.id for m in mints],
        [m.payment_id for m in mints],
        [m.unit for m in mints],
        [hex_text(m.payment_tx_hash) for m in mints],
        [hex_text(m.token) for m in mints],
        [hex_text(m.recipient) for m in mints],
        [hex_text(m.mint_id) for m in mints],
        [m.status.value for m in mints],
        [m.error for m in mints],
        [m.error_code for m in mints],
    )


async def tokens_with_work(connection: Connection, *, network: str) -> list[Address]:
    """The tokens that have due units."""
    return [address_of(row["address"]) for row in await connection.fetch(TOKENS_TO_MINT, network)]


async def claim(
    connection: Connection,
    *,
    token: Address,
    claim: Claim,
    lease_s: float,
    limit: int,
    besides: Collection[uuid.UUID],
    by_row: bool,
) -> list[ClaimedMint]:
    """Up to `limit` due units of one token, oldest first: by the signer's lease where this process is alone, else each
    leased.

    `besides` those that this process works with already. `by_row`: lease each in any case.
    """
    due = (claim.network, hex_text(token), claim.owner, claim.epoch, limit, list(besides))
    rows = [] if by_row else await connection.fetch(READ_MINTS, *due)
    rows = rows or await connection.fetch(CLAIM_MINTS, *due, lease_s)
    claimed = [
        ClaimedMint(
            id=row["id"],
            payment_id=row["payment_id"],
            unit=row["unit"],
            recipient=address_of(row["recipient"]),
            mint_id=MintId(bytes_of(row["mint_id"])),
            attempts=row["attempts"],
            suspected_code=row["suspected_code"],
            suspected_height=row["suspected_height"],
            accepted_height=BlockNumber(row["accepted_height"]),
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda m: m.id)


async def free_claims(connection: Connection, claim: Claim) -> None:
    """Make what an earlier holder of the signer had claimed due again."""
    await connection.execute(FREE_MINT_CLAIMS, claim.network, claim.owner, claim.epoch)


async def lock_paid(connection: Connection, payment_ids: Sequence[uuid.UUID]) -> None:
    """Raises LeaseLost when a reorg or a hold has taken one of the payments since its units were claimed."""
    wanted = set(payment_ids)
    if len(await connection.fetch(LOCK_PAID, list(wanted))) != len(wanted):
        raise LeaseLost("a reorg or a hold has taken a payment whose units were about to be minted")


async def mark_sent(connection: Connection, ids: Sequence[uuid.UUID], *, tx_hash: TxHash, claim: Claim) -> None:
    """Turn the batch `sent`, all of it: raises LeaseLost (and so undoes everything) otherwise."""
    changed = await connection.execute(MARK_MINTS_SENT, ids, hex_text(tx_hash), claim.owner, claim.epoch)
    if changed != f"UPDATE {len(ids)}":
        raise LeaseLost(f"{changed} of a batch of {len(ids)} units")


async def postpone(
    connection: Connection,
    ids: Sequence[uuid.UUID],
    *,
    delay_s: float,
    code: str | None,
    height: BlockNumber | None,
    reason: str | None,
    claim: Claim,
) -> None:
    """Give units back to the queue for `delay_s`."""
    await connection.execute(
        POSTPONE_MINTS, ids, delay_s, code, height, reason, claim.network, claim.owner, claim.epoch
    )


async def mark_minted(
    connection: Connection, found: Sequence[tuple[MintId, TxHash]], *, block: BlockNumber
) -> list[Minted]:
    """Complete the units whose mint id stands in `block`; mint ids of nobody's are passed over."""
    rows = await connection.fetch(
        MARK_MINTED, [hex_text(mint_id) for mint_id, _ in found], [hex_text(tx) for _, tx in found], block
    )
    return [
        Minted(
            id=row["id"],
            payment_id=row["payment_id"],
            token=address_of(row["token_address"]),
            before=MintStatus(row["before"]),
            age_s=row["age_s"],
            paid_s=row["paid_s"],
        )
        for row in rows
    ]


async def return_to_queue(connection: Connection, ids: Sequence[uuid.UUID], *, mined: Sequence[TxHash]) -> None:
    """Units that one of the `mined` transactions was to carry, and did not, are pending again."""
    await connection.execute(RETURN_MINTS, ids, [hex_text(h) for h in mined])


async def mark_owed(
    connection: Connection, ids: Sequence[uuid.UUID], *, sentence: str, code: str, claim: Claim
) -> list[OwedUnit]:
    """Give up units that cannot be delivered; the caller writes their `owed` rows in the same transaction."""
    rows = await connection.fetch(MARK_OWED, ids, sentence, code, claim.network, claim.owner, claim.epoch)
    return [OwedUnit(row["payment_id"], row["unit"], address_of(row["token_address"])) for row in rows]


async def reorg_above(connection: Connection, network: str, height: BlockNumber) -> dict[Address, int]:
    """A reorg took what was minted above `height`; returns the number of units by token."""
    lost: dict[Address, int] = {}
    for row in await connection.fetch(REORG_MINTS, network, height):
        token = address_of(row["token_address"])
        lost[token] = lost.get(token, 0) + 1
    return lost
