"""`chain_heads` and `chain_blocks`: what the workers saw of the chain, and how far it was read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from payfirst.errors import LeaseLost
from payfirst.store.database import Connection
from payfirst.store.rows import bytes_of
from payfirst.units import BlockHash, BlockNumber, UnixTime, Wei, hex_text

# start_head: the first look at a chain; the cursor starts at a block that is final, before anything was ours.
START_HEAD = """
INSERT INTO chain_heads (network, head_height, head_hash, head_time, cursor_height, cursor_hash, cursor_time)
VALUES ($1, $2, $3, $4, $2, $3, $4)
ON CONFLICT (network) DO NOTHING
"""

# see_head: the newest block, the newest that is deep enough to be read, and the heartbeat that goes with them.
SEE_HEAD = """
UPDATE chain_heads SET head_height = $2, head_hash = $3, head_time = $4, base_fee_wei = $5, confirmable_height = $6,
    head_seen_at = now()
WHERE network = $1
"""

# read_cursor: how far the chain has been read.
READ_CURSOR = """
SELECT cursor_height, cursor_hash, cursor_time, final_height FROM chain_heads WHERE network = $1
"""

# lock_cursor: how far the chain has been read, and not a block further until this transaction ends.
LOCK_CURSOR = READ_CURSOR + " FOR UPDATE"

# hash_at: the remembered hash of a block that a reorg could still take.
HASH_AT = "SELECT hash FROM chain_blocks WHERE network = $1 AND height = $2"

# move_cursor: forward by blocks that were read, or back to a fork; only from where the reader believed it was.
MOVE_CURSOR = """
UPDATE chain_heads SET cursor_height = $4, cursor_hash = $5, cursor_time = $6
WHERE network = $1 AND cursor_height = $2 AND cursor_hash = $3
"""

# remember_blocks: keep the hashes of blocks that were read, to find a fork by.
REMEMBER_BLOCKS = """
INSERT INTO chain_blocks (network, height, hash, block_time)
SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bigint[])
"""

# read_blocks: the remembered hashes from the newest down.
READ_BLOCKS = """
SELECT height, hash, block_time FROM chain_blocks WHERE network = $1 ORDER BY height DESC
"""

# forget_blocks_above: a reorg took them.
FORGET_BLOCKS_ABOVE = "DELETE FROM chain_blocks WHERE network = $1 AND height > $2"

# advance_final: what lies at or below it is final; never backwards.
ADVANCE_FINAL = """
UPDATE chain_heads SET final_height = $2 WHERE network = $1 AND final_height < $2
"""

# forget_blocks_below: final blocks need no memory; the newest final one stays as the fork's floor.
FORGET_BLOCKS_BELOW = "DELETE FROM chain_blocks WHERE network = $1 AND height < $2"

# note_drain: a moving average of payments settled a second, by which admission judges the queue.
NOTE_DRAIN = """
UPDATE chain_heads SET settled_per_s = settled_per_s * (1 - $3::float8) + $2::float8 * $3::float8
WHERE network = $1
"""


# read_seen: when a worker last wrote that it sees the chain.
READ_SEEN = "SELECT head_seen_at FROM chain_heads WHERE network = $1"

# read_audited: up to which block database and chain were compared; before the first audit, what has been read.
READ_AUDITED = "SELECT coalesce(audited_height, cursor_height) FROM chain_heads WHERE network = $1"

# advance_audited: never backwards.
ADVANCE_AUDITED = """
UPDATE chain_heads SET audited_height = $2
WHERE network = $1 AND (audited_height IS NULL OR audited_height < $2)
"""

# claim_audit: one worker compares each time, the others leave it to that one.
CLAIM_AUDIT = """
UPDATE chain_heads SET audited_at = now()
WHERE network = $1 AND (audited_at IS NULL OR audited_at <= now() - $2 * interval '1 second')
"""


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """A block that has been read: its height, hash and time (Unix seconds)."""

    height: BlockNumber
    hash: BlockHash
    time: UnixTime


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last block read at the chosen depth, and the last final height."""

    block: ReadBlock
    final_height: BlockNumber


async def start(connection: Connection, network: str, block: ReadBlock) -> None:
    """Begin to follow a chain at `block`; nothing happens where it is followed already."""
    args = (network, block.height, hex_text(block.hash), block.time)
    if await connection.execute(START_HEAD, *args) == "INSERT 0 1":
        await remember(connection, network, [block])


