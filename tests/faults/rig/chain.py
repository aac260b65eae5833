"""What a real chain does to those who use it, by anvil's own means."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from payfirst.local.chain import LocalChain
from payfirst.units import TxHash, hex_text


async def reorg(chain: LocalChain, depth: int) -> None:
    """The last `depth` blocks are replaced by empty ones; a chain that mines by the clock has a second's after it."""
    async with _clock_stopped(chain) as mined:
        await _replace(chain, depth + mined)


async def reorg_from(chain: LocalChain, first: int) -> None:
    """The blocks from the height `first` on are replaced by empty ones, however many there are by then."""
    async with _clock_stopped(chain):
        await _replace(chain, (await chain.rpc.head()).number - first + 1)


@contextlib.asynccontextmanager
async def _clock_stopped(chain: LocalChain) -> AsyncIterator[int]:
    """How many blocks were mined to wait for the one under way: 1, or 0 where the chain has no clock.

    anvil mines by its clock in the middle of a reorg, too, and then has heights without a block for good (1.7.1).
    """
    if await chain.rpc.call("anvil_getIntervalMining", result=object) is None:
        yield 0
        return
    await chain.set_interval(0)
    try:
        await chain.mine(1)
        yield 1
    finally:
        await chain.set_interval(1)


async def _replace(chain: LocalChain, depth: int) -> None:
    await chain.rpc.call("anvil_reorg", depth, [], result=object)


async def snapshot(chain: LocalChain) -> str:
    """Remember the chain as it is."""
    return await chain.rpc.call("evm_snapshot", result=str)


async def revert(chain: LocalChain, remembered: str) -> None:
    """Go back to a snapshot: the blocks since then never were."""
    assert await chain.rpc.call("evm_revert", remembered, result=bool)


async def forget(chain: LocalChain, tx_hash: TxHash) -> None:
    """Drop a transaction from the pool without a word."""
    await chain.rpc.call("anvil_dropTransaction", hex_text(tx_hash), result=object)


async def forget_all(chain: LocalChain) -> None:
    """Empty the pool."""
    await chain.rpc.call("anvil_dropAllTransactions", result=object)


async def waiting_in_pool(chain: LocalChain) -> int:
    """How many transactions the node could mine now."""
    status = await chain.rpc.call("txpool_status", result=dict[str, str])
    return int(status["pending"], 16)


@contextlib.asynccontextmanager
async def no_mining(chain: LocalChain) -> AsyncIterator[None]:
    """No block comes by itself for the length of a block; afterwards one a second."""
    await chain.set_automine(False)
    await chain.set_interval(0)
    try:
        yield
    finally:
        await chain.set_interval(1)


async def block(chain: LocalChain, *, base_fee: int | None = None, after_s: int | None = None) -> None:
    """Mine one block, at a base fee (wei) and so much chain time (seconds) after the last if given."""
    if base_fee is not None:
        await chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(base_fee), result=object)
    if after_s is not None:
        await chain.rpc.call("evm_increaseTime", after_s, result=object)
    await chain.mine(1)
