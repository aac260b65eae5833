"""The newest block, looked up in one place of a worker process; each look is also the workers' heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from payfirst.chain.blocks import Head
from payfirst.chain.rpc import RpcClient, RpcUnavailable
from payfirst.errors import RetriedError
from payfirst.ops.log import get_logger
from payfirst.store import heads
from payfirst.store.database import Connection, Pool, session
from payfirst.store.heads import ReadBlock
from payfirst.units import BlockNumber, Depth, Tag

# A chain whose head stands still is still being watched: the heartbeat says so.
HEARTBEAT_S = 1.0
# A lower head than the one known is another endpoint's, a little behind; one that stays lower is the chain's.
LOWER_HEAD_S = 5.0

log = get_logger()


def read_block(head: Head) -> ReadBlock:
    """A header as the store keeps it."""
    return ReadBlock(head.number, head.hash, head.time)


class HeadWatch:
    """Polls the head and wakes those who wait for it."""

    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        network: str,
        poll_s: float,
        final_depth: Depth,
        confirmations: Depth = 1,
        others: Collection[Depth] = (),
    ) -> None:
        """`others`: more depths that will be asked for."""
        self._pool = pool
        self._rpc = rpc
        self._network = network
        self.poll_s = poll_s  # may be changed at any time
        self._final_depth: Depth = final_depth
        self._confirmations: Depth = confirmations
        self._tags: set[Tag] = {d for d in (confirmations, final_depth, *others) if not isinstance(d, int)}
        self._tagged: dict[Tag, Head] = {}
        self._head: Head | None = None
        self._lower_since: float | None = None
        self._changed = asyncio.Event()

    @property
    def head(self) -> Head:
        """The newest block seen. `start` comes first."""
        if self._head is None:
            raise RuntimeError("HeadWatch.start was not awaited")
        return self._head

    def tip(self, depth: Depth) -> Head:
        """The block from which a depth is counted: the head, or the newest that nodes call safe or finalized."""
        return self.head if isinstance(depth, int) else self._tagged[depth]

    def newest(self, depth: Depth) -> BlockNumber:
        """The newest block that is so deep; a depth of 1 is the head itself."""
        above = depth - 1 if isinstance(depth, int) else 0
        return BlockNumber(self.tip(depth).number - above)

    async def _look_up_tags(self, head: Head) -> None:
        """What nodes call safe and finalized now, never above the head that is believed."""
        for tag in self._tags:
            seen = await self._rpc.head(tag)
            if seen.number <= head.number:
                self._tagged[tag] = seen
            elif tag not in self._tagged:
                raise RpcUnavailable(f"RPC: the {tag} block {seen.number} is above the head {head.number}")

    async def _see(self, connection: Connection) -> None:
        head = self.head
        confirmable = self.newest(self._confirmations)
        await heads.see(
            connection, self._network, read_block(head), base_fee=head.base_fee, confirmable_height=confirmable
        )

    async def start(self) -> None:
        """See the head once; where nobody follows the chain yet, begin at a block that no reorg takes."""
        self._head = await self._rpc.head()
        await self._look_up_tags(self._head)
        below = self._final_depth if isinstance(self._final_depth, int) else 0
        floor = BlockNumber(max(0, self.tip(self._final_depth).number - below))
        blocks = await self._rpc.blocks(floor, floor)
        if not blocks:
            raise RpcUnavailable(f"RPC: the node does not have block {floor}")
        async with session(self._pool, "store the chain head") as connection:
            await heads.start(connection, self._network, read_block(blocks[0].head))
            await self._see(connection)

    async def wait_for_change(self) -> None:
        """Return when the head has changed since the last return."""
        await self._changed.wait()
        self._changed.clear()

    async def _newest(self) -> Head:
        """The head as an endpoint says it, or the known one where that endpoint is only behind.

        A lower head is believed when no endpoint has the known block any more, or when it stays lower.
        """
        seen, known = await self._rpc.head(), self.head
        if seen.number >= known.number:
            self._lower_since = None
            return seen
        now = asyncio.get_running_loop().time()
        if self._lower_since is None:
            self._lower_since = now
        if now - self._lower_since < LOWER_HEAD_S and await self._rpc.has_block(known.hash):
            return known
        self._lower_since = None
        log.warning(
            "head_lower",
            message=f"RPC: the chain head went back from {known.number} to {seen.number}",
            height=seen.number,
            known_height=known.number,
        )
        return seen

    async def run(self) -> None:
        """Poll until cancelled. An endpoint that is away stops the heartbeat, nothing else."""
        loop = asyncio.get_running_loop()
        stored_at = loop.time()
        failing = False
        while True:
            try:
                seen = await self._newest()
                is_new = seen.hash != self.head.hash
                if is_new:
                    await self._look_up_tags(seen)
                self._head = seen
                if is_new:
                    self._changed.set()
                if is_new or loop.time() - stored_at >= HEARTBEAT_S:
                    async with session(self._pool, "store the chain head") as connection:
                        await self._see(connection)
                    stored_at = loop.time()
                if failing:
                    log.info("rpc_back", message="RPC: the chain head is visible again", height=seen.number)
                failing = False
            except RetriedError as error:
                if not failing:
                    log.warning("rpc_unavailable", message=f"RPC: the chain head cannot be seen: {error}")
                failing = True
            await asyncio.sleep(self.poll_s)
