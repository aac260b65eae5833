"""`waiting_evidence`: transactions that were read in a block, and that are believed once they lie deeper.

Or once a second endpoint agrees on them. Until then their payments stay as they are, in the rows and for operators.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from payfirst.store.database import Connection
from payfirst.store.rows import bytes_of
from payfirst.units import AtomicAmount, BlockHash, BlockNumber, TxHash, hex_text

# note_evidence: in the commit in which the scan passes the block, so that a restart loses nothing. A row of a block
# that a reorg took under us is replaced.
NOTE_EVIDENCE = """
INSERT INTO waiting_evidence AS w (network, tx_hash, block, block_hash, transaction_id, payment_ids)
SELECT $1, $2, $3, $4, (SELECT transaction_id FROM chain_attempts WHERE hash = $2), $5
ON CONFLICT (network, tx_hash) DO UPDATE
SET block = excluded.block, block_hash = excluded.block_hash, payment_ids = excluded.payment_ids, seen_at = now()
WHERE w.block_hash <> excluded.block_hash
"""

# read_evidence: what waits in blocks up to a height, the oldest first, with the largest payment of each.
READ_EVIDENCE = """
SELECT w.tx_hash, w.block, w.block_hash, w.payment_ids,
       (SELECT max(p.amount) FROM payment_queue p WHERE p.id = ANY(w.payment_ids)) AS amount
FROM waiting_evidence w WHERE w.network = $1 AND w.block <= $2 ORDER BY w.block, w.tx_hash
"""

# take_evidence: whoever deletes the row applies it, in the same commit.
TAKE_EVIDENCE = "DELETE FROM waiting_evidence WHERE network = $1 AND tx_hash = $2 AND block_hash = $3"

# forget_evidence: a reorg took the blocks above a fork; what comes back is read again.
FORGET_EVIDENCE = "DELETE FROM waiting_evidence WHERE network = $1 AND block > $2"

# waiting_hashes: which of these transactions wait.
WAITING_HASHES = "SELECT tx_hash FROM waiting_evidence WHERE network = $1 AND tx_hash = ANY($2::text[])"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A transaction that waits, and the payments it pays or ends; `amount` is that of the largest of them."""

    tx_hash: TxHash
    block: BlockNumber
    block_hash: BlockHash
    payment_ids: tuple[uuid.UUID, ...]
    amount: AtomicAmount


async def note(
    connection: Connection,
    network: str,
    found: Mapping[TxHash, Sequence[uuid.UUID]],
    *,
    block: BlockNumber,
    block_hash: BlockHash,
) -> None:
    """Keep the transactions of one block that are not believed yet, each with the payments that it concerns."""
    for tx_hash, payment_ids in found.items():
        await connection.execute(
            NOTE_EVIDENCE, network, hex_text(tx_hash), block, hex_text(block_hash), list(payment_ids)
        )


async def read(connection: Connection, network: str, *, up_to: BlockNumber) -> list[Evidence]:
    """What waits in blocks up to a height."""
    rows = await connection.fetch(READ_EVIDENCE, network, up_to)
    return [
        Evidence(
            TxHash(bytes_of(row["tx_hash"])),
            BlockNumber(row["block"]),
            BlockHash(bytes_of(row["block_hash"])),
            tuple(row["payment_ids"]),
            AtomicAmount(int(row["amount"] or 0)),
        )
        for row in rows
    ]


async def take(connection: Connection, network: str, evidence: Evidence) -> bool:
    """Whether it still waits, and is the caller's to apply in this transaction."""
    done = await connection.execute(TAKE_EVIDENCE, network, hex_text(evidence.tx_hash), hex_text(evidence.block_hash))
    return done == "DELETE 1"


async def forget_above(connection: Connection, network: str, height: BlockNumber) -> None:
    """A reorg took what was read above `height`."""
    await connection.execute(FORGET_EVIDENCE, network, height)


async def among(connection: Connection, network: str, hashes: Sequence[TxHash]) -> set[TxHash]:
    """Which of these transactions wait."""
    rows = await connection.fetch(WAITING_HASHES, network, [hex_text(h) for h in hashes])
    return {TxHash(bytes_of(row["tx_hash"])) for row in rows}
