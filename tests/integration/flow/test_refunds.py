"""What was paid for and cannot be minted is given back: once, to the payer, and only when nothing can mint it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from faults.rig.chain import reorg_from

from payfirst.chain.abi import encode_call
from payfirst.chain.contracts import encode_batch_mint, encode_mint
from payfirst.local.chain import DEV_OWNER_KEY, dev_address, dev_key
from payfirst.store import refunds
from payfirst.store.database import Pool
from payfirst.units import AtomicAmount, MintId, Wei, keccak

from .refunding import TREASURY, check_refunds, give_treasury, owe, refunds_are
from .rig import MINT_AMOUNT, PRICE, Rig, open_rig

MINTER_ROLE = keccak(b"MINTER_ROLE")
NO_MONEY = AtomicAmount(0)


@pytest.fixture
async def rig(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """A rig with a treasury that refunds by itself."""
    async with open_rig(database_url, pool) as opened:
        yield await give_treasury(opened)


async def let_the_seller_mint(rig: Rig) -> None:
    """The seller may mint with a key of their own."""
    await rig.chain.fund_gas([dev_address("seller")], Wei(10**20))
    grant = encode_call("grantRole(bytes32,address)", MINTER_ROLE, dev_address("seller"))
    assert (await rig.chain.send(rig.token, grant, dev_key("seller"))).succeeded


async def test_fault_32_late_money_for_a_sold_out_token_is_refunded_once_and_its_buyer_sees_it(rig: Rig) -> None:
    """Fault 32: credited, owed unit by unit, and given back in one transaction."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working():
        payment_id = await owe(rig, buyer, units=2)
        await rig.until(refunds_are(rig, completed=2))
    await check_refunds(rig, units=2, buyers=[buyer])
    await rig.check_invariants()
    assert [row["item_count"] for row in await rig.gas_used("refund")] == [2]
    tx_hash = await rig.pool.fetchval("SELECT mined_hash FROM chain_transactions WHERE purpose = 'refund'")
    document: Any = await rig.payment(payment_id)
    assert document["status"] == "completed"
    for mint in document["mints"]:
        assert mint["status"] == "owed"
        assert mint["refund"] == {"status": "completed", "amount": "10000", "txHash": tx_hash}
        unit = (await rig.client.get(f"/api/queue/{mint['queueId']}")).json()
        assert unit["refund"] == mint["refund"]


@pytest.mark.slow
async def test_fault_25_a_cap_reached_after_the_payment_costs_the_buyer_nothing(database_url: str, pool: Pool) -> None:
    """Fault 25: someone else mints in the block that settles; one unit is delivered, the other is given back."""
    async with open_rig(database_url, pool, max_mint_count=3) as opened:
        rig = await give_treasury(opened)
        await let_the_seller_mint(rig)
        (buyer,) = await rig.buyers(1, funds=AtomicAmount(2 * PRICE))
        async with rig.working():
            await rig.chain.set_automine(False)
            await rig.pay(buyer, 2)

            async def sent() -> bool:
                return (await rig.counts()).get("payments_sent") == 1

            await rig.until(sent)
            others = [MintId(keccak(b"%d" % n)) for n in range(2)]
            data = encode_batch_mint([dev_address("seller")] * 2, others)
            await rig.chain.submit(rig.token, data, dev_key("seller"), gas=400_000)
            await rig.chain.set_interval(1)
            await rig.until_counts(mints_completed=1, mints_owed=1)
            await rig.until(refunds_are(rig, completed=1))
        await check_refunds(rig, units=1, buyers=[buyer])
    owed = await pool.fetch("SELECT reason, status FROM owed")
    assert [tuple(row) for row in owed] == [("token_cap_reached", "refunded")]


