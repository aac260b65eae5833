"""Payers with code: smart wallets that sign by EIP-1271, and accounts that are delegated (EIP-7702) while they pay."""

from __future__ import annotations

from collections.abc import AsyncIterator

import eth_abi.abi
import httpx
import pytest
from contracts.token import compiled_for_tests
from eth_account import Account
from flow.rig import ENOUGH, NETWORK, Buyer, Rig, open_rig
from msgspec import structs

from payfirst.chain.abi import encode_call
from payfirst.local.chain import LocalChain
from payfirst.store.database import Pool
from payfirst.units import Address, Wei, checksum_address, hex_text
from payfirst.x402.payload import Authorization
from payfirst.x402.signing import header_v1, sign_authorization
from payfirst.x402.wallet_signature import ERC6492_MAGIC

from .rig.chain import block, forget_all, no_mining
from .waiting import finds, idle

NOBODY = Address(b"\x99" * 20)


@pytest.fixture
async def taking(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """The rig, with smart wallets taken."""
    async with open_rig(database_url, pool, api_variables={"PAYFIRST_PAYMENTS__SMART_WALLETS": "true"}) as opened:
        yield opened


def by_wallet(buyer: Buyer, wallet: Address) -> tuple[Authorization, bytes]:
    """An authorization of the wallet's, and what its key makes of it: 97 bytes, which no key's signature has."""
    authorization = structs.replace(buyer.authorize(1), payer=wallet)
    return authorization, sign_authorization(buyer.asset, authorization, buyer.key) + bytes(32)


def wrapped(signature: bytes) -> bytes:
    """As ERC-6492 wraps it, with a factory that must never be called."""
    call = encode_call("transfer(address,uint256)", NOBODY, 1)
    return eth_abi.abi.encode(["address", "bytes", "bytes"], [NOBODY, call, signature]) + ERC6492_MAGIC


async def post(rig: Rig, authorization: Authorization, signature: bytes) -> httpx.Response:
    """An order for one unit."""
    headers = {"X-PAYMENT": header_v1(authorization, signature, network=NETWORK)}
    return await rig.client.post(f"/api/mint/{checksum_address(rig.token)}", headers=headers, json={"quantity": 1})


async def funded_wallet(rig: Rig, buyer: Buyer) -> Address:
    """A smart wallet of the buyer's key, with money."""
    wallet = await rig.chain.deploy(compiled_for_tests("KeyWallet"), buyer.address)
    await rig.chain.fund_usdc([wallet], ENOUGH)
    return wallet


async def delegate_and_arm(chain: LocalChain, buyer: Buyer, code: Address) -> None:
    """One EIP-7702 transaction of the buyer's own: it delegates its account to a BurnWallet, and arms it."""
    account = Account.from_key(buyer.key)
    nonce = await chain.rpc.account_nonce(buyer.address)
    chain_id = NETWORK.chain_id
    delegation = {"chainId": chain_id, "address": checksum_address(code), "nonce": nonce + 1}
    signed = account.sign_transaction(
        {
            "type": 4,
            "chainId": chain_id,
            "nonce": nonce,
            "to": checksum_address(buyer.address),
            "value": 0,
            "data": encode_call("arm(bool)", True),
            "gas": 200_000,
            "maxFeePerGas": 60 * 10**9,
            "maxPriorityFeePerGas": 20 * 10**9,
            "authorizationList": [account.sign_authorization(delegation)],
        }
    )
    await chain.rpc.broadcast(bytes(signed.raw_transaction))


async def test_off_by_default_a_wallets_signature_is_refused(rig: Rig) -> None:
    """402 with the specification's code and what the buyer can do; nothing is stored."""
    (buyer,) = await rig.buyers(1)
    wallet = await funded_wallet(rig, buyer)
    async with rig.working():
        answer = await post(rig, *by_wallet(buyer, wallet))
    assert answer.status_code == 402
    assert answer.json()["error"] == "invalid_exact_evm_payload_signature"
    assert "Smart wallets (EIP-1271, ERC-6492) are not taken here" in answer.text
    assert await rig.pool.fetchval("SELECT count(*) FROM authorizations") == 0


async def test_a_smart_wallet_pays_alone_and_its_units_are_minted(taking: Rig) -> None:
    """The wallet says on chain that it signed; its payment shares a transaction with nobody, wrapped or not."""
    rig = taking
    (buyer, *others) = await rig.buyers(5)
    wallet = await funded_wallet(rig, buyer)
    async with rig.working():
        async with no_mining(rig.chain):
            for other in others:
                await rig.pay(other)
            authorization, signature = by_wallet(buyer, wallet)
            first = await post(rig, authorization, signature)
            assert first.status_code == 202, first.text
            again = await post(rig, authorization, signature)
            assert again.json() == first.json()
            later, inner = by_wallet(buyer, wallet)
            assert (await post(rig, later, wrapped(inner))).status_code == 202
            await rig.until_counts(payments_sent=6)
        await rig.until_counts(payments_completed=6, mints_completed=6)
        await rig.until(idle(rig))
    sizes = await rig.pool.fetch(
        "SELECT t.item_count FROM chain_transactions t JOIN chain_transaction_items i ON i.transaction_id = t.id"
        " JOIN payment_queue p ON p.id = i.payment_id WHERE p.payer = $1",
        hex_text(wallet),
    )
    assert [row["item_count"] for row in sizes] == [1, 1]
    await rig.check_invariants()


async def test_a_signature_that_the_wallet_does_not_know_fails_without_money_moved(taking: Rig) -> None:
    """It was accepted by its shape; the pre-flight ends it, and no transaction was sent."""
    rig = taking
    (buyer, stranger) = await rig.buyers(2)
    wallet = await funded_wallet(rig, buyer)
    async with rig.working():
        assert (await post(rig, *by_wallet(stranger, wallet))).status_code == 202
        await rig.until_counts(payments_failed=1)
        assert await rig.pool.fetchval("SELECT error_code FROM payment_queue") == "invalid_exact_evm_payload_signature"
        await rig.until(finds(rig, "SELECT count(*) = 0 FROM wallet_payments"))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0
    await rig.check_invariants()


async def test_a_wallet_that_is_not_deployed_is_told_so_and_its_factory_never_called(taking: Rig) -> None:
    """ERC-6492: payfirst signs no call that a buyer chose."""
    rig = taking
    (buyer,) = await rig.buyers(1)
    await rig.chain.fund_usdc([NOBODY], ENOUGH)
    authorization, signature = by_wallet(buyer, NOBODY)
    async with rig.working():
        assert (await post(rig, authorization, wrapped(signature))).status_code == 202
        await rig.until_counts(payments_failed=1)
    assert "deploy it (its first transaction does)" in await rig.pool.fetchval("SELECT error FROM payment_queue")
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0


async def test_a_flood_of_unverified_payments_is_bounded(taking: Rig) -> None:
    """The fifth of one wallet is told to wait; a payment by a key is not."""
    rig = taking
    (buyer, honest) = await rig.buyers(2)
    async with rig.working(settling_paused=True):
        answers = [await post(rig, *by_wallet(buyer, NOBODY)) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 202, 429]
        assert answers[-1].json()["code"] == "too_many_payments"
        await rig.pay(honest)


@pytest.mark.slow
async def test_fault_36_an_account_delegated_between_pre_flight_and_block_burns_one_batch(taking: Rig) -> None:
    """The siblings settle in the next block; the burner is set apart, burns one of its own, and is refused."""
    rig = taking
    buyers = await rig.buyers(20)
    burner = buyers[3]
    await rig.chain.fund_gas([burner.address], Wei(10**18))
    code = await rig.chain.deploy(compiled_for_tests("BurnWallet"))
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
            # The node mines first what came first: the batch is forgotten, and sent again behind the delegation.
            await forget_all(rig.chain)
            await delegate_and_arm(rig.chain, burner, code)
            await block(rig.chain)
            assert len(await rig.chain.rpc.call("eth_getCode", hex_text(burner.address), "latest", result=str)) == 48
        await rig.until_counts(within_s=60, payments_completed=19, mints_completed=19, payments_failed=1)
        await rig.until(idle(rig))
        apart = await rig.pool.fetch("SELECT payer, burns FROM quarantined_payers")
        assert [tuple(row) for row in apart] == [(hex_text(burner.address), 1)]
        failed = await rig.pool.fetchval("SELECT error_code FROM payment_queue WHERE status = 'failed'")
        assert failed == "payer_quarantined"
        # The batch, and its own: not one more.
        sent = await rig.pool.fetchval(
            "SELECT count(*) FROM chain_transaction_items i JOIN payment_queue p ON p.id = i.payment_id"
            " WHERE p.payer = $1",
            hex_text(burner.address),
        )
        assert sent == 2

        async def refused() -> bool:
            answer = await rig.order(burner)
            return answer.status_code == 429 and answer.json()["code"] == "payer_quarantined"

        await rig.until(refused)
        await rig.pay(buyers[0])
        await rig.until_counts(payments_completed=20, mints_completed=20)
        await rig.until(idle(rig))
    await rig.check_invariants()
