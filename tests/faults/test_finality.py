"""Reorgs and finality: depths by name, large payments deeper, and what a restart in between must not lose."""

from __future__ import annotations

import pytest
from flow.rig import Rig

from payfirst.units import Tag

from .rig.chain import block, no_mining, reorg
from .waiting import finds, idle

# With anvil, `safe` is the head's parent and `finalized` the block before it.
BLOCKS_ABOVE = {"safe": 1, "finalized": 2}


async def seen(rig: Rig) -> None:
    """Return once the workers have seen the head, and read all that is deep enough under it."""
    height = (await rig.chain.rpc.head()).number
    await rig.until(
        finds(rig, "SELECT head_height = $1 AND cursor_height >= confirmable_height FROM chain_heads", height)
    )


@pytest.mark.parametrize("tag", ["safe", "finalized"])
async def test_fault_19_a_payment_waits_for_the_block_that_nodes_call_safe_or_finalized(rig: Rig, tag: Tag) -> None:
    """Not credited above it; what a reorg took up there comes back under the same hash and is credited below it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(confirmations=tag):
        async with no_mining(rig.chain):
            await rig.pay(buyer, 2)
            await rig.until_counts(payments_sent=1)
            await block(rig.chain)
            await seen(rig)
            assert await rig.counts() == {"payments_sent": 1}
            await reorg(rig.chain, 1)
            for _ in range(BLOCKS_ABOVE[tag]):
                await rig.until(finds(rig, "SELECT max(broadcast_count) >= 2 FROM chain_attempts"))
                await block(rig.chain)
                await seen(rig)
                assert await rig.counts() == {"payments_sent": 1}
            await block(rig.chain)
            await rig.until_counts(payments_completed=1)
        await rig.until_counts(mints_completed=2)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 2
    await rig.check_invariants()


async def test_fault_20_what_nodes_call_finalized_is_final_and_nothing_else_is(rig: Rig) -> None:
    """`network.final_depth = "finalized"`: rows become final with the block that nodes call so."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(final_depth="finalized"), no_mining(rig.chain):
        await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        await block(rig.chain)
        await rig.until_counts(payments_completed=1)
        settled = await rig.pool.fetchval("SELECT settled_block FROM payment_queue")
        for _ in range(BLOCKS_ABOVE["finalized"]):
            assert await rig.pool.fetchval("SELECT finality FROM payment_queue") == "open"
            await block(rig.chain)
        await rig.until(finds(rig, "SELECT finality = 'final' FROM payment_queue"))
        assert await rig.pool.fetchval("SELECT final_height FROM chain_heads") >= settled
