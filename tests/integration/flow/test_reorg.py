"""What a reorg takes is sent again, and nothing is minted twice for it."""

from __future__ import annotations

from faults.rig.chain import reorg, reorg_from

from .rig import Rig


async def test_fault_20_21_a_reorg_takes_payment_and_mint_and_both_come_back_once(rig: Rig) -> None:
    """The same bytes again; a completed payment stays completed, and is open once more when it is back."""
    buyers = await rig.buyers(3)
    await rig.chain.mine(4)  # the reorg reaches a little further than our transactions, not to the buyers' money
    async with rig.working():
        for buyer in buyers:
            await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=3, mints_completed=6)
        hashes = await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash")
        # Blocks with none of our transactions in them take the place of all since.
        await reorg_from(rig.chain, await first_settled(rig) - 1)

        async def taken_and_back() -> bool:
            reopened = await rig.pool.fetchval("SELECT count(*) FROM chain_attempts WHERE broadcast_count > 1")
            open_again = await rig.pool.fetchval(
                "SELECT count(*) FROM payment_queue WHERE status = 'completed' AND finality = 'open'"
            )
            return bool(reopened) and open_again == 3

        await rig.until(taken_and_back)
        await rig.until_counts(payments_completed=3, mints_completed=6)
    assert await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash") == hashes
    await rig.check_invariants(in_order=False)


async def first_settled(rig: Rig) -> int:
    """The lowest block in which one of our transactions was mined."""
    return int(await rig.pool.fetchval("SELECT min(mined_block) FROM chain_transactions"))


async def test_mints_wait_while_their_payment_is_off_the_chain(rig: Rig) -> None:
    """A pending unit of a reorged payment is not claimed."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
    await rig.pool.execute("UPDATE mint_queue SET status = 'pending', mint_tx_hash = NULL")
    await rig.pool.execute("UPDATE payment_queue SET finality = 'reorged'")
    transactions = await rig.pool.fetchval("SELECT count(*) FROM chain_transactions")
    async with rig.working():
        before = (await rig.chain.rpc.head()).number

        async def two_blocks_on() -> bool:
            return (await rig.chain.rpc.head()).number >= before + 6

        await rig.until(two_blocks_on)
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == transactions
    assert await rig.counts() == {"payments_completed": 1, "mints_pending": 1}


async def test_fault_20_a_payment_that_cannot_come_back_is_lost_and_owed_to_the_seller(rig: Rig) -> None:
    """A reorg takes it, and its authorization has expired before it could be mined again."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        head = await rig.chain.rpc.head()
        await rig.order(buyer, 1, authorization=buyer.authorize(seconds=300, chain_time=head.time))
        await rig.until_counts(mints_completed=1)
        first = await first_settled(rig) - 1
        await rig.chain.set_automine(False)
        await reorg_from(rig.chain, first)
        await rig.chain.rpc.call("evm_increaseTime", 600, result=object)
        await rig.chain.set_interval(1)

        async def lost() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) FROM payment_queue WHERE finality = 'lost'") == 1)

        await rig.until(lost)
    owed = await rig.pool.fetch("SELECT direction, reason, amount::int8 FROM owed")
    assert [tuple(row) for row in owed] == [("to_seller", "payment_lost", 10_000)]
    assert await rig.pool.fetchval("SELECT status FROM payment_queue") == "completed"


async def test_a_reorg_around_the_first_look_at_the_chain_is_followed(rig: Rig) -> None:
    """The scan begins at a block that no reorg takes, not at the tip it happened to see."""
    await rig.chain.rpc.call("anvil_mine", 5, result=object)  # the contracts stand below what the reorg takes
    async with rig.working(final_depth=5):
        await reorg(rig.chain, 3)
        (buyer,) = await rig.buyers(1)
        await rig.pay(buyer)
        await rig.until_counts(payments_completed=1, mints_completed=1)
    await rig.check_invariants()


async def test_deep_blocks_become_final(rig: Rig) -> None:
    """Past the configured depth nothing is watched any more."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(final_depth=3):
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)

        async def final() -> bool:
            return bool(
                await rig.pool.fetchval("SELECT count(*) FROM payment_queue WHERE finality = 'final'")
                and await rig.pool.fetchval("SELECT bool_and(state = 'final') FROM chain_transactions")
            )

        await rig.until(final)