@pytest.mark.slow
async def test_without_a_treasury_what_is_owed_stays_owed(database_url: str, pool: Pool) -> None:
    """No refund is even opened, however the mode is set."""
    async with open_rig(database_url, pool) as rig:
        (buyer,) = await rig.buyers(1, funds=NO_MONEY)
        async with rig.working(refund_mode="automatic", final_depth=2):
            await owe(rig, buyer)
            await rig.until(
                is_so(rig, "SELECT count(*) = 1 FROM payment_queue WHERE status = 'completed' AND finality = 'final'")
            )
        assert await pool.fetchval("SELECT count(*) FROM refunds") == 0
        assert await pool.fetchval("SELECT status FROM owed") == "open"


@pytest.mark.slow
async def test_a_refund_waits_until_no_reorg_can_take_the_payment(rig: Rig) -> None:
    """Money that may vanish is not given back: nothing is opened while the payment is not final."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(final_depth=1_000):
        await owe(rig, buyer)
        await rig.until(is_so(rig, "SELECT count(*) = 1 FROM treasuries"))
        await blocks_later(rig, 8)
        assert await rig.pool.fetchval("SELECT count(*) FROM refunds") == 0
    async with rig.working():
        await rig.until(refunds_are(rig, completed=1))


async def test_a_refund_that_needs_an_approval_waits_for_it(rig: Rig) -> None:
    """Mode approve: nothing is sent before somebody says so, and then it is sent once."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        payment_id = await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
        await blocks_later(rig, 4)
        assert await rig.balance(rig.chain.usdc, buyer.address) == 0
        document: Any = await rig.payment(payment_id)
        assert document["mints"][0]["refund"] == {"status": "waiting", "amount": "10000", "txHash": None}
        (refund_id,) = [row["id"] for row in await rig.pool.fetch("SELECT id FROM refunds")]
        assert await approve_all(rig) == [refund_id]
        await rig.until(refunds_are(rig, completed=1))
    assert await rig.pool.fetchval("SELECT approved_by FROM refunds") == "the test"
    await check_refunds(rig, units=1, buyers=[buyer])


@pytest.mark.slow
async def test_what_is_above_the_limits_waits_and_the_rest_goes_on(rig: Rig) -> None:
    """amount_max: a person decides. daily_max: the clock does, whoever approved."""
    buyers = await rig.buyers(3, funds=NO_MONEY)
    limits: dict[str, Any] = {"refund_amount_max": AtomicAmount(PRICE - 1), "refund_daily_max": AtomicAmount(2 * PRICE)}
    async with rig.working(**limits):
        await owe(rig, *buyers)
        await rig.until(refunds_are(rig, waiting=3))
        assert len(await approve_all(rig)) == 3
        await rig.until(refunds_are(rig, completed=2, approved=1))
        says_why = "SELECT error LIKE '%refunds.daily_max%' FROM refunds WHERE status = 'approved'"
        await rig.until(is_so(rig, says_why))
        await rig.pool.execute("UPDATE refunds SET sent_at = now() - interval '25 hours'")
        await rig.pool.execute("UPDATE refunds SET next_attempt_at = NULL")
        await rig.until(refunds_are(rig, completed=3))
    await check_refunds(rig, units=3, buyers=buyers)


@pytest.mark.slow
async def test_an_empty_treasury_holds_refunds_until_it_is_filled(database_url: str, pool: Pool) -> None:
    """Said aloud once, with what is missing; it goes on by itself."""
    async with open_rig(database_url, pool) as opened:
        rig = await give_treasury(opened, units=0)
        (buyer,) = await rig.buyers(1, funds=NO_MONEY)
        async with rig.working():
            await owe(rig, buyer)
            await rig.until(is_so(rig, "SELECT held_reason IS NOT NULL FROM treasuries"))
            assert "10000 more" in await pool.fetchval("SELECT error FROM refunds")
            assert await rig.gas_used("refund") == []
            await rig.chain.fund_usdc([TREASURY], PRICE)
            await rig.until(refunds_are(rig, completed=1))
        assert await pool.fetchval("SELECT held_reason FROM treasuries") is None
        await check_refunds(rig, units=1, buyers=[buyer])


