"""`payment_queue` and `authorizations`, as the API sees them: accept, find again, show."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import msgspec

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus
from payfirst.store import refund_list
from payfirst.store.database import Connection
from payfirst.store.never_reuse import where_held
from payfirst.store.refund_list import ShownRefund
from payfirst.store.rows import address_of, bytes_of
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, MintId, TxHash, UnixTime

# insert_payments: take the authorizations that nobody took before, and queue a payment for each of those.
# One statement, so one commit; a conflict of one row never fails its neighbours. Sorted by key, so that two
# such statements cannot wait for each other. The acceptance height is the database's: an API process may be behind.
INSERT_PAYMENTS = """
WITH offered AS (
    SELECT * FROM unnest($4::uuid[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::text[],
                         $10::int[], $11::bigint[], $12::bigint[], $13::bytea[])
    AS o(id, payer, nonce, token, recipient, amount, quantity, valid_after, valid_before, signature)
), taken AS (
    INSERT INTO authorizations (network, asset, payer, authorization_nonce, payment_id)
    SELECT $1, $2, payer, nonce, id FROM offered ORDER BY payer, nonce
    ON CONFLICT DO NOTHING
    RETURNING payment_id
)
INSERT INTO payment_queue (id, network, asset, pay_to, token_address, payer, recipient, amount, quantity,
                           authorization_nonce, valid_after, valid_before, signature, accepted_height)
SELECT o.id, $1, '0x' || encode($2, 'hex'), '0x' || encode($3, 'hex'), '0x' || encode(o.token, 'hex'),
       '0x' || encode(o.payer, 'hex'), '0x' || encode(o.recipient, 'hex'), o.amount::numeric, o.quantity,
       '0x' || encode(o.nonce, 'hex'), o.valid_after, o.valid_before, o.signature,
       (SELECT head_height FROM chain_heads WHERE network = $1)
FROM offered o JOIN taken t ON t.payment_id = o.id
RETURNING id
"""

# find_authorizations: which of these authorizations are taken, and by which payments; one probe each
# (OFFSET 0 keeps it so, as in credit_candidates). By itself, as most that is asked for is free, and a plan with more
# tables takes longer to make than to run.
FIND_AUTHORIZATIONS = f"""
SELECT k.payer, k.nonce AS authorization_nonce, a.payment_id FROM unnest($3::bytea[], $4::bytea[]) AS k(payer, nonce)
CROSS JOIN LATERAL (
    SELECT payment_id FROM authorizations WHERE {where_held("k.payer", "k.nonce", "$2", "$1::text")} OFFSET 0
) a
"""

_FIND_PAYMENTS = """
SELECT id, token_address, quantity, recipient, status FROM {payments} WHERE id = ANY($1::uuid[])
"""

# find_payments: what the live ones among these payments are for.
FIND_PAYMENTS = _FIND_PAYMENTS.format(payments="payment_queue")

# find_archived_payments: the same of the history. Rows move one way only, so who looks here after the live
# table misses none; and as long as rows are live, nothing is asked of the history.
FIND_ARCHIVED_PAYMENTS = _FIND_PAYMENTS.format(payments="payment_history")

# wait_for_standby: a commit that writes something and keeps nothing. What is seen may be of a commit that was cut
# while it waited for the synchronous standby; this one waits for both. Without such a standby it costs one flush.
WAIT_FOR_STANDBY = "SELECT pg_logical_emit_message(true, 'payfirst', '')"

_SHOWN = (
    "id, network, token_address, payer, amount, quantity, recipient, status, finality, tx_hash, error, error_code,"
    " result, created_at, processed_at"
)

# show_payments: live payments.
SHOW_PAYMENTS = f"SELECT {_SHOWN} FROM payment_queue WHERE id = ANY($1::uuid[])"

# show_archived_payments: payments that have moved to the history.
SHOW_ARCHIVED_PAYMENTS = f"SELECT {_SHOWN} FROM payment_history WHERE id = ANY($1::uuid[])"

_SHOW_MINTS = """
SELECT id, payment_id, unit, recipient, mint_id, status, mint_tx_hash FROM {mints}
WHERE payment_id = ANY($1::uuid[]) ORDER BY payment_id, unit
"""

# show_mints: the units of live payments, each payment's in order.
SHOW_MINTS = _SHOW_MINTS.format(mints="mint_queue")

# show_archived_mints: the units of payments that have moved to the history.
SHOW_ARCHIVED_MINTS = _SHOW_MINTS.format(mints="mint_history")

# moved_on: which of these payments no longer have the fingerprint they had ($2; NULL: none yet), and their new one.
# It is over what a buyer sees move; all that is not in the live tables (any more) has one and the same.
MOVED_ON = """
SELECT id, fingerprint FROM (
    SELECT w.id, w.fingerprint AS before, hashtextextended(
        concat_ws(' ', p.status, p.finality, p.tx_hash, extract(epoch FROM p.processed_at), (
            SELECT string_agg(concat_ws(' ', m.status, m.mint_tx_hash), ',' ORDER BY m.unit)
            FROM mint_queue m WHERE m.payment_id = p.id AND p.status = 'completed'
        ), (
            SELECT string_agg(concat_ws(' ', r.status, r.tx_hash), ',' ORDER BY r.id)
            FROM owed o JOIN refunds r ON r.owed_id = o.id WHERE o.payment_id = p.id AND p.status = 'completed'
        )), 0) AS fingerprint
    FROM unnest($1::uuid[], $2::bigint[]) AS w(id, fingerprint)
    LEFT JOIN LATERAL (
        SELECT id, status, finality, tx_hash, processed_at FROM payment_queue WHERE id = w.id OFFSET 0
    ) p ON true
) now WHERE fingerprint IS DISTINCT FROM before
"""

# payment_of_authorization: which payment an authorization paid for; one probe of the key that is kept for ever.
PAYMENT_OF_AUTHORIZATION = f"""
SELECT payment_id FROM authorizations WHERE {where_held("$1", "$2::bytea", "$3", "$4::text")}
"""

# payment_of_mint: which live payment a queue id belongs to.
PAYMENT_OF_MINT = "SELECT payment_id FROM mint_queue WHERE id = $1"

# payment_of_archived_mint: which payment of the history a queue id belongs to.
PAYMENT_OF_ARCHIVED_MINT = "SELECT payment_id FROM mint_history WHERE id = $1"


class NewPayment(msgspec.Struct, frozen=True):
    """A verified payment on its way into the queue. A Struct, as those are made in a tenth of a dataclass' time."""

    id: uuid.UUID
    token: Address
    quantity: int
    recipient: Address
    payer: Address
    amount: AtomicAmount
    nonce: AuthorizationNonce
    valid_after: UnixTime
    valid_before: UnixTime
    signature: bytes
    by_wallet: bool = False  # the signature is a smart wallet's, and unverified


@dataclass(frozen=True, slots=True)
class StoredPayment:
    """What holds an authorization already: enough to tell the same request from another."""

    id: uuid.UUID
    token: Address
    quantity: int
    recipient: Address
    status: PaymentStatus


@dataclass(frozen=True, slots=True)
class ShownMint:
    """One unit, as a buyer sees it."""

    queue_id: uuid.UUID
    unit: int
    recipient: Address
    mint_id: MintId
    status: MintStatus
    tx_hash: TxHash | None
    refund: ShownRefund | None = None


@dataclass(frozen=True, slots=True)
class ShownPayment:
    """One payment with its units, as a buyer sees it."""

    id: uuid.UUID
    network: str
    token: Address
    payer: Address
    amount: AtomicAmount
    quantity: int
    recipient: Address
    status: PaymentStatus
    finality: Finality
    tx_hash: TxHash | None
    error: str | None
    error_code: str | None
    queue_ids: tuple[str, ...] | None
    created_at: dt.datetime
    processed_at: dt.datetime | None
    mints: tuple[ShownMint, ...]


class _Result(msgspec.Struct):
    queueIds: list[str]  # noqa: N815 - the column's own JSON


_RESULT = msgspec.json.Decoder(_Result)


async def insert(
    connection: Connection,
    *,
    network: str,
    asset: Address,
    pay_to: Address,
    payments: Sequence[NewPayment],
) -> set[uuid.UUID]:
    """Queue the payments whose authorization is new; returns their ids. One statement, one commit."""
    rows = await connection.fetch(
        INSERT_PAYMENTS,
        network,
        asset,
        pay_to,
        [p.id for p in payments],
        [p.payer for p in payments],
        [p.nonce for p in payments],
        [p.token for p in payments],
        [p.recipient for p in payments],
        [str(p.amount) for p in payments],  # as text: the driver makes a Decimal of a number first
        [p.quantity for p in payments],
        [p.valid_after for p in payments],
        [p.valid_before for p in payments],
        [p.signature for p in payments],
    )
    return {row[0] for row in rows}


async def find_by_authorization(
    connection: Connection,
    *,
    network: str,
    asset: Address,
    keys: Sequence[tuple[Address, AuthorizationNonce]],
) -> dict[tuple[Address, AuthorizationNonce], StoredPayment]:
    """The payments that hold these authorizations, live or archived; keys that are free are absent."""
    taken = await connection.fetch(FIND_AUTHORIZATIONS, network, asset, [k[0] for k in keys], [k[1] for k in keys])
    found: dict[uuid.UUID, StoredPayment] = {}
    for query in (FIND_PAYMENTS, FIND_ARCHIVED_PAYMENTS):
        missing = [row["payment_id"] for row in taken if row["payment_id"] not in found]
        if missing:
            found |= {row["id"]: _stored(row) for row in await connection.fetch(query, missing)}
    return {
        (Address(row["payer"]), AuthorizationNonce(row["authorization_nonce"])): found[row["payment_id"]]
        for row in taken
        if row["payment_id"] in found
    }


async def wait_for_standby(connection: Connection, *, timeout_s: float) -> None:
    """Return once all that this connection can see outlives a failover to the synchronous standby, if there is one.

    Raises TimeoutError.
    """
    await connection.execute(WAIT_FOR_STANDBY, timeout=timeout_s)


def _stored(row: asyncpg.Record) -> StoredPayment:
    return StoredPayment(
        id=row["id"],
        token=address_of(row["token_address"]),
        quantity=row["quantity"],
        recipient=address_of(row["recipient"]),
        status=PaymentStatus(row["status"]),
    )


async def show(connection: Connection, payment_id: uuid.UUID) -> ShownPayment | None:
    """One payment with its units, None where there is none."""
    return next(iter(await show_many(connection, [payment_id])), None)


async def show_many(connection: Connection, ids: Sequence[uuid.UUID]) -> list[ShownPayment]:
    """Payments with their units, live or archived, in no order; ids of nothing are absent."""
    rows = await connection.fetch(SHOW_PAYMENTS, ids)
    if len(rows) < len(ids):
        live = {row["id"] for row in rows}
        rows += await connection.fetch(SHOW_ARCHIVED_PAYMENTS, [i for i in ids if i not in live])
    completed = [row["id"] for row in rows if row["status"] == PaymentStatus.COMPLETED]
    mints: dict[uuid.UUID, list[ShownMint]] = {}
    units: list[asyncpg.Record] = []
    for query in (SHOW_MINTS, SHOW_ARCHIVED_MINTS):
        # A completed payment has its units, so where they are not live they are (or have just been) archived.
        found = {row["payment_id"] for row in units}
        missing = [i for i in completed if i not in found]
        units += await connection.fetch(query, missing) if missing else []
    # Only what was given up can have a refund: nearly no payment is asked for one.
    given_up = list({row["payment_id"] for row in units if row["status"] == MintStatus.OWED})
    shown = await refund_list.show(connection, given_up) if given_up else []
    refunds = {(refund.payment_id, refund.unit): refund for refund in shown}
    for row in units:
        refund = refunds.get((row["payment_id"], row["unit"])) if row["status"] == MintStatus.OWED else None
        mints.setdefault(row["payment_id"], []).append(_shown_mint(row, refund))
    return [_shown_payment(row, mints.get(row["id"], [])) for row in rows]


async def moved_on(connection: Connection, before: Mapping[uuid.UUID, int | None]) -> list[tuple[uuid.UUID, int]]:
    """The payments whose fingerprint is not as it was before, with the present one; the others cost no row."""
    rows = await connection.fetch(MOVED_ON, list(before), list(before.values()))
    return [(row["id"], row["fingerprint"]) for row in rows]


async def payment_of_authorization(
    connection: Connection, *, network: str, asset: Address, payer: Address, nonce: AuthorizationNonce
) -> uuid.UUID | None:
    """The payment that holds this authorization, live or archived; None where it is free."""
    found: uuid.UUID | None = await connection.fetchval(PAYMENT_OF_AUTHORIZATION, payer, nonce, asset, network)
    return found


async def payment_of_mint(connection: Connection, queue_id: uuid.UUID) -> uuid.UUID | None:
    """The payment that a mint's queue id belongs to, live or archived; None where there is none."""
    found: uuid.UUID | None = await connection.fetchval(PAYMENT_OF_MINT, queue_id)
    if found is None:
        found = await connection.fetchval(PAYMENT_OF_ARCHIVED_MINT, queue_id)
    return found


def _shown_payment(row: asyncpg.Record, mints: Sequence[ShownMint]) -> ShownPayment:
    return ShownPayment(
        id=row["id"],
        network=row["network"],
        token=address_of(row["token_address"]),
        payer=address_of(row["payer"]),
        amount=AtomicAmount(int(row["amount"])),
        quantity=row["quantity"],
        recipient=address_of(row["recipient"]),
        status=PaymentStatus(row["status"]),
        finality=Finality(row["finality"]),
        tx_hash=_hash(row["tx_hash"]),
        error=row["error"],
        error_code=row["error_code"],
        queue_ids=None if row["result"] is None else tuple(_RESULT.decode(row["result"]).queueIds),
        created_at=row["created_at"],
        processed_at=row["processed_at"],
        mints=tuple(mints),
    )


def _shown_mint(row: asyncpg.Record, refund: ShownRefund | None) -> ShownMint:
    return ShownMint(
        queue_id=row["id"],
        unit=row["unit"],
        recipient=address_of(row["recipient"]),
        mint_id=MintId(bytes_of(row["mint_id"])),
        status=MintStatus(row["status"]),
        tx_hash=_hash(row["mint_tx_hash"]),
        refund=refund,
    )


def _hash(text: str | None) -> TxHash | None:
    return None if text is None else TxHash(bytes_of(text))
