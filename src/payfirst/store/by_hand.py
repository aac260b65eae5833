"""What an operator changes by hand in the queues: hold, release, fail, try again, settle a debt. All of it is audited.

Every act is one short transaction that locks one payment, its units and its token, in this order, and writes what
was done to `audit_log` before it commits. `-- moves:` above a statement names its transitions.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import asyncpg

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus
from payfirst.store import audit_log, tokens
from payfirst.store.database import Connection
from payfirst.store.rows import address_of

# failed_code: what the buyer is told, as for a payment that was failed in psql.
FAILED_CODE = "failed_by_operator"

# lock_payment: one payment, and nobody else changes it until this transaction ends.
LOCK_PAYMENT = """
SELECT id, network, status, finality, held_reason FROM payment_queue WHERE id = $1 FOR UPDATE
"""

# lock_unit: one unit, after its payment.
LOCK_UNIT = """
SELECT id, payment_id, unit, network, token_address, status, held_reason FROM mint_queue WHERE id = $1 FOR UPDATE
"""

# payment_of_unit: which payment is to be locked before a unit.
PAYMENT_OF_UNIT = "SELECT payment_id FROM mint_queue WHERE id = $1"

# archived: whether an id that is not in the queues is one of theirs that has been moved to the history.
ARCHIVED = """
SELECT EXISTS (SELECT FROM payment_history WHERE id = $1) OR EXISTS (SELECT FROM mint_history WHERE id = $1)
"""

# hold_payment: claims skip it and its units from here on, whatever its status.
HOLD_PAYMENT = "UPDATE payment_queue SET held_reason = $2 WHERE id = $1"

# unclaim_payment: no batch is being made with it any more, as its commit would see the hold.
UNCLAIM_PAYMENT = """
UPDATE payment_queue SET lease_owner = NULL, lease_until = NULL WHERE id = $1 AND status = 'pending'
"""

# unclaim_units: no batch is being made of them any more, as its commit would see the hold of their payment.
UNCLAIM_UNITS = """
UPDATE mint_queue SET lease_owner = NULL, lease_until = NULL WHERE payment_id = $1 AND status = 'pending'
"""

# hold_unit: one unit alone.
HOLD_UNIT = """
UPDATE mint_queue SET held_reason = $2, lease_owner = NULL, lease_until = NULL WHERE id = $1 AND status = 'pending'
"""

# release_payment: it is due at once, and so are its units.
RELEASE_PAYMENT = """
UPDATE payment_queue SET held_reason = NULL, next_attempt_at = NULL WHERE id = $1 AND held_reason IS NOT NULL
"""

# release_unit: it is due at once.
RELEASE_UNIT = """
UPDATE mint_queue SET held_reason = NULL, next_attempt_at = NULL WHERE id = $1 AND held_reason IS NOT NULL
"""

# could_mine: a transaction that carries this payment and is in the chain's hands, or could get there after a reorg.
COULD_MINE = """
SELECT t.state, t.account_nonce, t.mined_block FROM chain_transaction_items i
JOIN chain_transactions t ON t.id = i.transaction_id
WHERE i.payment_id = $1 AND t.state IN ('sent', 'confirmed') ORDER BY t.id DESC LIMIT 1
"""

# fail_unsent: nothing was ever sent for it that could still be mined. A trigger gives its supply back; money that
# comes all the same is credited, and then its units are delivered: so no hold outlives this.
# moves: pending -> failed
FAIL_UNSENT = """
UPDATE payment_queue
SET status = 'failed', error_code = $2, error = $3, held_reason = NULL, processed_at = now()
WHERE id = $1 AND status = 'pending'
"""

# make_unit_due: the next round tries it.
MAKE_UNIT_DUE = "UPDATE mint_queue SET next_attempt_at = NULL WHERE id = $1 AND status = 'pending'"

# lock_debt_of_unit: what is owed for a unit, and whether a refund of it is approved, on its way or done.
LOCK_DEBT_OF_UNIT = """
SELECT o.id, o.status, EXISTS (
    SELECT FROM refunds r WHERE r.owed_id = o.id AND r.status IN ('approved', 'sent', 'completed')) AS refunding