@pytest.mark.slow
async def test_a_unit_that_was_minted_after_all_is_not_refunded(rig: Rig) -> None:
    """The seller minted an owed unit by hand: it is completed by the token's log, and its refund is cancelled."""
    await let_the_seller_mint(rig)
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, buyer, units=2)
        await rig.until(refunds_are(rig, waiting=2))
        mint_id = await rig.pool.fetchval("SELECT mint_id FROM mint_queue WHERE unit = 0")
        by_hand = encode_mint(buyer.address, MintId(bytes.fromhex(mint_id[2:])))
        assert (await rig.chain.send(rig.token, by_hand, dev_key("seller"))).succeeded
    async with rig.working():
        await rig.until(refunds_are(rig, completed=1, cancelled=1))
        await rig.until_counts(mints_completed=1, mints_owed=1)
    assert await rig.balance(rig.chain.usdc, buyer.address) == PRICE
    assert await rig.balance(rig.token, buyer.address) == MINT_AMOUNT
    assert await rig.pool.fetchval("SELECT count(*) FROM owed WHERE status = 'refunded'") == 1
    await rig.check_invariants()


async def test_the_database_refuses_to_mint_what_is_being_refunded(rig: Rig) -> None:
    """From the approval on; a refund that only waits does not keep a unit from being minted."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, buyer, units=2)
        await rig.until(refunds_are(rig, waiting=2))
    again = "UPDATE mint_queue SET status = 'pending' WHERE unit = $1 AND status = 'owed'"
    async with rig.pool.acquire() as connection, connection.transaction():
        ids = await connection.fetch("SELECT r.id FROM refunds r JOIN owed o ON o.id = r.owed_id WHERE o.unit = 0")
        assert len(await refunds.approve(connection, [row["id"] for row in ids], by="the test")) == 1
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is being refunded"):
        await rig.pool.execute(again, 0)
    assert await rig.pool.execute(again, 1) == "UPDATE 1"
    assert await approve_all(rig) == []


@pytest.mark.slow
async def test_a_beneficiary_that_the_asset_refuses_holds_up_nobody_else(rig: Rig) -> None:
    """A blocked account is tried again with its reason; the others of the batch are paid."""
    buyers = await rig.buyers(2, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, *buyers)
        await rig.until(refunds_are(rig, waiting=2))
        await rig.chain.send(rig.chain.usdc, encode_call("blacklist(address)", buyers[0].address), DEV_OWNER_KEY)
    async with rig.working():
        await rig.until(refunds_are(rig, completed=1, approved=1))
        assert "blacklisted" in await rig.pool.fetchval("SELECT error FROM refunds WHERE status = 'approved'")
        await rig.chain.send(rig.chain.usdc, encode_call("unBlacklist(address)", buyers[0].address), DEV_OWNER_KEY)
        await rig.until(refunds_are(rig, completed=2))
    await check_refunds(rig, units=2, buyers=buyers)


async def test_fault_25_a_lost_refund_is_made_again_and_pays_nothing_twice(rig: Rig) -> None:
    """The row is gone and the debt open again, as after a restore: the chain's own record completes the new row."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working():
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, completed=1))
        before = await rig.pool.fetchrow("SELECT authorization_nonce, tx_hash FROM refunds")
        async with rig.pool.acquire() as connection, connection.transaction():
            await connection.execute("DELETE FROM refunds")
            await connection.execute("UPDATE owed SET status = 'open', resolved_at = NULL")
        await rig.until(refunds_are(rig, completed=1))
        after = await rig.pool.fetchrow("SELECT authorization_nonce, tx_hash FROM refunds")
    assert before == after
    assert len(await rig.gas_used("refund")) == 1
    await check_refunds(rig, units=1, buyers=[buyer])


