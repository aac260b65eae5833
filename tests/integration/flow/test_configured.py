"""What a worker demands of the chain before it starts, and what it believes of the head."""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import replace

import pytest
from faults.rig.rpc_proxy import refuses, rpc_proxy

from payfirst.chain.rpc import RpcClient
from payfirst.errors import OperatorError
from payfirst.local.chain import LocalChain
from payfirst.pipeline.configured import demand_configured_chain
from payfirst.pipeline.head import HeadWatch
from payfirst.store.database import Pool
from payfirst.units import Address

from .rig import NETWORK, Rig


async def test_the_asset_is_the_configured_one(rig: Rig) -> None:
    """The right domain passes; a wrong name or version is refused, with the right ones to write."""
    await demand_configured_chain(rig.chain.rpc, rig.terms)
    for wrong in (replace(rig.terms, asset_name="USD Coin"), replace(rig.terms, asset_version="1")):
        with pytest.raises(OperatorError, match=r'write asset\.name = "USDC" and asset\.version = "2"'):
            await demand_configured_chain(rig.chain.rpc, wrong)
    with pytest.raises(OperatorError, match=r"no ERC-20 at asset\.address"):
        await demand_configured_chain(rig.chain.rpc, replace(rig.terms, asset=Address(b"\x11" * 20)))


async def test_another_chain_is_refused(rig: Rig) -> None:
    """The sentence names both chains and the setting."""
    with pytest.raises(OperatorError, match=r"serves chain 84532, network\.name says 8453: correct network\.rpc_urls"):
        await demand_configured_chain(rig.chain.rpc, replace(rig.terms, chain_id=8453))


async def test_a_node_that_knows_no_finalized_block_is_refused(rig: Rig) -> None:
    """The sentence says what to write; one that has none yet is waited for, and one that has is taken."""
    terms = replace(rig.terms, confirmations="finalized")
    async with RpcClient([rig.chain.url]) as rpc:
        await demand_configured_chain(rpc, terms)
    unknown = refuses("eth_getBlockByNumber", -32602, "invalid argument 0: hex string without 0x prefix")
    async with rpc_proxy(rig.chain.url, unknown) as proxy, RpcClient([proxy.url]) as rpc:
        with pytest.raises(OperatorError, match=r"knows no finalized block .* write a number of blocks"):
            await demand_configured_chain(rpc, terms)


async def test_a_lower_head_of_a_node_that_is_behind_is_not_believed(pool: Pool) -> None:
    """The block known is still there, so the answer is another node's that is behind: the head stays."""
    async with LocalChain(block_time_s=None) as behind, LocalChain(block_time_s=None) as chain:
        await chain.mine(3)
        async with RpcClient([behind.url, chain.url]) as rpc:
            watch = HeadWatch(pool, rpc, network=NETWORK.caip2, poll_s=0.02, final_depth=1)
            watch._head = await chain.rpc.head()
            assert (await behind.rpc.head()).number < watch.head.number
            assert await watch._newest() == watch.head
            await behind.mine(9)
            assert (await watch._newest()).number > watch.head.number


async def test_a_head_that_no_node_has_any_more_is_let_go(pool: Pool, log_lines: io.StringIO) -> None:
    """A rollback takes the known block away: the lower head is believed at once."""
    async with LocalChain(block_time_s=None) as chain:
        await chain.mine(5)
        watch = HeadWatch(pool, chain.rpc, network=NETWORK.caip2, poll_s=0.02, final_depth=1)
        await watch.start()
        known = watch.head.number
        running = asyncio.create_task(watch.run())
        try:
            await chain.rpc.call("anvil_rollback", 3, result=object)
            async with asyncio.timeout(4):
                await watch.wait_for_change()
            assert watch.head.number == known - 3
            assert "head_lower" in log_lines.getvalue()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
