"""Mint ids used before the worker came: no unit is minted twice, none is forgotten, none takes others along."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from contracts.token import compiled_for_tests

from payfirst.chain.abi import encode_call
from payfirst.chain.contracts import encode_mint
from payfirst.local.chain import dev_address, dev_key
from payfirst.store.database import Pool
from payfirst.units import Address, MintId, TxHash, Wei, hex_text, keccak
from payfirst.x402.mint_id import mint_id
from payfirst.x402.payload import Authorization

from .rig import MINT_AMOUNT, NETWORK, Rig, open_rig

MINTER_ROLE = keccak(b"MINTER_ROLE")
FINAL_DEPTH = 2


@pytest.fixture
async def strict(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """A rig whose token reverts a whole batch on one used id; the seller may mint as well."""
    async with open_rig(database_url, pool, contract=compiled_for_tests("RevertingMintToken")) as rig:
        await rig.chain.fund_gas([dev_address("seller")], Wei(10**20))
        grant = encode_call("grantRole(bytes32,address)", MINTER_ROLE, dev_address("seller"))
        await rig.chain.send(rig.token, grant, dev_key("seller"))
        yield rig


def unit_id(rig: Rig, authorization: Authorization, unit: int) -> MintId:
    """The mint id of a payment's unit."""
    return mint_id(
        chain_id=NETWORK.chain_id,
        token=rig.token,
        asset=rig.chain.usdc,
        payer=authorization.payer,
        nonce=authorization.nonce,
        unit=unit,
    )


async def mint_by_hand(rig: Rig, recipient: Address, unit: MintId) -> TxHash:
    """The seller mints a unit with a key of their own."""
    receipt = await rig.chain.send(rig.token, encode_mint(recipient, unit), dev_key("seller"))
    assert receipt.succeeded
    return receipt.tx_hash


async def tx_hash_of(rig: Rig, unit: MintId) -> str:
    """The transaction by which a unit is said to have been minted."""
    return str(await rig.pool.fetchval("SELECT mint_tx_hash FROM mint_queue WHERE mint_id = $1", hex_text(unit)))


async def test_a_used_id_holds_up_no_other_unit_of_a_batch_that_reverts_as_a_whole(strict: Rig) -> None:
    """One of six units was minted by hand: all six end completed, each minted once, that one with its own hash."""
    buyers = await strict.buyers(3)
    authorizations = [buyer.authorize(2) for buyer in buyers]
    async with strict.working():
        pass
    for buyer, authorization in zip(buyers, authorizations, strict=True):
        assert (await strict.order(buyer, 2, authorization=authorization)).status_code == 202
    by_hand = unit_id(strict, authorizations[1], 1)
    hand_hash = await mint_by_hand(strict, buyers[1].address, by_hand)
    async with strict.working(final_depth=FINAL_DEPTH):
        await strict.until_counts(payments_completed=3, mints_completed=6)
    assert await tx_hash_of(strict, by_hand) == hex_text(hand_hash)
    for buyer in buyers:
        assert await strict.balance(strict.token, buyer.address) == 2 * MINT_AMOUNT
    assert all(row["succeeded"] for row in await strict.gas_used("mint"))
    assert await strict.pool.fetchval("SELECT held_reason FROM tokens") is None
    await strict.check_invariants(in_order=False)


async def test_an_id_used_while_the_batch_is_under_way_costs_one_transaction_and_no_unit(strict: Rig) -> None:
    """Pre-flight was fine, the mined batch reverts: its other units are sent anew, the used one is found."""
    (buyer,) = await strict.buyers(1)
    authorization = buyer.authorize(3)
    async with strict.working(final_depth=FINAL_DEPTH):
        await strict.order(buyer, 3, authorization=authorization)

        async def paid_and_seen() -> bool:
            return (await strict.counts()).get("payments_sent") == 1

        await strict.until(paid_and_seen)
        used = unit_id(strict, authorization, 0)
        await strict.chain.set_automine(False)
        await strict.chain.mine(1)

        async def minting() -> bool:
            return (await strict.counts()).get("mints_sent") == 3

        await strict.until(minting)
        hand_hash = await ahead_of_the_pool(strict, encode_mint(buyer.address, used))
        await strict.chain.set_interval(1)
        await strict.until_counts(mints_completed=3)
    assert await tx_hash_of(strict, used) == hex_text(hand_hash)
    assert [row["succeeded"] for row in await strict.gas_used("mint")].count(False) == 1
    assert await strict.balance(strict.token, buyer.address) == 3 * MINT_AMOUNT
    await strict.check_invariants()


async def ahead_of_the_pool(rig: Rig, data: bytes) -> TxHash:
    """Mine a call of the seller's before what the worker has sent, which it sends again."""
    seller = hex_text(dev_address("seller"))
    await rig.chain.rpc.call("anvil_impersonateAccount", seller, result=object)
    await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
    fields = {"from": seller, "to": hex_text(rig.token), "data": hex_text(data), "gas": "0x50000"}
    sent = await rig.chain.rpc.call("eth_sendTransaction", fields, result=str)
    await rig.chain.mine(1)
    return TxHash(bytes.fromhex(sent[2:]))