@pytest.mark.slow
async def test_a_row_lost_while_its_refund_is_under_way_is_refused_by_the_chain(rig: Rig) -> None:
    """The first transaction is mined after a second one was signed under the same nonce: one of them pays."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
        await rig.chain.set_automine(False)
        await approve_all(rig)
        await rig.until(refunds_are(rig, sent=1))
        await rig.pool.execute("DELETE FROM refunds")
        await rig.until(refunds_are(rig, waiting=1))
        await approve_all(rig)
        await rig.until(refunds_are(rig, sent=1))
        assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions WHERE purpose = 'refund'") == 2
        await rig.chain.set_interval(1)
        await rig.until(refunds_are(rig, completed=1))
        await rig.until(nothing_on_its_way(rig))
    first, second = await rig.pool.fetch(
        "SELECT mined_hash, succeeded FROM chain_transactions WHERE purpose = 'refund' ORDER BY account_nonce"
    )
    assert (first["succeeded"], second["succeeded"]) == (True, False)
    assert await rig.pool.fetchval("SELECT tx_hash FROM refunds") == first["mined_hash"]
    await check_refunds(rig, units=1, buyers=[buyer])
    await rig.check_invariants()


@pytest.mark.slow
async def test_a_refund_that_a_reorg_took_comes_back_by_the_same_bytes(rig: Rig) -> None:
    """completed, sent, completed; no new nonce, and no second payment."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve", final_depth=12):
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
        await approve_all(rig)
        await rig.until(refunds_are(rig, completed=1))
        hashes = await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash")
        block = await rig.pool.fetchval("SELECT refunded_block FROM refunds")
        await reorg_from(rig.chain, block - 1)

        async def back() -> bool:
            sent_again = await rig.pool.fetchval(
                "SELECT bool_or(a.broadcast_count > 1) FROM chain_transactions t"
                " JOIN chain_attempts a ON a.transaction_id = t.id WHERE t.purpose = 'refund' AND t.state <> 'sent'"
            )
            return bool(sent_again) and await refunds_are(rig, completed=1)()

        await rig.until(back)
    assert await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash") == hashes
    await check_refunds(rig, units=1, buyers=[buyer])
    await rig.check_invariants()


@pytest.mark.slow
async def test_an_authorization_that_ended_on_its_way_is_signed_again_under_the_same_nonce(rig: Rig) -> None:
    """No block takes it for an hour and more: its account nonce is given up, and the refund is paid once."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
        await rig.chain.set_automine(False)
        await approve_all(rig)
        await rig.until(refunds_are(rig, sent=1))
        nonce = await rig.pool.fetchval("SELECT authorization_nonce FROM refunds")
        await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
        await rig.chain.rpc.call("evm_increaseTime", 4_000, result=object)
        await rig.chain.set_interval(1)
        await rig.until(refunds_are(rig, completed=1), within_s=60)
    assert await rig.pool.fetchval("SELECT authorization_nonce FROM refunds") == nonce
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts WHERE is_noop") == 1
    await check_refunds(rig, units=1, buyers=[buyer])
    await rig.check_invariants()


async def approve_all(rig: Rig) -> list[uuid.UUID]:
    """Approve every refund that there is; returns those that were."""
    async with rig.pool.acquire() as connection, connection.transaction():
        every = [row["id"] for row in await connection.fetch("SELECT id FROM refunds ORDER BY created_at, id")]
        return await refunds.approve(connection, every, by="the test")


async def blocks_later(rig: Rig, blocks: int) -> None:
    """Wait for so many blocks."""
    before = (await rig.chain.rpc.head()).number

    async def passed() -> bool:
        return (await rig.chain.rpc.head()).number >= before + blocks

    await rig.until(passed)


def is_so(rig: Rig, query: str) -> Callable[[], Awaitable[bool]]:
    """Whether a query's one value is true."""

    async def holds() -> bool:
        return bool(await rig.pool.fetchval(query))

    return holds


def nothing_on_its_way(rig: Rig) -> Callable[[], Awaitable[bool]]:
    """Whether each transaction has come to its end."""
    return is_so(rig, "SELECT count(*) = 0 FROM chain_transactions WHERE state = 'sent'")