FROM owed o WHERE o.payment_id = $1 AND o.unit = $2 ORDER BY o.id FOR UPDATE
"""

# try_unit_again: a unit that was given up is back in the queue; its supply is reserved in this same transaction.
# moves: owed -> pending
TRY_UNIT_AGAIN = """
UPDATE mint_queue
SET status = 'pending', error = NULL, error_code = NULL, suspected_code = NULL, suspected_height = NULL,
    next_attempt_at = NULL, processed_at = now()
WHERE id = $1 AND status = 'owed'
"""

# close_for_retry: the debt is a delivery again; it opens again if that fails.
CLOSE_FOR_RETRY = """
UPDATE owed SET status = 'resolved', resolution = 'tried_again', resolved_at = now(), note = 'tried again'
WHERE payment_id = $1 AND unit = $2 AND status = 'open'
"""

# lock_debt: one debt and all others of its unit; no refund of any of them begins until this transaction ends.
LOCK_DEBT = """
SELECT s.id FROM owed o JOIN owed s ON s.id = o.id OR (s.payment_id = o.payment_id AND s.unit = o.unit)
WHERE o.id = $1 ORDER BY s.id FOR UPDATE OF s
"""

# read_debt: one debt, and whether a refund of its unit is approved, on its way or done; asked once it is held.
READ_DEBT = """
SELECT o.id, o.payment_id, o.unit, o.status, EXISTS (
    SELECT FROM owed s JOIN refunds r ON r.owed_id = s.id
    WHERE (s.id = o.id OR (s.payment_id = o.payment_id AND s.unit = o.unit))
      AND r.status IN ('approved', 'sent', 'completed')) AS refunding
