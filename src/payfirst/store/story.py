"""Everything the database knows of a payment, to be told to an operator; and what surrounds it: signers, tokens, chain.

These are rows for people, so addresses and hashes stay the text that the database has. Reads only, by primary keys
and partial indexes.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import asyncpg

from payfirst.lifecycle import Finality, MintStatus, PaymentStatus, TransactionState
from payfirst.store.database import Connection
from payfirst.store.signers import Purpose

# How many payments before one in the queue are counted: beyond that the number says nothing more.
AHEAD_MAX = 10_000
# Enough to tell one transaction from another without loading thousands of rows for one story.
ENTRIES_MAX = 200

_PAYMENT = """
id, network, token_address, asset, payer, pay_to, amount, quantity, recipient, authorization_nonce, valid_after,
valid_before, status, finality, tx_hash, settled_block, settled_block_hash, settled_log_index, settled_by_us, error,
error_code, accepted_height, supply_reserved, attempts, suspected_code, suspected_height, held_reason,
next_attempt_at, lease_owner, lease_until, created_at, processed_at
"""

# read_payments: payments, live or archived.
READ_PAYMENTS = f"""
SELECT {_PAYMENT}, NULL::timestamptz AS archived_at FROM payment_queue WHERE id = ANY($1::uuid[])
UNION ALL
SELECT {_PAYMENT}, archived_at FROM payment_history WHERE id = ANY($1::uuid[])
"""

_UNIT = """
id, payment_id, unit, recipient, mint_id, status, mint_tx_hash AS tx_hash, minted_block, error, error_code, attempts,
suspected_code, suspected_height, held_reason, next_attempt_at, lease_owner, lease_until, created_at, processed_at
"""

# read_units: the units of payments, live or archived.
READ_UNITS = f"""
SELECT {_UNIT} FROM mint_queue WHERE payment_id = ANY($1::uuid[])
UNION ALL
SELECT {_UNIT} FROM mint_history WHERE payment_id = ANY($1::uuid[])
ORDER BY payment_id, unit
"""

# item_outcome: only what was not done is written down (transactions.note_outcomes).
_OUTCOME = "CASE WHEN i.outcome IS NULL AND t.state IN ('confirmed', 'final') THEN 'done' ELSE i.outcome END AS outcome"

# read_items: every transaction that carried these payments or units, and what became of them in it.
READ_ITEMS = f"""
SELECT i.transaction_id, i.position, i.payment_id, i.queue_id, {_OUTCOME}
FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
WHERE i.payment_id = ANY($1::uuid[])
UNION ALL
SELECT i.transaction_id, i.position, i.payment_id, i.queue_id, {_OUTCOME}
FROM chain_transaction_items i JOIN chain_transactions t ON t.id = i.transaction_id
WHERE i.queue_id = ANY($2::uuid[])
ORDER BY transaction_id, position
"""

# read_transactions: transactions, and the lowest account nonce of their signer that has no known outcome.
READ_TRANSACTIONS = """
SELECT t.id, t.signer, t.account_nonce, t.purpose, t.state, t.item_count, t.mined_hash, t.mined_block, t.succeeded,
       t.gas_used, t.created_at, t.confirmed_at, t.replace_requested_at,
       CASE WHEN t.state = 'sent' THEN
           (SELECT min(b.account_nonce) FROM chain_transactions b
            WHERE b.network = t.network AND b.signer = t.signer AND b.state = 'sent') END AS lowest_unresolved,
       (SELECT w.block FROM waiting_evidence w WHERE w.transaction_id = t.id) AS waiting_block
FROM chain_transactions t WHERE t.id = ANY($1::bigint[]) ORDER BY t.id
"""

# read_attempts: every hash of some transactions, the oldest first.
READ_ATTEMPTS = """
SELECT transaction_id, hash, max_fee_per_gas_wei AS max_fee_wei, max_priority_fee_per_gas_wei AS priority_fee_wei,
       is_noop, broadcast_count, last_broadcast_at, last_error, created_at
FROM chain_attempts WHERE transaction_id = ANY($1::bigint[]) ORDER BY transaction_id, created_at, hash
"""

# read_debts: what is owed for payments, or was.
READ_DEBTS = """
SELECT id, payment_id, unit, direction, reason, amount, beneficiary, status, resolution, note, created_at, resolved_at
FROM owed WHERE payment_id = ANY($1::uuid[]) ORDER BY id
"""

# read_entries: what operators did to payments.
READ_ENTRIES = """
SELECT subject, at, actor, action, details FROM audit_log WHERE subject = ANY($1::text[]) ORDER BY subject, id LIMIT $2
"""

# count_ahead: the pending payments that are older than this one.
COUNT_AHEAD = """
SELECT count(*) FROM (
    SELECT FROM payment_queue WHERE network = $1 AND status = 'pending' AND held_reason IS NULL AND id < $2 LIMIT $3
) ahead
"""

# read_head: what the workers saw of the chain last, and how long ago.
READ_HEAD = """
SELECT head_height, head_time, base_fee_wei, cursor_height, cursor_time, final_height, confirmable_height, now() AS now,
       extract(epoch FROM now() - head_seen_at)::float8 AS seen_age_s
