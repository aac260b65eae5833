"""How deep the chain lies over a block, in numbers or by the words that nodes have for it."""

from __future__ import annotations

from payfirst.chain.blocks import Head
from payfirst.chain.rpc import RpcClient
from payfirst.units import BlockNumber, Depth


async def newest(rpc: RpcClient, depth: Depth, *, head: Head) -> BlockNumber:
    """The newest block that is so deep under `head`; a depth of 1 is the head itself. Raises RetriedError."""
    if isinstance(depth, int):
        return BlockNumber(head.number - depth + 1)
    return BlockNumber(min(head.number, (await rpc.head(depth)).number))


async def final(rpc: RpcClient, final_depth: Depth, *, head: Head) -> BlockNumber:
    """The newest block that no reorg takes any more: with so many above it, or called so. Raises RetriedError."""
    above = 1 if isinstance(final_depth, int) else 0
    return BlockNumber(await newest(rpc, final_depth, head=head) - above)


async def in_blocks(rpc: RpcClient, depth: Depth, *, head: Head) -> int:
    """A depth as the number of blocks that it is now. Raises RetriedError."""
    return depth if isinstance(depth, int) else head.number - await newest(rpc, depth, head=head) + 1
