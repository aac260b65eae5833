"""Refunds that end otherwise than by a transaction of their own: the chain decides, and a person where it must."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from payfirst.cli.audit import Asked, compare
from payfirst.local.chain import dev_address, dev_key
from payfirst.store import by_hand, refunds
from payfirst.store.database import Pool
from payfirst.units import Address, AtomicAmount, AuthorizationNonce, UnixTime
from payfirst.x402.payload import Authorization

from .refunding import TREASURY, check_refunds, give_treasury, owe, refunds_are
from .rig import PRICE, Buyer, Rig, open_rig, transfer

NO_MONEY = AtomicAmount(0)


@pytest.fixture
async def rig(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """A rig with a treasury, whose refunds wait for an approval."""
    async with open_rig(database_url, pool) as opened:
        yield await give_treasury(opened)


async def approve(rig: Rig) -> None:
    """Every refund that there is."""
    async with rig.pool.acquire() as connection, connection.transaction():
        ids = [row["id"] for row in await connection.fetch("SELECT id FROM refunds")]
        assert await refunds.approve(connection, ids, by="the test") == ids


async def use_for_another(rig: Rig, buyer: Buyer) -> None:
    """The treasury's key pays one atomic unit to somebody else under the nonce of the only refund."""
    nonce = await rig.pool.fetchval("SELECT authorization_nonce FROM refunds")
    authorization = Authorization(
        payer=TREASURY,
        pay_to=Address(b"\x55" * 20),
        value=AtomicAmount(1),
        valid_after=UnixTime(0),
        valid_before=UnixTime(2**40),
        nonce=AuthorizationNonce(bytes.fromhex(nonce[2:])),
    )
    data = transfer(replace(buyer, key=dev_key("treasury")), authorization)
    assert (await rig.chain.send(rig.chain.usdc, data)).succeeded


@pytest.mark.slow
async def test_a_nonce_that_was_used_for_another_leaves_its_debt_to_a_person(rig: Rig) -> None:
    """Once that block is final the refund is impossible: nothing is sent, and the debt can be settled by hand."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
        await use_for_another(rig, buyer)
        await approve(rig)
        await rig.until(refunds_are(rig, impossible=1))
        assert await rig.gas_used("refund") == []
        async with rig.pool.acquire() as connection, connection.transaction():
            debt = await connection.fetchval("SELECT id FROM owed")
            assert (await by_hand.resolve(connection, debt, note="paid in cash", actor="the test")).ok
        await rig.until(refunds_are(rig, cancelled=1))
    assert await rig.balance(rig.chain.usdc, buyer.address) == 0


async def test_a_refund_whose_transaction_ended_unnoticed_is_completed_by_its_log(rig: Rig) -> None:
    """A worker of the release before confirmed it, which knows nothing of refunds: looked up, and not sent again."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working():
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, completed=1))

        async def final() -> bool:
            return bool(await rig.pool.fetchval("SELECT bool_and(state = 'final') FROM chain_transactions"))

        await rig.until(final)
        async with rig.pool.acquire() as connection, connection.transaction():
            await connection.execute("UPDATE owed SET status = 'open', resolved_at = NULL")
            await connection.execute("UPDATE refunds SET status = 'sent', refunded_block = NULL")
        await rig.until(refunds_are(rig, completed=1))
    assert len(await rig.gas_used("refund")) == 1
    await check_refunds(rig, units=1, buyers=[buyer])


@pytest.mark.slow
async def test_a_refund_that_was_out_is_given_up_once_its_authorization_has_ended(rig: Rig) -> None:
    """Its debt ended otherwise while anyone could use what was sent: until a final block is past it, it stays."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working(refund_mode="approve"):
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, waiting=1))
        valid_before = (await rig.chain.rpc.head()).time + 3_600
        async with rig.pool.acquire() as connection, connection.transaction():
            await connection.execute("UPDATE owed SET status = 'resolved', resolved_at = now()")
            await connection.execute("UPDATE refunds SET status = 'approved', valid_before = $1", valid_before)

        async def waits() -> bool:
            return bool(await rig.pool.fetchval("SELECT error LIKE '%ended otherwise%' FROM refunds"))

        await rig.until(waits)
        assert await refunds_are(rig, approved=1)()
        await rig.chain.rpc.call("evm_increaseTime", 4_000, result=object)
        await rig.until(refunds_are(rig, cancelled=1))
    assert await rig.gas_used("refund") == []


@pytest.mark.slow
async def test_a_treasury_that_the_database_has_never_heard_of_may_have_paid(rig: Rig) -> None:
    """The rows were lost, and then the treasury changed: the log of the old one completes it; none pays twice."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working():
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, completed=1))
    async with rig.pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM refunds")
        await connection.execute("DELETE FROM treasuries")
        await connection.execute("UPDATE owed SET status = 'open', resolved_at = NULL")
    await rig.chain.fund_usdc([dev_address("another treasury")], AtomicAmount(10 * PRICE))
    async with replace(rig, treasury="another treasury").working():
        await rig.until(refunds_are(rig, completed=1))
    assert len(await rig.gas_used("refund")) == 1
    await check_refunds(rig, units=1, buyers=[buyer])


async def test_an_audit_finds_no_difference_in_a_refund(rig: Rig) -> None:
    """Money that leaves the treasury is nobody's payment, and its transaction is known."""
    (buyer,) = await rig.buyers(1, funds=NO_MONEY)
    async with rig.working():
        await owe(rig, buyer)
        await rig.until(refunds_are(rig, completed=1))
    terms = replace(rig.terms, final_depth=2)
    found = await compare(terms, (rig.chain.url,), rig.database_url, Asked(None, None), seconds=3_600, repair=False)
    assert found.findings == [], found