FROM chain_heads WHERE network = $1
"""

# now: the database's clock, by which every time above is told.
NOW = "SELECT now()"

# count_workers: the workers that live.
COUNT_WORKERS = """
SELECT count(*) FROM processes
WHERE role = 'worker' AND network = $1 AND heartbeat_at > now() - interval '10 seconds'
"""

# read_token: what keeps a token from being minted.
READ_TOKEN = """
SELECT address, status, held_reason, max_mint_count, minted, reserved FROM tokens
WHERE network = $1 AND address = ANY($2::text[])
"""

# read_signers: who can sign, and what stands in its way.
READ_SIGNERS = """
SELECT s.address, s.purpose, s.paused_reason, coalesce(s.lease_until > now(), false) AS held, s.next_nonce,
       u.unresolved, u.lowest_nonce
FROM signers s
CROSS JOIN LATERAL (
    SELECT count(*) AS unresolved, min(account_nonce) AS lowest_nonce FROM chain_transactions t
    WHERE t.network = s.network AND t.signer = s.address AND t.state = 'sent'
) u
WHERE s.network = $1 ORDER BY s.purpose DESC, s.created_at, s.address
"""


@dataclass(frozen=True, slots=True)
class Payment:
    """The row of a payment; `archived_at` says that it is in the history."""

    id: uuid.UUID
    network: str
    token_address: str
    asset: str
    payer: str
    pay_to: str
    amount: Decimal
    quantity: int
    recipient: str
    authorization_nonce: str
    valid_after: int
    valid_before: int
    status: PaymentStatus
    finality: Finality
    tx_hash: str | None
    settled_block: int | None
    settled_block_hash: str | None
    settled_log_index: int | None
    settled_by_us: bool | None
    error: str | None
    error_code: str | None
    accepted_height: int
    supply_reserved: bool
    attempts: int
    suspected_code: str | None
    suspected_height: int | None
    held_reason: str | None
    next_attempt_at: dt.datetime | None
    lease_owner: str | None
    lease_until: dt.datetime | None
    created_at: dt.datetime
    processed_at: dt.datetime | None
    archived_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Unit:
    """The row of a unit."""

    id: uuid.UUID
    payment_id: uuid.UUID
    unit: int
    recipient: str
    mint_id: str
    status: MintStatus
    tx_hash: str | None
    minted_block: int | None
    error: str | None
    error_code: str | None
    attempts: int
    suspected_code: str | None
    suspected_height: int | None
    held_reason: str | None
    next_attempt_at: dt.datetime | None
    lease_owner: str | None
    lease_until: dt.datetime | None
    created_at: dt.datetime
    processed_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One hash under which a transaction could be mined."""

    hash: str
    max_fee_wei: Decimal
    priority_fee_wei: Decimal
    is_noop: bool
    broadcast_count: int
    last_broadcast_at: dt.datetime | None
    last_error: str | None
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Item:
    """What a transaction was to do for this payment: pay it (`queue_id` None), or mint one unit."""

    position: int
    payment_id: uuid.UUID | None
    queue_id: uuid.UUID | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Carrier:
    """A transaction that carried the payment or units of it, with the items that are this payment's.

    `lowest_unresolved` is the lowest account nonce of its signer without a known outcome, while it has none itself.
    """

    id: int
    signer: str
    account_nonce: int
    purpose: Purpose
    state: TransactionState
    item_count: int
    mined_hash: str | None
    mined_block: int | None
    succeeded: bool | None
    gas_used: int | None
    created_at: dt.datetime
    confirmed_at: dt.datetime | None
    replace_requested_at: dt.datetime | None
    lowest_unresolved: int | None
    waiting_block: int | None = None  # where it was seen, and is believed later
    attempts: tuple[Attempt, ...] = ()
    items: tuple[Item, ...] = ()

    @property
    def newest(self) -> Attempt:
        """The bytes that were made last."""
        return self.attempts[-1]


@dataclass(frozen=True, slots=True)
class OwedRow:
    """One debt."""

    id: int
    payment_id: uuid.UUID
    unit: int | None
    direction: str
    reason: str
    amount: Decimal
    beneficiary: str
    status: str
    resolution: str | None
    note: str | None
    created_at: dt.datetime
    resolved_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log."""

    at: dt.datetime
    actor: str
    action: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """One payment with all that belongs to it."""

    payment: Payment
    units: tuple[Unit, ...] = ()
    carriers: tuple[Carrier, ...] = ()
    debts: tuple[OwedRow, ...] = ()
    entries: tuple[Entry, ...] = ()
    # Pending payments before it in the queue; counted for a pending one only.
    ahead: int | None = None


@dataclass(frozen=True, slots=True)
class SignerRow:
    """A registered signer and what it has on its way."""

    address: str
    purpose: Purpose
    paused_reason: str | None
    held: bool
    next_nonce: int
    unresolved: int
    lowest_nonce: int | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """What keeps a token from being minted."""

    address: str
    status: str
    held_reason: str | None
    max_mint_count: Decimal | None
    minted: Decimal
    reserved: int


@dataclass(frozen=True, slots=True)
class ChainRow:
    """What the workers saw last; `base_fee_wei` is None before a worker of this release wrote it."""

    head_height: int
    head_time: int
    base_fee_wei: Decimal | None
    cursor_height: int
    cursor_time: int
    final_height: int
    seen_age_s: float
    confirmable_height: int | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is true of the whole installation at `now`; `chain` is None before a worker ever saw it."""

    now: dt.datetime
    workers: int
    chain: ChainRow | None
    signers: tuple[SignerRow, ...] = ()
    tokens: dict[str, TokenRow] = field(default_factory=dict)


