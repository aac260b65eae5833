"""Whose money it is and what may be minted for it, with real buyers good and bad; and what the original got wrong."""

from __future__ import annotations

import asyncio

import pytest
from flow.rig import MINT_AMOUNT, PRICE, Rig, transfer
from msgspec import structs

from payfirst.chain import contracts
from payfirst.chain.abi import encode_call
from payfirst.local.chain import dev_address, dev_key
from payfirst.units import Address, Wei, checksum_address, hex_text, keccak

from .rig.chain import block, no_mining
from .waiting import finds, idle


async def test_fault_11_one_authorization_for_two_orders_at_once_pays_for_one(rig: Rig) -> None:
    """The same request gets the same id; another one is told that the authorization is taken; one payment settles."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(1)
    friend = Address(b"\x77" * 20)
    async with rig.working():
        answers = await asyncio.gather(
            *(rig.order(buyer, 1, authorization=authorization) for _ in range(5)),
            *(rig.order(buyer, 1, authorization=authorization, recipient=friend) for _ in range(5)),
        )
        assert sorted(answer.status_code for answer in answers) == [202] * 5 + [409] * 5
        assert len({answer.json()["paymentQueueId"] for answer in answers if answer.status_code == 202}) == 1
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(idle(rig))
    await rig.check_invariants()


async def test_fault_13_an_account_emptied_after_the_202_costs_no_gas(rig: Rig) -> None:
    """Found by the pre-flight at two blocks: it fails, nothing is minted, nothing was sent."""
    (buyer,) = await rig.buyers(1, funds=PRICE)
    await rig.chain.fund_gas([buyer.address], Wei(10**18))
    async with rig.working(settling_paused=True):
        await rig.pay(buyer)
    move = encode_call("transfer(address,uint256)", dev_address("elsewhere"), int(PRICE))
    await rig.chain.send(rig.chain.usdc, move, buyer.key)
    async with rig.working():
        await rig.until_counts(payments_failed=1)
    assert await rig.pool.fetchval("SELECT error_code FROM payment_queue") == "insufficient_funds"
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0
    await rig.check_invariants()


async def test_fault_16_an_item_that_burns_its_gas_inside_a_batch_that_succeeds(rig: Rig) -> None:
    """The receipt says success, the logs tell of all but one: its siblings are paid, and it is sent again alone."""
    buyers = await rig.buyers(20)
    burner = buyers[-1]
    async with rig.working(max_fee=Wei(2 * 10**9)):
        async with no_mining(rig.chain):
            # They gather while the base fee is above the cap, so that one transaction carries them all.
            await block(rig.chain, base_fee=8 * 10**9)
            height = (await rig.chain.rpc.head()).number
            await rig.until(finds(rig, "SELECT head_height >= $1 FROM chain_heads", height))
            for buyer in buyers:
                await rig.pay(buyer)
            await rig.until(finds(rig, "SELECT count(*) = 20 FROM payment_queue WHERE lease_epoch IS NOT NULL"))
            await block(rig.chain, base_fee=10**9)
            await rig.until_counts(payments_sent=20)
            assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 1
            await rig.chain.set_code(burner.address, b"\xfe")  # whoever asks it for a signature loses all the gas
        await rig.until_counts(payments_completed=19)
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM payment_queue WHERE status = 'pending'"))
        # At once: tried again twice while its account still refuses, it would be told so.
        await rig.chain.set_code(burner.address, b"")
        await rig.until_counts(mints_completed=19)
        await rig.until_counts(within_s=60, payments_completed=20, mints_completed=20)
        await rig.until(idle(rig))
    batch = "SELECT succeeded FROM chain_transactions WHERE item_count = 20"
    assert await rig.pool.fetchval(batch) is True
    await rig.check_invariants()


async def test_fault_25_a_token_that_refuses_after_the_payment_mints_once_it_no_longer_does(rig: Rig) -> None:
    """The mint role is taken away between payment and mint: the units wait, the token is on hold, nothing is lost."""
    buyers = await rig.buyers(2)
    role = keccak(b"MINTER_ROLE")
    await rig.chain.fund_gas([dev_address("seller")], Wei(10**20))

    async def seller_says(call: str) -> None:
        await rig.chain.send(rig.token, encode_call(call, role, dev_address("mint")), dev_key("seller"))

    async with rig.working():
        await seller_says("revokeRole(bytes32,address)")
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until_counts(payments_completed=2, mints_pending=4)
        await rig.until(finds(rig, "SELECT held_reason IS NOT NULL FROM tokens"))
        await seller_says("grantRole(bytes32,address)")
        await rig.until_counts(payments_completed=2, mints_completed=4)
        await rig.until(finds(rig, "SELECT held_reason IS NULL FROM tokens"))
        await rig.until(idle(rig))
    await rig.check_invariants()


async def test_fault_27_a_flood_from_empty_accounts_burns_no_gas_and_starves_nobody(rig: Rig) -> None:
    """Two hundred well-signed payments without money, and one with: the one is minted, the others only fail."""
    poor = await rig.buyers(200, funds=PRICE * 0)  # type: ignore[arg-type]  # no money
    (honest,) = await rig.buyers(1)
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer) for buyer in poor))
        await rig.pay(honest)
        await rig.until_counts(payments_completed=1, payments_failed=200, mints_completed=1)
        await rig.until(idle(rig))
    assert sum(row["item_count"] for row in await rig.gas_used("settle")) == 1
    await rig.check_invariants()


async def test_fault_35_two_authorizations_in_one_transaction_one_of_them_to_the_payer_itself(rig: Rig) -> None:
    """Both are orders here; on chain one of them is spent on a self-transfer: one Transfer pays for one order."""
    (buyer,) = await rig.buyers(1)
    paying, deceiving = buyer.authorize(1), buyer.authorize(1)
    async with rig.working(settling_paused=True):
        for authorization in (paying, deceiving):
            assert (await rig.order(buyer, 1, authorization=authorization)).status_code == 202
    to_itself = structs.replace(deceiving, pay_to=buyer.address)
    calls = [(rig.chain.usdc, transfer(buyer, each)) for each in (to_itself, paying)]
    receipt = await rig.chain.send(rig.chain.multicall3, contracts.encode_aggregate3(calls), gas=1_000_000)
    assert receipt.succeeded
    async with rig.working():
        await rig.until_counts(payments_completed=1, payments_failed=1, mints_completed=1)
        await rig.until(idle(rig))
    await rig.check_invariants()


# ---- what the original server got wrong ----------------------------------------------------------------


async def test_original_the_same_header_twice_is_one_paid_mint(rig: Rig) -> None:
    """There the second request cancelled the paid mint of the first."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(1)
    async with rig.working():
        first = await rig.order(buyer, 1, authorization=authorization)
        await rig.until_counts(mints_completed=1)
        second = await rig.order(buyer, 1, authorization=authorization)
        await rig.until(idle(rig))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["paymentQueueId"] == second.json()["paymentQueueId"]
    assert await rig.balance(rig.token, buyer.address) == MINT_AMOUNT
    await rig.check_invariants()


@pytest.mark.parametrize(("payments", "quantity"), [(10, 1), (3, 5)], ids=["ten at once", "three times five at once"])
async def test_original_one_payer_at_once_gets_all_that_was_paid(rig: Rig, payments: int, quantity: int) -> None:
    """There mint ids came from a millisecond clock, and six of ten were minted."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        await asyncio.gather(*(rig.pay(buyer, quantity) for _ in range(payments)))
        await rig.until_counts(payments_completed=payments, mints_completed=payments * quantity)
        await rig.until(idle(rig))
    assert await rig.balance(rig.token, buyer.address) == payments * quantity * MINT_AMOUNT
    await rig.check_invariants()


@pytest.mark.parametrize("spell", [checksum_address, hex_text], ids=["checksummed", "lower case"])
async def test_original_a_token_is_one_token_in_any_letter_case(rig: Rig, spell: object) -> None:
    """There a checksummed address in the URL was paid and never minted."""
    assert callable(spell)
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        response = await rig.client.post(
            f"/api/mint/{spell(rig.token)}", headers=buyer.header(buyer.authorize(2)), json={"quantity": 2}
        )
        assert response.status_code == 202
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    await rig.check_invariants()