async def see(
    connection: Connection, network: str, block: ReadBlock, *, base_fee: Wei, confirmable_height: BlockNumber
) -> None:
    """Store the newest block, and the newest that is deep enough to be read; the time of it is the heartbeat."""
    await connection.execute(
        SEE_HEAD, network, block.height, hex_text(block.hash), block.time, base_fee, confirmable_height
    )


async def cursor(connection: Connection, network: str) -> Cursor:
    """How far the chain has been read."""
    return await _cursor(connection, READ_CURSOR, network)


async def lock_cursor(connection: Connection, network: str) -> Cursor:
    """How far the chain has been read; the scan waits until this transaction ends."""
    return await _cursor(connection, LOCK_CURSOR, network)


async def hash_at(connection: Connection, network: str, height: BlockNumber) -> BlockHash | None:
    """The hash under which a block was read, None when it is no longer remembered."""
    found = await connection.fetchval(HASH_AT, network, height)
    return None if found is None else BlockHash(bytes_of(found))


async def _cursor(connection: Connection, query: str, network: str) -> Cursor:
    row = await connection.fetchrow(query, network)
    if row is None:
        raise LeaseLost(f"chain_heads has no row for {network}")
    return Cursor(
        block=ReadBlock(
            BlockNumber(row["cursor_height"]),
            BlockHash(bytes_of(row["cursor_hash"])),
            UnixTime(row["cursor_time"]),
        ),
        final_height=BlockNumber(row["final_height"]),
    )


async def move(connection: Connection, network: str, *, before: ReadBlock, after: ReadBlock) -> None:
    """Move the cursor from `before` to `after`. Raises LeaseLost when another reader moved it."""
    changed = await connection.execute(
        MOVE_CURSOR,
        network,
        before.height,
        hex_text(before.hash),
        after.height,
        hex_text(after.hash),
        after.time,
    )
    if changed != "UPDATE 1":
        raise LeaseLost("another worker has moved the chain cursor")


async def remember(connection: Connection, network: str, blocks: Sequence[ReadBlock]) -> None:
    """Keep the hashes of `blocks`."""
    await connection.execute(
        REMEMBER_BLOCKS,
        network,
        [b.height for b in blocks],
        [hex_text(b.hash) for b in blocks],
        [b.time for b in blocks],
    )


async def remembered(connection: Connection, network: str) -> list[ReadBlock]:
    """The remembered blocks, newest first."""
    rows = await connection.fetch(READ_BLOCKS, network)
    return [
        ReadBlock(
            BlockNumber(row["height"]),
            BlockHash(bytes_of(row["hash"])),
            UnixTime(row["block_time"]),
        )
        for row in rows
    ]


async def forget_above(connection: Connection, network: str, height: BlockNumber) -> None:
    """Drop remembered blocks above a fork."""
    await connection.execute(FORGET_BLOCKS_ABOVE, network, height)


async def advance_final(connection: Connection, network: str, height: BlockNumber) -> None:
    """Everything up to `height` is final; older block hashes are dropped."""
    await connection.execute(ADVANCE_FINAL, network, height)
    await connection.execute(FORGET_BLOCKS_BELOW, network, height)


async def note_drain(connection: Connection, network: str, *, settled_per_s: float, weight: float) -> None:
    """Fold a fresh rate into the moving average; `weight` (0 to 1) is the fresh one's share."""
    await connection.execute(NOTE_DRAIN, network, settled_per_s, weight)


async def seen_at(connection: Connection, network: str) -> dt.datetime | None:
    """When a worker last wrote that it sees the chain; None before the first."""
    found: dt.datetime | None = await connection.fetchval(READ_SEEN, network)
    return found


async def audited(connection: Connection, network: str) -> BlockNumber | None:
    """The block up to which database and chain were compared; None where the chain is not followed yet."""
    found = await connection.fetchval(READ_AUDITED, network)
    return None if found is None else BlockNumber(found)


async def advance_audited(connection: Connection, network: str, height: BlockNumber) -> None:
    """Database and chain were compared up to `height`."""
    await connection.execute(ADVANCE_AUDITED, network, height)


async def claim_audit(connection: Connection, network: str, *, every_s: float) -> bool:
    """Whether an audit is due, and this process is the one to do it."""
    return (await connection.execute(CLAIM_AUDIT, network, every_s)) == "UPDATE 1"
