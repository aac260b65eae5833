"""Reorgs: before a mint, of a mint, and back to a snapshot."""

from __future__ import annotations

import pytest
from flow.rig import Rig, transfer

from payfirst.units import TxHash, hex_text

from .rig.chain import no_mining, reorg, reorg_from, revert, snapshot
from .waiting import Holds, finds, idle


@pytest.mark.slow
async def test_fault_19_a_payment_that_a_reorg_takes_before_depth_was_never_minted(rig: Rig) -> None:
    """Mined, not deep enough, gone: nothing was minted for it, the same bytes come back, and it is minted once."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(confirmations=3):
        await rig.pay(buyer, 2)
        await rig.until_counts(payments_sent=1)
        await rig.until(_mined(rig))
        async with no_mining(rig.chain):
            await reorg(rig.chain, 2)
            assert await rig.pool.fetchval("SELECT count(*) FROM mint_queue") == 0
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 2
    assert await rig.pool.fetchval("SELECT max(broadcast_count) FROM chain_attempts") >= 2
    await rig.check_invariants()


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_fault_21_a_mint_that_a_reorg_takes_is_sent_again_and_stands_once(rig: Rig, depth: int) -> None:
    """Only the newest blocks go: the payment stays, the same signed mint comes back."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.pay(buyer, 3)
        await rig.until_counts(mints_completed=3)
        minted = await rig.pool.fetchval("SELECT minted_block FROM mint_queue LIMIT 1")
        await reorg_from(rig.chain, minted - depth + 1)
        await rig.until(finds(rig, "SELECT count(*) > 0 FROM chain_attempts WHERE broadcast_count > 1"))
        await rig.until_counts(payments_completed=1, mints_completed=3)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 2
    await rig.check_invariants(in_order=False)


async def test_fault_20_what_the_payer_had_submitted_is_sent_by_us_once_a_reorg_took_it(rig: Rig) -> None:
    """No bytes of ours would bring it back, and its units are minted: the authorization is still good, and used."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(settling_paused=True):
        authorization = buyer.authorize(2)
        assert (await rig.order(buyer, 2, authorization=authorization)).status_code == 202
    assert (await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))).succeeded
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_completed=2)
        assert await rig.gas_used("settle") == []
        settled = await rig.pool.fetchval("SELECT settled_block FROM payment_queue")
        await reorg_from(rig.chain, settled)
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM payment_queue WHERE settled_by_us AND finality = 'open'"))
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    assert [items for _, items, _ in await rig.gas_used("settle")] == [1]
    await rig.check_invariants(in_order=False)


async def test_fault_20_with_room_for_one_transaction_what_a_reorg_took_goes_first_and_the_next_follows(
    rig: Rig,
) -> None:
    """Both ask for the last place among the unresolved; whoever comes second is claimed once the first is mined."""
    submitter, buyer = await rig.buyers(2)
    async with rig.working(settling_paused=True):
        authorization = submitter.authorize(1)
        assert (await rig.order(submitter, 1, authorization=authorization)).status_code == 202
    assert (await rig.chain.send(rig.chain.usdc, transfer(submitter, authorization))).succeeded
    async with rig.working(settling_paused=True):
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.pay(buyer, 1)
        settled = await rig.pool.fetchval("SELECT settled_block FROM payment_queue WHERE status = 'completed'")
        await reorg_from(rig.chain, settled)
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM payment_queue WHERE finality = 'reorged'"))
    async with rig.working(settle_unresolved_max=1):
        await rig.until_counts(payments_completed=2, mints_completed=2)
        await rig.until(idle(rig))
    payers = await rig.pool.fetch(
        "SELECT payer FROM payment_queue p JOIN chain_transaction_items i ON i.payment_id = p.id"
        " ORDER BY i.transaction_id"
    )
    assert [payer for (payer,) in payers] == [hex_text(submitter.address), hex_text(buyer.address)]
    assert [items for _, items, _ in await rig.gas_used("settle")] == [1, 1]
    first, second = await rig.pool.fetch("SELECT * FROM chain_transactions WHERE purpose = 'settle' ORDER BY id")
    assert second["created_at"] >= first["confirmed_at"]  # never two unresolved
    await rig.check_invariants(in_order=False)


async def test_fault_20_21_a_chain_that_goes_back_to_an_earlier_block_gets_payment_and_mint_again(rig: Rig) -> None:
    """Its height is lower than before: nothing is undone for that, and the same bytes go out once it has grown."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.chain.mine(2)
        remembered = await snapshot(rig.chain)
        await rig.pay(buyer, 2)
        await rig.until_counts(mints_completed=2)
        await rig.until(idle(rig))
        attempts = await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash")
        await revert(rig.chain, remembered)
        await rig.until(finds(rig, "SELECT count(*) > 0 FROM payment_queue WHERE finality = 'reorged'"))
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM payment_queue WHERE finality = 'open'"))
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
        assert await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash") == attempts
    await rig.check_invariants(in_order=False)


def _mined(rig: Rig) -> Holds:
    async def holds() -> bool:
        tx_hash = await rig.pool.fetchval("SELECT hash FROM chain_attempts")
        (receipt,) = await rig.chain.rpc.receipts([TxHash(bytes.fromhex(tx_hash[2:]))])
        return receipt is not None

    return holds
