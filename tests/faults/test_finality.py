"""Reorgs and finality: depths by name, large payments deeper, and what a restart in between must not lose."""

from __future__ import annotations

import io

import pytest
from flow.rig import MINT_AMOUNT, PRICE, Rig, transfer

from payfirst.local.chain import dev_address
from payfirst.store import transactions
from payfirst.store.database import session
from payfirst.units import AtomicAmount, Tag

from .rig.chain import block, no_mining, reorg, waiting_in_pool
from .waiting import Holds, finds, idle, rows

# With anvil, `safe` is the head's parent and `finalized` the block before it.
BLOCKS_ABOVE = {"safe": 1, "finalized": 2}
LARGE = AtomicAmount(PRICE * 2)  # two units are a large payment


async def seen(rig: Rig) -> None:
    """Return once the workers have seen the head, and read all that is deep enough under it."""
    height = (await rig.chain.rpc.head()).number
    await rig.until(
        finds(rig, "SELECT head_height = $1 AND cursor_height >= confirmable_height FROM chain_heads", height)
    )


def pooled(rig: Rig, count: int = 1) -> Holds:
    """The node has so many transactions to mine: what is stored may not have reached it yet."""

    async def holds() -> bool:
        return await waiting_in_pool(rig.chain) >= count

    return holds


@pytest.mark.parametrize("tag", ["safe", pytest.param("finalized", marks=pytest.mark.slow)])
async def test_fault_19_a_payment_waits_for_the_block_that_nodes_call_safe_or_finalized(rig: Rig, tag: Tag) -> None:
    """Not credited above it; what a reorg took up there comes back under the same hash and is credited below it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(confirmations=tag):
        async with no_mining(rig.chain):
            await rig.pay(buyer, 2)
            await rig.until_counts(payments_sent=1)
            await rig.until(pooled(rig))
            await block(rig.chain)
            await seen(rig)
            assert await rig.counts() == {"payments_sent": 1}
            await reorg(rig.chain, 1)
            await rig.until(pooled(rig))
            for _ in range(BLOCKS_ABOVE[tag]):
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
        await rig.until(pooled(rig))
        await block(rig.chain)
        await rig.until_counts(payments_completed=1)
        settled = await rig.pool.fetchval("SELECT settled_block FROM payment_queue")
        for _ in range(BLOCKS_ABOVE["finalized"]):
            assert await rig.pool.fetchval("SELECT finality FROM payment_queue") == "open"
            await block(rig.chain)
        await rig.until(finds(rig, "SELECT finality = 'final' FROM payment_queue"))
        assert await rig.pool.fetchval("SELECT final_height FROM chain_heads") >= settled


async def test_fault_19_a_large_payment_waits_deeper_and_small_ones_pass_it(rig: Rig) -> None:
    """It shares no transaction with them, and stays `sent`, with nothing minted, until its block is deep enough."""
    buyers = await rig.buyers(4)
    async with rig.working(large_amount=LARGE, large_confirmations=4, settling_paused=True):
        for buyer, quantity in zip(buyers, (1, 2, 1, 3), strict=True):
            await rig.pay(buyer, quantity)
    async with rig.working(large_amount=LARGE, large_confirmations=4):
        async with no_mining(rig.chain):
            await rig.until_counts(payments_sent=4)
            await rig.until(pooled(rig, 2))
            carried = await rows(
                rig,
                "SELECT min(p.quantity) > 1, max(p.quantity) > 1, count(*) FROM chain_transaction_items i"
                " JOIN payment_queue p ON p.id = i.payment_id GROUP BY i.transaction_id ORDER BY 1",
            )
            assert carried == [(False, False, 2), (True, True, 2)]
            await block(rig.chain)
            await rig.until_counts(payments_completed=2, payments_sent=2)
            for _ in range(2):
                await block(rig.chain)
                await seen(rig)
            assert (await rig.counts())["payments_sent"] == 2
            assert await rig.pool.fetchval(
                "SELECT array_agg(DISTINCT quantity) FROM payment_queue p JOIN mint_queue m ON m.payment_id = p.id"
            ) == [1]
            # What waits takes no room from others: no block has to be looked at for it any more.
            async with session(rig.pool, "count") as connection:
                unresolved = await transactions.count_unresolved(connection, rig.terms.network, dev_address("settle"))
            assert unresolved.count == 0
            await block(rig.chain)
            await rig.until_counts(payments_completed=4)
        await rig.until_counts(mints_completed=7)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM waiting_evidence") == 0
    await rig.check_invariants()


async def test_fault_19_a_restart_loses_nothing_of_what_waits(rig: Rig) -> None:
    """The worker that saw it is gone, and its signer too; another one completes it at the larger depth, once."""
    (buyer,) = await rig.buyers(1)
    async with no_mining(rig.chain):
        async with rig.working(large_amount=LARGE, large_confirmations=3):
            await rig.pay(buyer, 2)
            await rig.until_counts(payments_sent=1)
            await rig.until(pooled(rig))
            await block(rig.chain)
            await rig.until(finds(rig, "SELECT count(*) = 1 FROM waiting_evidence"))
        await block(rig.chain)
        await block(rig.chain)
        async with (
            rig.working(large_amount=LARGE, large_confirmations=3),
            rig.working(large_amount=LARGE, large_confirmations=3),
        ):
            await rig.until_counts(payments_completed=1)
            await rig.chain.set_interval(1)
            await rig.until_counts(mints_completed=2)
            await rig.until(idle(rig))
    await rig.check_invariants()


async def test_fault_19_a_large_payment_that_a_reorg_takes_waits_again(rig: Rig) -> None:
    """Seen, not deep enough, gone: what was noted of it goes too, and the depth is counted from its new block."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(large_amount=LARGE, large_confirmations=3):
        async with no_mining(rig.chain):
            await rig.pay(buyer, 2)
            await rig.until_counts(payments_sent=1)
            await rig.until(pooled(rig))
            await block(rig.chain)
            await block(rig.chain)
            await rig.until(finds(rig, "SELECT count(*) = 1 FROM waiting_evidence"))
            first = await rig.pool.fetchval("SELECT block FROM waiting_evidence")
            await reorg(rig.chain, 2)
            await rig.until(pooled(rig))
            await block(rig.chain)
            await rig.until(finds(rig, "SELECT block > $1 FROM waiting_evidence", first))
            await block(rig.chain)
            await seen(rig)
            assert await rig.counts() == {"payments_sent": 1}
            await block(rig.chain)
            await rig.until_counts(payments_completed=1)
        await rig.until_counts(mints_completed=2)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 2
    await rig.check_invariants()