FROM owed o WHERE o.id = $1
"""

# resolve_debt: the seller has settled it outside payfirst; its unit stays `owed` for ever.
RESOLVE_DEBT = """
UPDATE owed SET status = 'resolved', resolution = 'by_hand', resolved_at = now(), note = $2
WHERE id = $1 AND status = 'open'
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one wish: whether it is as wished now, and the sentence that says so."""

    subject: str
    ok: bool
    sentence: str
    payment_id: uuid.UUID | None = None


async def hold(connection: Connection, subject: uuid.UUID, *, reason: str, actor: str) -> Done:
    """Let claims skip a payment and its units, or one unit."""
    payment, unit = await _lock(connection, subject)
    if payment is None:
        return await _not_there(connection, subject)
    if unit is not None:
        if unit["status"] != MintStatus.PENDING:
            return _no(subject, f"the unit is {unit['status']}: only what is not sent yet can be held")
        await connection.execute(HOLD_UNIT, subject, reason)
        sentence = "held: claims skip this unit until it is released"
    else:
        if payment["finality"] in (Finality.FINAL, Finality.LOST) and not await _units_left(connection, subject):
            return _no(subject, "nothing of it is left to be sent: there is nothing to hold")
        await connection.execute(HOLD_PAYMENT, subject, reason)
        await connection.execute(UNCLAIM_PAYMENT, subject)
        await connection.execute(UNCLAIM_UNITS, subject)
        sentence = _HELD[PaymentStatus(payment["status"])]
    await audit_log.record(
        connection, actor=actor, action="payments.hold", subject=str(payment["id"]), details=_details(unit, reason)
    )
    return Done(str(subject), True, sentence, payment["id"])


_HELD = {
    PaymentStatus.PENDING: "held: it is not sent until it is released; when its authorization ends it fails",
    PaymentStatus.SENT: "held, but its bytes are out and may be mined: its units are not minted until it is released",
    PaymentStatus.COMPLETED: "held: its units that are not sent yet are not minted until it is released",
    PaymentStatus.FAILED: "held: if its money comes after all, its units are not minted until it is released",
}


async def release(connection: Connection, subject: uuid.UUID, *, actor: str) -> Done:
    """End a hold; it is due at once."""
    payment, unit = await _lock(connection, subject)
    if payment is None:
        return await _not_there(connection, subject)
    statement = RELEASE_PAYMENT if unit is None else RELEASE_UNIT
    if await connection.execute(statement, subject) != "UPDATE 1":
        return Done(str(subject), True, "was not held", payment["id"])
    before = payment["held_reason"] if unit is None else unit["held_reason"]
    await audit_log.record(
        connection, actor=actor, action="payments.release", subject=str(payment["id"]), details=_details(unit, before)
    )
    return Done(str(subject), True, f"released (it was held: {before}): due at once", payment["id"])


async def fail(connection: Connection, payment_id: uuid.UUID, *, reason: str, actor: str) -> Done:
    """End a payment for which nothing was ever sent that could be mined. It stays watched."""
    payment = await connection.fetchrow(LOCK_PAYMENT, payment_id)
    if payment is None:
        return await _not_there(connection, payment_id)
    status = PaymentStatus(payment["status"])
    if status is not PaymentStatus.PENDING:
        return _no(payment_id, _NOT_FAILED[status])
    carried = await connection.fetchrow(COULD_MINE, payment_id)
    if carried is not None:
        where = (
            f"the transaction of account nonce {carried['account_nonce']} may still carry it into a block"
            if carried["state"] == "sent"
            else f"it was in a transaction mined in block {carried['mined_block']}, which is not final yet:"
            " a reorg could bring it back"
        )
        return _no(payment_id, f"not failed: {where}. Hold it (payfirst payments hold), and try later")
    sentence = f"The seller cancelled this order before it was sent: {reason}"
    await connection.execute(FAIL_UNSENT, payment_id, FAILED_CODE, sentence)
    await audit_log.record(
        connection, actor=actor, action="payments.fail", subject=str(payment_id), details={"reason": reason}
    )
    return Done(
        str(payment_id), True, "failed; its supply is given back, and money that comes all the same is credited",
        payment_id,
    )  # fmt: skip


_NOT_FAILED = {
    PaymentStatus.SENT: "not failed: its signed transaction is out and may be mined (see payfirst payments show)",
    PaymentStatus.COMPLETED: "not failed: it is paid",
    PaymentStatus.FAILED: "it has failed already",
}


async def try_again(connection: Connection, queue_id: uuid.UUID, *, actor: str) -> Done:
    """Make a unit due now: one that waits, and one that is owed if it can be delivered after all."""
    payment, unit = await _lock(connection, queue_id)
    if payment is None or unit is None:
        if payment is not None:
            return _no(queue_id, "that is a payment: give the ids of its units (payfirst mints list --payment)")
        return await _not_there(connection, queue_id)
    status = MintStatus(unit["status"])
    details: dict[str, object] = {"queueId": str(queue_id), "unit": unit["unit"], "was": status.value}
    if status is MintStatus.PENDING:
        if (held := unit["held_reason"] or payment["held_reason"]) is not None:
            return _no(queue_id, f"it is held ({held}): run payfirst payments release first")
        await connection.execute(MAKE_UNIT_DUE, queue_id)
        sentence = "due at once"
    elif status is MintStatus.OWED:
        if (why_not := await _why_not_again(connection, payment, unit)) is not None:
            return _no(queue_id, f"it stays owed: {why_not}")
        await tokens.add_reserved(connection, unit["network"], {address_of(unit["token_address"]): 1})
        await connection.execute(TRY_UNIT_AGAIN, queue_id)
        await connection.execute(CLOSE_FOR_RETRY, unit["payment_id"], unit["unit"])
        sentence = "owed no more: its supply is reserved, and it is due at once"
    else:
        return _no(queue_id, _NOT_AGAIN[status])
    await audit_log.record(connection, actor=actor, action="mints.retry", subject=str(payment["id"]), details=details)
    return Done(str(queue_id), True, sentence, payment["id"])


_NOT_AGAIN = {
    MintStatus.SENT: "its transaction is out: payfirst payments reset-stuck looks after it if it is not mined",
    MintStatus.COMPLETED: "it is minted",
}


async def _why_not_again(connection: Connection, payment: asyncpg.Record, unit: asyncpg.Record) -> str | None:
    """Why an owed unit must not be tried again, None where it may: paid, not refunded, and there is supply."""
    if payment["finality"] not in (Finality.OPEN, Finality.FINAL):
        return f"the chain does not hold its payment any more ({payment['finality']})"
    # The debt before the token: no refund of it can begin until this transaction ends.
    for debt in await connection.fetch(LOCK_DEBT_OF_UNIT, unit["payment_id"], unit["unit"]):
        if debt["refunding"] or debt["status"] == "refunded":
            return f"debt {debt['id']} is being refunded, or was"
        if debt["status"] == "resolved":
            return f"debt {debt['id']} was settled by hand"
    token = address_of(unit["token_address"])
    stock = (await tokens.lock_supply(connection, unit["network"], [token])).get(token)
    if stock is None or stock.max_mint_count is None:
        return "the token was never read from the chain"
    left = stock.max_mint_count - stock.minted - stock.reserved
    if left < 1:
        return f"none is left of {stock.max_mint_count} ({stock.minted} minted, {stock.reserved} promised)"
    return None


async def resolve(connection: Connection, owed_id: int, *, note: str, actor: str) -> Done:
    """Note that the seller has settled a debt outside payfirst."""
    await connection.execute(LOCK_DEBT, owed_id)
    debt = await connection.fetchrow(READ_DEBT, owed_id)
    if debt is None:
        return _no(owed_id, "there is no such debt (payfirst owed list --status all)")
    if debt["refunding"] or debt["status"] == "refunded":
        return _no(owed_id, "a refund of it has begun: it is not settled a second time")
    if debt["status"] != "open":
        return _no(owed_id, "it is settled already")
    await connection.execute(RESOLVE_DEBT, owed_id, note)
    await audit_log.record(
        connection, actor=actor, action="owed.resolve", subject=str(debt["payment_id"] or f"owed {owed_id}"),
        details={"owedId": owed_id, "unit": debt["unit"], "note": note},
    )  # fmt: skip
    return Done(str(owed_id), True, "settled by hand; its unit is not tried again", debt["payment_id"])


async def _lock(connection: Connection, subject: uuid.UUID) -> tuple[asyncpg.Record | None, asyncpg.Record | None]:
    """The locked payment of that id; or the locked unit of that id, and its payment, which is locked first."""
    if (payment := await connection.fetchrow(LOCK_PAYMENT, subject)) is not None:
        return payment, None
    payment_id = await connection.fetchval(PAYMENT_OF_UNIT, subject)
    if payment_id is None:
        return None, None
    return await connection.fetchrow(LOCK_PAYMENT, payment_id), await connection.fetchrow(LOCK_UNIT, subject)


# units_left: whether any unit of a payment may still be sent.
UNITS_LEFT = """
SELECT EXISTS (SELECT FROM mint_queue WHERE payment_id = $1 AND status IN ('pending', 'sent'))
"""


async def _units_left(connection: Connection, payment_id: uuid.UUID) -> bool:
    return bool(await connection.fetchval(UNITS_LEFT, payment_id))


async def _not_there(connection: Connection, subject: uuid.UUID) -> Done:
    if await connection.fetchval(ARCHIVED, subject):
        return _no(subject, "it has ended and is in the history: nothing changes it any more")
    return _no(subject, "there is no such payment or unit in this database")


def _no(subject: object, sentence: str) -> Done:
    return Done(str(subject), False, sentence)


def _details(unit: asyncpg.Record | None, reason: str) -> dict[str, object]:
    details: dict[str, object] = {"reason": reason}
    return details if unit is None else {**details, "queueId": str(unit["id"]), "unit": unit["unit"]}
