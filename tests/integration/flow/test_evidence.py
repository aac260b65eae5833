"""Whose money it was, and whether it is there: the chain's logs decide, never our own hash or a receipt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from payfirst.chain.abi import encode_call
from payfirst.local.chain import DEV_OWNER_KEY
from payfirst.store.database import Pool
from payfirst.units import Address, Wei, hex_text
from payfirst.x402.payload import Authorization

from .rig import MINT_AMOUNT, PRICE, Buyer, Rig, open_rig, transfer

FRIEND = Address(b"\x77" * 20)


def settled(rig: Rig) -> Callable[[], Awaitable[bool]]:
    """Whether no payment is pending or sent."""

    async def holds() -> bool:
        found = await rig.counts()
        return not found.get("payments_pending") and not found.get("payments_sent")

    return holds


async def test_fault_09_money_that_anyone_else_submitted_is_credited_once_and_minted_to_the_payer(rig: Rig) -> None:
    """A stranger settles an accepted payment first: paid, under that hash, and never minted to the recipient."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(2)
    async with rig.working(settling_paused=True):
        response = await rig.order(buyer, 2, authorization=authorization, recipient=FRIEND)
        assert response.status_code == 202
    receipt = await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
    async with rig.working():
        await rig.until_counts(payments_completed=1, mints_completed=2)
    assert await rig.pool.fetchval("SELECT tx_hash FROM payment_queue") == "0x" + receipt.tx_hash.hex()
    assert await rig.balance(rig.token, buyer.address) == 2 * MINT_AMOUNT
    assert await rig.balance(rig.token, FRIEND) == 0
    await rig.check_invariants()


async def test_fault_34_an_authorization_used_before_it_was_accepted_is_refused(rig: Rig) -> None:
    """Copied from public calldata and posted here: no second credit."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize()
    await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
    async with rig.working():
        response = await rig.order(buyer, 1, authorization=authorization)
        assert response.status_code == 202
        await rig.until_counts(payments_failed=1)
    assert await rig.pool.fetchval("SELECT error_code FROM payment_queue") == "invalid_exact_evm_nonce_already_used"
    assert await rig.pool.fetchval("SELECT count(*) FROM mint_queue") == 0


async def test_fault_10_a_cancelled_authorization_fails_without_a_mint(rig: Rig) -> None:
    """authorizationState says used for cancelled ones too; only the log tells."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize()
    async with rig.working(settling_paused=True):
        await rig.order(buyer, 1, authorization=authorization)
    await rig.chain.send(rig.chain.usdc, await cancel(rig, buyer, authorization))
    async with rig.working():
        await rig.until_counts(payments_failed=1)
    assert await rig.pool.fetchval("SELECT error_code FROM payment_queue") == "invalid_exact_evm_nonce_already_used"
    await rig.check_invariants()


async def cancel(rig: Rig, buyer: Buyer, authorization: Authorization) -> bytes:
    """The calldata of cancelAuthorization, signed by the payer (EIP-3009)."""
    from coincurve import PrivateKey

    from payfirst.units import keccak

    typehash = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak(typehash + bytes(12) + buyer.address + authorization.nonce)
    digest = keccak(b"\x19\x01" + rig.asset.domain_separator + struct)
    signature = PrivateKey(buyer.key).sign_recoverable(digest, hasher=None)
    v, r, s = signature[64] + 27, signature[:32], signature[32:64]
    call = "cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"
    return encode_call(call, buyer.address, authorization.nonce, v, r, s)


async def test_fault_32_money_that_comes_after_a_payment_failed_is_credited(rig: Rig) -> None:
    """An empty account fails; later it is funded and anyone submits the authorization."""
    (buyer,) = await rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money
    authorization = buyer.authorize(2)
    async with rig.working():
        await rig.order(buyer, 2, authorization=authorization)
        await rig.until_counts(payments_failed=1)
        await rig.chain.fund_usdc([buyer.address], PRICE * 2)  # type: ignore[arg-type]  # an amount
        await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
        await rig.until_counts(payments_completed=1, mints_completed=2)
    await rig.check_invariants()


async def test_fault_25_32_late_money_for_a_sold_out_token_is_owed(rig: Rig) -> None:
    """What cannot be delivered is named, never missing."""
    (buyer,) = await rig.buyers(1, funds=0)  # type: ignore[arg-type]  # no money
    authorization = buyer.authorize(2)
    async with rig.working():
        await rig.order(buyer, 2, authorization=authorization)
        await rig.until_counts(payments_failed=1)
        await rig.pool.execute("UPDATE tokens SET reserved = max_mint_count - minted")
        await rig.chain.fund_usdc([buyer.address], PRICE * 2)  # type: ignore[arg-type]  # an amount
        await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
        await rig.until_counts(payments_completed=1, mints_owed=2)
    owed = await rig.pool.fetch("SELECT direction, amount::int8, reason, beneficiary, unit FROM owed ORDER BY unit")
    assert [tuple(row) for row in owed] == [
        ("to_buyer", 10_000, "no_supply", "0x" + buyer.address.hex(), unit) for unit in (0, 1)
    ]


