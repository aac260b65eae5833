"""A payment in, minted tokens out: and nothing minted for what was not paid."""

from __future__ import annotations

import asyncio
import io

from payfirst.store import database
from payfirst.store.database import Pool
from payfirst.units import Address

from .rig import MINT_AMOUNT, Rig, open_rig


async def test_a_paid_order_is_minted_to_its_buyer(rig: Rig) -> None:
    """The whole flow, once."""
    async with rig.working():
        (buyer,) = await rig.buyers(1)
        payment_id = await rig.pay(buyer, 3)
        await rig.until_counts(payments_completed=1, mints_completed=3)
    document = await rig.payment(payment_id)
    assert document["status"] == "completed"
    assert [m["status"] for m in document["mints"]] == ["completed"] * 3  # type: ignore[attr-defined]  # JSON
    assert await rig.balance(rig.token, buyer.address) == 3 * MINT_AMOUNT
    await rig.check_invariants()


async def test_the_flow_runs_on_each_supported_postgresql(any_database_url: str) -> None:
    """On 15 as on 18."""
    pool = await database.connect(any_database_url, name="test", size=4)
    async with pool, open_rig(any_database_url, pool) as rig, rig.working():
        buyers = await rig.buyers(5)
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until_counts(payments_completed=5, mints_completed=10)
        await rig.check_invariants()


async def test_payments_that_come_together_share_a_transaction(rig: Rig) -> None:
    """Fifty payments need far fewer transactions than fifty."""
    buyers = await rig.buyers(50)
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer, 1 + i % 3) for i, buyer in enumerate(buyers)))
        await rig.until_counts(payments_completed=50, mints_completed=sum(1 + i % 3 for i in range(50)))
    assert len(await rig.gas_used("settle")) < 10
    await rig.check_invariants()


async def test_one_transaction_a_payment_is_a_mode(rig: Rig) -> None:
    """In single mode no two payments share a hash."""
    buyers = await rig.buyers(5)
    async with rig.working(settle_mode="single"):
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers))
        await rig.until_counts(payments_completed=5, mints_completed=5)
    hashes = await rig.pool.fetchval("SELECT count(DISTINCT tx_hash) FROM payment_queue")
    assert hashes == 5
    await rig.check_invariants()


async def test_an_empty_account_fails_without_a_mint(rig: Rig) -> None:
    """Accepted, found out at two blocks, and no gas spent on it."""
    (rich,) = await rig.buyers(1)
    (poor,) = await rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money
    async with rig.working():
        poor_id = await rig.pay(poor)
        await rig.pay(rich)
        await rig.until_counts(payments_failed=1, payments_completed=1, mints_completed=1)
    document = await rig.payment(poor_id)
    assert document["error"] == {
        "code": "insufficient_funds",
        "message": "The payer's balance is below the amount. No money moved; fund the account and pay again.",
    }
    assert all(row["succeeded"] for row in await rig.gas_used("settle"))
    await rig.check_invariants()


async def test_a_payer_who_can_pay_once_pays_once(rig: Rig) -> None:
    """Ten payments at once over a balance of one: one settles, the others fail, none burns gas in a batch."""
    (buyer,) = await rig.buyers(1, funds=10_000)  # type: ignore[arg-type]  # the price of one
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer) for _ in range(10)))
        await rig.until_counts(payments_completed=1, payments_failed=9, mints_completed=1)
    assert sum(row["item_count"] for row in await rig.gas_used("settle")) == 1
    await rig.check_invariants()


async def test_another_recipient_gets_the_tokens(rig: Rig) -> None:
    """The buyer may name who is minted to."""
    (buyer,) = await rig.buyers(1)
    friend = Address(b"\x77" * 20)
    async with rig.working():
        await rig.pay(buyer, 2, recipient=friend)
        await rig.until_counts(mints_completed=2)
    assert await rig.balance(rig.token, friend) == 2 * MINT_AMOUNT
    await rig.check_invariants()


async def test_the_six_lines_of_the_log_appear(rig: Rig, log_lines: io.StringIO) -> None:
    """Operators grep for these words."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await rig.pay(buyer, 2)
        await rig.until_counts(mints_completed=2)
    written = log_lines.getvalue()
    for words in (
        "✅ X402 payment queued: ",
        "(2x mint will be created after payment confirms)",
        "📤 Sent payment tx: ",
        "✅ Batch complete: 1 succeeded",
        "🔍 Checking 1 pending confirmations...",
        "   ✅ 1 confirmed",
        "✅ Created 2x mint queue items after x402 payment confirmation",
    ):
        assert words in written, words


async def test_a_batch_that_asks_for_more_than_is_left_sends_what_fits(database_url: str, pool: Pool) -> None:
    """The oldest get what there is, in one transaction; who came too late pays nothing."""
    async with open_rig(database_url, pool, max_mint_count=5) as rig:
        async with rig.working():
            await rig.until_a_worker_lives()
        await rig.insert([rig.new_payment(buyer, 2) for buyer in await rig.buyers(3)])
        async with rig.working():
            await rig.until_counts(payments_completed=2, payments_failed=1, mints_completed=4)
        assert [items for _, items, _ in await rig.gas_used("settle")] == [2]
        last = "SELECT error_code FROM payment_queue ORDER BY id DESC LIMIT 1"
        assert await rig.pool.fetchval(last) == "sold_out"
        assert await rig.pool.fetchval("SELECT reserved FROM tokens") == 0
        await rig.check_invariants()
