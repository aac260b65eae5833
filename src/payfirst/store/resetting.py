"""What `payments reset-stuck` reads and asks for: unresolved transactions and their bytes, and replacements."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import asyncpg

from payfirst.lifecycle import TransactionState
from payfirst.store.database import Connection
from payfirst.store.rows import address_of, bytes_of
from payfirst.store.signers import Purpose
from payfirst.units import AccountNonce, Address, TxHash, Wei

# read_unresolved: the unresolved transactions of these signers, with all their bytes, the lowest nonce first.
READ_UNRESOLVED = """
SELECT t.id, t.signer, t.account_nonce, t.purpose, t.replace_requested_at, a.hash, a.signed_bytes,
       a.max_fee_per_gas_wei AS max_fee_wei, a.is_noop,
       coalesce(s.lease_until > now(), false) AS held, s.paused_reason,
       EXISTS (SELECT 1 FROM waiting_evidence w WHERE w.transaction_id = t.id) AS waits
FROM chain_transactions t
JOIN chain_attempts a ON a.transaction_id = t.id
JOIN signers s ON s.network = t.network AND s.address = t.signer
WHERE t.network = $1 AND t.state = 'sent' AND t.signer = ANY($2::text[])
ORDER BY t.signer, t.account_nonce, a.created_at, a.hash
"""

# request_replacement: ask the worker that holds the signer for other bytes under the same account nonce.
REQUEST_REPLACEMENT = """
UPDATE chain_transactions SET replace_requested_at = now() WHERE id = $1 AND state = 'sent'
"""

# read_answers: which of these wishes were fulfilled, and the bytes that were made last for each.
READ_ANSWERS = """
SELECT t.id, t.state, t.replace_requested_at, a.hash, a.max_fee_per_gas_wei AS max_fee_wei, a.is_noop, a.last_error,
       a.broadcast_count
FROM chain_transactions t
CROSS JOIN LATERAL (
    SELECT * FROM chain_attempts WHERE transaction_id = t.id ORDER BY created_at DESC, broadcast_count LIMIT 1
) a
WHERE t.id = ANY($1::bigint[])
"""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Stored bytes for one account nonce."""

    hash: TxHash
    signed: bytes
    max_fee: Wei
    is_noop: bool


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A transaction without a known outcome and everything that could be mined for it, the newest last."""

    id: int
    signer: Address
    nonce: AccountNonce
    purpose: Purpose
    replace_requested_at: dt.datetime | None
    held: bool
    paused_reason: str | None
    attempts: tuple[Bytes, ...]
    waits: bool = False  # it was read in a block, and is believed later


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a wish for a replacement stands, and the newest bytes."""

    id: int
    state: TransactionState
    waits: bool
    hash: str
    max_fee_wei: Decimal
    is_noop: bool
    last_error: str | None
    broadcast_count: int


async def unresolved(connection: Connection, network: str, signers: Sequence[str]) -> list[Unresolved]:
    """Every unresolved transaction of some signers."""
    found: dict[int, list[asyncpg.Record]] = {}
    for row in await connection.fetch(READ_UNRESOLVED, network, list(signers)):
        found.setdefault(row["id"], []).append(row)
    return [
        Unresolved(
            id=transaction_id,
            signer=address_of(rows[0]["signer"]),
            nonce=AccountNonce(rows[0]["account_nonce"]),
            purpose=rows[0]["purpose"],
            replace_requested_at=rows[0]["replace_requested_at"],
            held=rows[0]["held"],
            paused_reason=rows[0]["paused_reason"],
            attempts=tuple(
                Bytes(
                    TxHash(bytes_of(row["hash"])),
                    row["signed_bytes"],
                    Wei(int(row["max_fee_wei"])),
                    row["is_noop"],
                )
                for row in rows
            ),
            waits=rows[0]["waits"],
        )
        for transaction_id, rows in found.items()
    ]


async def request_replacement(connection: Connection, transaction_id: int) -> bool:
    """Ask for other bytes; False when the transaction was resolved meanwhile."""
    return (await connection.execute(REQUEST_REPLACEMENT, transaction_id)) == "UPDATE 1"


async def answers(connection: Connection, transaction_ids: Sequence[int]) -> list[Answer]:
    """Where the wishes of these transactions stand."""
    return [
        Answer(
            id=row["id"],
            state=TransactionState(row["state"]),
            waits=row["replace_requested_at"] is not None,
            hash=row["hash"],
            max_fee_wei=row["max_fee_wei"],
            is_noop=row["is_noop"],
            last_error=row["last_error"],
            broadcast_count=row["broadcast_count"],
        )
        for row in await connection.fetch(READ_ANSWERS, list(transaction_ids))
    ]