async def test_fault_09_a_large_payment_that_a_stranger_submits_waits_deeper_too(rig: Rig) -> None:
    """Whoever sent it, and with its row still pending; the units are the payer's."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(large_amount=LARGE, large_confirmations=4, settling_paused=True):
        async with no_mining(rig.chain):
            authorization = buyer.authorize(2)
            assert (await rig.order(buyer, 2, authorization=authorization)).status_code == 202
            await rig.chain.submit(rig.chain.usdc, transfer(buyer, authorization))
            for _ in range(3):
                await block(rig.chain)
                await seen(rig)
            assert await rig.counts() == {"payments_pending": 1}
            await block(rig.chain)
            await rig.until_counts(payments_completed=1)
        await rig.until_counts(mints_completed=2)
        await rig.until(idle(rig))
    assert await rig.balance(rig.token, buyer.address) == 2 * MINT_AMOUNT
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_20_a_large_payment_that_a_reorg_takes_after_its_mint_is_back_at_its_depth(rig: Rig) -> None:
    """Completed it stays; what comes back is believed at the larger depth again, and its units stand once."""
    (buyer,) = await rig.buyers(1)
    await rig.chain.mine(4)
    async with rig.working(large_amount=LARGE, large_confirmations=3):
        await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=1, mints_completed=2)
        async with no_mining(rig.chain):
            settled = await rig.pool.fetchval("SELECT settled_block FROM payment_queue")
            await reorg(rig.chain, (await rig.chain.rpc.head()).number - settled + 1)
            await rig.until(finds(rig, "SELECT finality = 'reorged' FROM payment_queue"))
            await rig.until(pooled(rig))
            await block(rig.chain)
            await rig.until(finds(rig, "SELECT count(*) = 1 FROM waiting_evidence"))
            assert await rig.pool.fetchval("SELECT finality FROM payment_queue") == "reorged"
            for _ in range(2):
                await block(rig.chain)
            await rig.until(finds(rig, "SELECT finality = 'open' FROM payment_queue"))
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    await rig.check_invariants(in_order=False)


async def test_an_audit_leaves_what_waits_alone(rig: Rig, log_lines: io.StringIO) -> None:
    """A transfer that is read and not credited, a transaction mined and not confirmed: both are meant so."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(large_amount=LARGE, large_confirmations=10_000, audit_every_s=1):
        await rig.pay(buyer, 2)
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM waiting_evidence"))
        since = await rig.pool.fetchval("SELECT now()")
        await rig.until(finds(rig, "SELECT audited_at > $1::timestamptz + interval '2 s' FROM chain_heads", since))
        assert await rig.counts() == {"payments_sent": 1}
        assert "audit_difference" not in log_lines.getvalue()