async def test_fault_12_26_an_authorization_that_expires_in_the_queue_fails_by_block_time(rig: Rig) -> None:
    """No worker until validBefore has passed; the clock that counts is the chain's."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(settling_paused=True):
        head = await rig.chain.rpc.head()
        response = await rig.order(buyer, 1, authorization=buyer.authorize(seconds=100, chain_time=head.time))
        assert response.status_code == 202, response.text
    await rig.chain.rpc.call("evm_increaseTime", 200, result=object)
    await rig.chain.mine(1)
    async with rig.working():
        await rig.until_counts(payments_failed=1)
    code = await rig.pool.fetchval("SELECT error_code FROM payment_queue")
    assert code == "invalid_exact_evm_payload_authorization_valid_before"
    assert await rig.gas_used("settle") == []
    await rig.check_invariants()


async def test_fault_14_a_paused_asset_holds_the_queue_and_loses_nothing(rig: Rig) -> None:
    """Nobody's payment fails because the stablecoin is paused."""
    (buyer,) = await rig.buyers(1)
    await rig.chain.send(rig.chain.usdc, encode_call("pause()"), DEV_OWNER_KEY)
    async with rig.working():
        await rig.pay(buyer)

        async def postponed() -> bool:
            return bool(await rig.pool.fetchval("SELECT error = 'the asset is paused' FROM payment_queue"))

        await rig.until(postponed)
        assert await rig.counts() == {"payments_pending": 1}
        await rig.chain.send(rig.chain.usdc, encode_call("unpause()"), DEV_OWNER_KEY)
        await rig.until_counts(payments_completed=1, mints_completed=1)
    await rig.check_invariants()


async def test_fault_14_15_a_blacklisted_payer_fails_and_the_others_settle(rig: Rig) -> None:
    """One bad item never takes its batch with it."""
    buyers = await rig.buyers(4)
    await rig.chain.send(rig.chain.usdc, encode_call("blacklist(address)", buyers[1].address), DEV_OWNER_KEY)
    async with rig.working():
        for buyer in buyers:
            await rig.pay(buyer)
        await rig.until_counts(payments_completed=3, payments_failed=1, mints_completed=3)
    assert all(row["succeeded"] for row in await rig.gas_used("settle"))
    await rig.check_invariants()


async def test_fault_15_an_item_that_reverts_inside_a_batch_goes_back_and_its_reason_decides(rig: Rig) -> None:
    """Emptied between pre-flight and block: the siblings settle, this one fails after a second look."""
    buyers = await rig.buyers(3, funds=PRICE)
    await rig.chain.fund_gas([buyers[0].address], Wei(10**18))
    async with rig.working():
        await rig.chain.set_automine(False)
        for buyer in buyers:
            await rig.pay(buyer)

        async def sent() -> bool:
            return (await rig.counts()).get("payments_sent") == 3

        await rig.until(sent)
        empty = encode_call("transfer(address,uint256)", FRIEND, int(PRICE))
        await rig.chain.rpc.call("anvil_impersonateAccount", "0x" + buyers[0].address.hex(), result=object)
        await move_before(rig, buyers[0].address, empty)
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_completed=2, payments_failed=1, mints_completed=2)
    assert (
        await rig.pool.fetchval("SELECT error_code FROM payment_queue WHERE status = 'failed'") == "insufficient_funds"
    )
    outcomes = await rig.pool.fetch("SELECT outcome, count(*) FROM chain_transaction_items GROUP BY 1 ORDER BY 1")
    assert {row["outcome"]: row["count"] for row in outcomes if row["outcome"] == "reverted"} == {"reverted": 1}


async def move_before(rig: Rig, payer: Address, data: bytes) -> None:
    """Empty an account in the next block; what the node drops for it, the worker sends again."""
    fields = {
        "from": "0x" + payer.hex(),
        "to": "0x" + rig.chain.usdc.hex(),
        "data": "0x" + data.hex(),
        "gas": "0x30000",
    }
    pool = await rig.chain.rpc.call("txpool_content", result=dict[str, object])
    assert pool
    await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
    await rig.chain.rpc.call("eth_sendTransaction", fields, result=object)
    await rig.chain.mine(1)


async def test_fault_36_payers_with_code_that_burn_the_pre_flight_hold_up_nobody(database_url: str, pool: Pool) -> None:
    """Together they exceed what the node lets a call burn; the pre-flight halves until the others go on."""
    async with open_rig(database_url, pool, block_gas=10_000_000) as rig, rig.working():
        burners = await rig.buyers(12)
        (honest,) = await rig.buyers(1)
        for burner in burners:
            await rig.chain.set_code(burner.address, b"\xfe")
        await rig.chain.mine(1)  # a pre-flight looks at a block, and the one before knows nothing of the code
        for burner in burners:
            await rig.pay(burner)
        await rig.pay(honest, 2)
        await rig.until_counts(payments_completed=1, mints_completed=2, payments_pending=12)


async def test_a_mint_mined_without_effect_waits_longer_each_time(rig: Rig) -> None:
    """A contract that takes the call and does nothing costs gas on every try; the unit comes when it mints again."""
    (buyer,) = await rig.buyers(1)
    code = await rig.chain.rpc.call("eth_getCode", hex_text(rig.token), "latest", result=str)
    async with rig.working():
        await rig.chain.rpc.call("anvil_setCode", hex_text(rig.token), "0x", result=object)
        await rig.pay(buyer)

        async def tried_twice() -> bool:
            return bool(await rig.pool.fetchval("SELECT attempts >= 2 AND status = 'pending' FROM mint_queue"))

        await rig.until(tried_twice)
        waits = "extract(epoch FROM next_attempt_at - processed_at)::int4"
        delay = await rig.pool.fetchval(f"SELECT {waits} FROM mint_queue")
        await rig.chain.rpc.call("anvil_setCode", hex_text(rig.token), code, result=object)
        await rig.until_counts(mints_completed=1)
    assert delay == 2
    await rig.check_invariants()