async def read(connection: Connection, ids: Sequence[uuid.UUID]) -> list[Story]:
    """The stories of payments, in the order of `ids`; ids of nothing are absent."""
    payments = {row["id"]: _payment(row) for row in await connection.fetch(READ_PAYMENTS, ids)}
    units = [_unit(row) for row in await connection.fetch(READ_UNITS, ids)]
    carriers = await _carriers(connection, ids, units)
    debts = [OwedRow(**dict(row)) for row in await connection.fetch(READ_DEBTS, ids)]
    entries: dict[str, list[Entry]] = {}
    for row in await connection.fetch(READ_ENTRIES, [str(i) for i in ids], ENTRIES_MAX * max(1, len(ids))):
        entry = Entry(row["at"], row["actor"], row["action"], json.loads(row["details"]))
        entries.setdefault(row["subject"], []).append(entry)
    stories = []
    for payment_id in ids:
        payment = payments.get(payment_id)
        if payment is None:
            continue
        ahead = None
        if payment.status is PaymentStatus.PENDING:
            ahead = await connection.fetchval(COUNT_AHEAD, payment.network, payment_id, AHEAD_MAX)
        stories.append(
            Story(
                payment,
                tuple(u for u in units if u.payment_id == payment_id),
                tuple(carriers.get(payment_id, ())),
                tuple(d for d in debts if d.payment_id == payment_id),
                tuple(entries.get(str(payment_id), ())),
                ahead,
            )
        )
    return stories


async def _carriers(
    connection: Connection, ids: Sequence[uuid.UUID], units: Sequence[Unit]
) -> dict[uuid.UUID, list[Carrier]]:
    """The transactions of each payment, the oldest first, each with the items that are that payment's."""
    payment_of = {u.id: u.payment_id for u in units}
    items: dict[uuid.UUID, dict[int, list[Item]]] = {}
    for row in await connection.fetch(READ_ITEMS, ids, list(payment_of)):
        owner = row["payment_id"] or payment_of[row["queue_id"]]
        item = Item(row["position"], row["payment_id"], row["queue_id"], row["outcome"])
        items.setdefault(owner, {}).setdefault(row["transaction_id"], []).append(item)
    wanted = sorted({t for by_transaction in items.values() for t in by_transaction})
    attempts: dict[int, list[Attempt]] = {}
    for row in await connection.fetch(READ_ATTEMPTS, wanted):
        columns = dict(row)
        attempts.setdefault(columns.pop("transaction_id"), []).append(Attempt(**columns))
    rows = {row["id"]: row for row in await connection.fetch(READ_TRANSACTIONS, wanted)}
    return {
        owner: [
            _carrier(rows[transaction_id], attempts[transaction_id], mine)
            for transaction_id, mine in sorted(by_transaction.items())
        ]
        for owner, by_transaction in items.items()
    }


def _carrier(row: asyncpg.Record, attempts: Iterable[Attempt], items: Iterable[Item]) -> Carrier:
    columns = dict(row)
    columns["state"] = TransactionState(columns["state"])
    return Carrier(**columns, attempts=tuple(attempts), items=tuple(items))


def _payment(row: asyncpg.Record) -> Payment:
    columns = dict(row)
    columns["status"] = PaymentStatus(columns["status"])
    columns["finality"] = Finality(columns["finality"])
    return Payment(**columns)


def _unit(row: asyncpg.Record) -> Unit:
    columns = dict(row)
    columns["status"] = MintStatus(columns["status"])
    return Unit(**columns)


async def surroundings(connection: Connection, network: str, token_addresses: Sequence[str]) -> Surroundings:
    """What is true of the installation now, and of these tokens."""
    head = await connection.fetchrow(READ_HEAD, network)
    workers = await connection.fetchval(COUNT_WORKERS, network)
    rows = await connection.fetch(READ_SIGNERS, network)
    tokens = await connection.fetch(READ_TOKEN, network, list(token_addresses))
    now = head["now"] if head is not None else await connection.fetchval(NOW)
    return Surroundings(
        now=now,
        workers=workers,
        chain=None if head is None else ChainRow(**{k: v for k, v in head.items() if k != "now"}),
        signers=tuple(SignerRow(**dict(row)) for row in rows),
        tokens={row["address"]: TokenRow(**dict(row)) for row in tokens},
    )
