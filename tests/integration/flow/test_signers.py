"""Signers: several side by side, bids raised, nonces given up, and one without gas money that rests."""

from __future__ import annotations

from payfirst.chain.abi import encode_call
from payfirst.local.chain import dev_address, dev_key
from payfirst.units import AtomicAmount, Wei, hex_text, keccak

from .rig import Rig

GWEI = 10**9


async def test_several_signers_settle_and_mint_side_by_side(rig: Rig) -> None:
    """Each with nonces of its own; nothing is settled or minted twice."""
    rig.settle_signers, rig.mint_signers = ("settle", "settle 2"), ("mint", "mint 2")
    await rig.chain.fund_gas([dev_address(name) for name in ("settle 2", "mint 2", "seller")], Wei(10**20))
    grant = encode_call("grantRole(bytes32,address)", keccak(b"MINTER_ROLE"), dev_address("mint 2"))
    await rig.chain.send(rig.token, grant, dev_key("seller"))
    buyers = await rig.buyers(40)
    async with rig.working(settle_batch_max=4, mint_batch_max=5):
        for buyer in buyers:
            await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=40, mints_completed=80)
    used = await rig.pool.fetch("SELECT purpose, count(DISTINCT signer) FROM chain_transactions GROUP BY purpose")
    assert {row[0]: row[1] for row in used} == {"settle": 2, "mint": 2}
    await rig.check_invariants()


async def test_fault_22_a_bid_that_the_base_fee_has_outgrown_is_raised_under_the_same_nonce(rig: Rig) -> None:
    """The stored call again; the hash that is mined settles the payment, and the row names it."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(max_fee=Wei(500 * GWEI)):
        await rig.chain.set_interval(0)
        await rig.chain.set_automine(False)
        payment_id = await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        # Two blocks that a bid of that time cannot get into.
        for _ in range(2):
            await rig.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(20 * GWEI), result=object)
            await rig.chain.rpc.call("evm_increaseTime", 10, result=object)
            await rig.chain.rpc.call("anvil_mine", 1, result=object)

        async def raised() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) = 2 FROM chain_attempts"))

        await rig.until(raised)
        newest = "SELECT hash FROM chain_attempts ORDER BY max_fee_per_gas_wei DESC LIMIT 1"
        assert (await rig.payment(payment_id))["txHash"] == await rig.pool.fetchval(newest)
        await rig.chain.set_interval(1)
        await rig.until_counts(mints_completed=1)
    rows = await rig.pool.fetch("SELECT account_nonce, mined_hash FROM chain_transactions WHERE purpose = 'settle'")
    assert len(rows) == 1
    await rig.check_invariants()


async def test_fault_23_an_authorization_that_ended_unmined_gives_its_nonce_up(rig: Rig) -> None:
    """A no-op takes the nonce; the payment fails by expiry, and later ones go through."""
    late, prompt = await rig.buyers(2)
    async with rig.working(abandon_after_s=10_000):
        await rig.chain.set_interval(0)
        await rig.chain.set_automine(False)
        head = await rig.chain.rpc.head()
        await rig.order(late, authorization=late.authorize(seconds=300, chain_time=head.time))
        await rig.until_counts(payments_sent=1)
        # The node forgets it, and blocks pass without it until it has ended.
        await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
        await rig.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(40 * GWEI), result=object)
        await rig.chain.rpc.call("evm_increaseTime", 400, result=object)
        await rig.chain.rpc.call("anvil_mine", 1, result=object)

        async def given_up() -> bool:
            return bool(await rig.pool.fetchval("SELECT count(*) > 0 FROM chain_attempts WHERE is_noop"))

        async def a_block_passes() -> bool:
            await rig.chain.rpc.call("evm_increaseTime", 10, result=object)
            await rig.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(40 * GWEI), result=object)
            await rig.chain.rpc.call("anvil_dropAllTransactions", result=object)
            await rig.chain.rpc.call("anvil_mine", 1, result=object)
            return await given_up()

        await rig.until(a_block_passes)
        await rig.chain.set_interval(1)
        await rig.until_counts(payments_failed=1)
        await rig.order(prompt, authorization=prompt.authorize(chain_time=(await rig.chain.rpc.head()).time))
        await rig.until_counts(payments_failed=1, payments_completed=1, mints_completed=1)
    await rig.check_invariants()


async def test_fault_22_an_empty_signer_rests_while_others_go_on_and_wakes_when_funded(rig: Rig) -> None:
    """What it had claimed goes to the others; no account nonce is spent on what cannot be paid for."""
    rig.settle_signers = ("empty", "settle")
    buyers = await rig.buyers(6)
    async with rig.working():
        for buyer in buyers[:5]:
            await rig.pay(buyer)
        await rig.until_counts(mints_completed=5)
        empty = hex_text(dev_address("empty"))

        async def rests() -> bool:
            reason = await rig.pool.fetchval("SELECT paused_reason FROM signers WHERE address = $1", empty)
            return reason is not None and "send it gas money" in reason

        async def works() -> bool:
            held = "SELECT paused_reason IS NULL AND lease_until > now() FROM signers WHERE address = $1"
            return bool(await rig.pool.fetchval(held, empty))

        async def rests_after_one_more() -> bool:
            await rig.pay(buyers[5])
            return await rests()

        await rig.until(rests_after_one_more)
        await rig.chain.fund_gas([dev_address("empty")], Wei(10**20))
        await rig.until(works)
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions WHERE signer = $1", empty) == 0


async def test_an_open_transaction_of_an_operator_holds_up_its_own_rows_only(rig: Rig) -> None:
    """The round that met a locked row gives it up soon; from the next one on, what is locked is passed over."""
    buyers = await rig.buyers(4)
    async with rig.working():
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
    locked = await rig.pay(buyers[1])
    await rig.pay(buyers[2])
    async with rig.pool.acquire() as operator, operator.transaction():
        await operator.execute("UPDATE payment_queue SET error = 'looked at by hand' WHERE id = $1", locked)
        async with rig.working():
            await rig.until_counts(within_s=20, mints_completed=2)
            await rig.pay(buyers[3])
            await rig.until_counts(within_s=20, mints_completed=3, payments_pending=1)
    async with rig.working():
        await rig.until_counts(mints_completed=4)
    await rig.check_invariants()


async def test_a_locked_payment_that_would_be_put_off_holds_up_nobody_either(rig: Rig) -> None:
    """Its payer has no money: what is written back waits for the row no longer than what is sent."""
    (buyer,), (poor,) = await rig.buyers(1), await rig.buyers(1, funds=AtomicAmount(0))
    unpaid = rig.new_payment(poor)
    async with rig.working():
        pass  # that the chain has been seen
    assert await rig.insert([unpaid, rig.new_payment(buyer)]) == 2
    async with rig.pool.acquire() as operator, operator.transaction():
        await operator.execute("UPDATE payment_queue SET error = 'looked at by hand' WHERE id = $1", unpaid.id)
        async with rig.working():
            await rig.until_counts(within_s=20, mints_completed=1, payments_pending=1)
    async with rig.working():
        await rig.until_counts(payments_failed=1)
    await rig.check_invariants()
