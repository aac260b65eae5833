"""Account nonces: used by others, miscounted by a node, priced out of the block, forgotten by the pool."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from flow.rig import Rig

from payfirst.cli.audit import Asked, compare
from payfirst.local.chain import dev_address, dev_key
from payfirst.pipeline.audit_kinds import Kind
from payfirst.units import TxHash, Wei

from .rig.boundary import Boundary, Cut, naming
from .rig.chain import block, forget, forget_all, no_mining, waiting_in_pool
from .rig.rpc_lies import miscounts_nonces
from .rig.rpc_proxy import honest, rpc_proxy
from .waiting import finds, idle, rows

GWEI = 10**9


@pytest.mark.parametrize(
    ("victim", "key"), [(1, "settle"), pytest.param(2, "mint", marks=pytest.mark.slow)], ids=["settling", "minting"]
)
async def test_fault_07_a_nonce_that_a_foreign_transaction_used_is_given_up_once_that_is_final(
    rig: Rig, log_lines: io.StringIO, victim: int, key: str
) -> None:
    """Somebody else signs with our key, just before our broadcast: what it carried is sent under the next nonce."""
    (buyer,) = await rig.buyers(1)

    async def comes_first() -> None:
        await rig.chain.send(dev_address("stranger"), b"", dev_key(key), gas=21_000)
        raise Cut

    async with rpc_proxy(rig.chain.url) as proxy, rig.working(rpc_urls=(proxy.url,), final_depth=4):
        proxy.boundary = Boundary(victim, "before", comes_first, counts=naming("eth_sendRawTransaction"))
        await rig.pay(buyer, 2)
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    # Given up, or, when an audit came by first, known by the hash that the nonce has on chain: of no effect either way.
    given_up, adopted = (word in log_lines.getvalue() for word in ("nonce_used_by_other", "transaction_adopted"))
    states = "SELECT account_nonce::int, state = 'displaced' FROM chain_transactions WHERE purpose = $1 ORDER BY 1"
    assert await rows(rig, states, key) == [(0, not adopted), (1, False)]
    assert given_up != adopted
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_07_nothing_is_planned_anew_before_that_is_final(rig: Rig) -> None:
    """A reorg could still take the foreign transaction, and ours would count: it waits, an audit's repair too."""
    (buyer,) = await rig.buyers(1)

    async def comes_first() -> None:
        await rig.chain.send(dev_address("stranger"), b"", dev_key("settle"), gas=21_000)
        raise Cut

    async with rpc_proxy(rig.chain.url) as proxy, rig.working(rpc_urls=(proxy.url,), final_depth=500):
        proxy.boundary = Boundary(1, "before", comes_first, counts=naming("eth_sendRawTransaction"))
        await rig.pay(buyer)
        await rig.until(finds(rig, "SELECT max(broadcast_count) >= 1 FROM chain_attempts"))
        before = (await rig.chain.rpc.head()).number

        async def ten_blocks_on() -> bool:
            return (await rig.chain.rpc.head()).number >= before + 10

        await rig.until(ten_blocks_on)
        terms = replace(rig.terms, final_depth=500)
        audited = await compare(terms, (rig.chain.url,), rig.database_url, Asked(0, None), seconds=3_600, repair=True)
        assert [f.kind for f in audited.findings] == [Kind.TRANSACTION_UNKNOWN]
        assert await rig.counts() == {"payments_sent": 1}
    await rig.check_invariants(ended=False)


@pytest.mark.slow
async def test_fault_08_the_replaced_transaction_is_the_one_that_is_mined(rig: Rig) -> None:
    """Bid higher, and then the first bytes come into a block after all: they settle the payment."""
    (buyer,) = await rig.buyers(1)
    async with rig.working(max_fee=Wei(500 * GWEI)):
        async with no_mining(rig.chain):
            await rig.pay(buyer)
            await rig.until_counts(payments_sent=1)
            for _ in range(2):
                await block(rig.chain, base_fee=20 * GWEI, after_s=10)
            await rig.until(finds(rig, "SELECT count(*) = 2 FROM chain_attempts"))
            first = await rig.pool.fetchrow("SELECT hash, signed_bytes FROM chain_attempts ORDER BY created_at LIMIT 1")
            assert first is not None
            await forget_all(rig.chain)
            await block(rig.chain, base_fee=GWEI // 2)
            await rig.chain.rpc.broadcast(first["signed_bytes"])
            await block(rig.chain)
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT tx_hash FROM payment_queue") == first["hash"]
    await rig.check_invariants()


async def test_fault_18_a_node_that_counts_too_few_nonces_changes_nothing(rig: Rig) -> None:
    """The database is the authority: the next nonce is its own, whatever a stale node says."""
    buyers = await rig.buyers(3)
    stale = miscounts_nonces(lambda _: 0)
    async with rpc_proxy(rig.chain.url, stale) as proxy, rig.working(rpc_urls=(proxy.url,)):
        for done, buyer in enumerate(buyers, start=1):
            await rig.pay(buyer)
            await rig.until_counts(payments_completed=done, mints_completed=done)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 6
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_18_a_node_that_counts_too_many_leaves_a_gap_that_is_filled(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """No-ops take the nonces that it made us skip; without them nothing of this signer would ever be mined."""
    (buyer,) = await rig.buyers(1)
    inflated = miscounts_nonces(lambda n: n + 2)
    async with rpc_proxy(rig.chain.url, inflated) as proxy, rig.working(rpc_urls=(proxy.url,)):
        await rig.pay(buyer)
        await rig.until_counts(payments_sent=1)
        proxy.fault = honest
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(idle(rig))
    nonces = "SELECT account_nonce::int, item_count FROM chain_transactions WHERE purpose = 'settle' ORDER BY 1"
    assert await rows(rig, nonces) == [(0, 0), (1, 0), (2, 1)]
    assert "nonce_gap_filled" in log_lines.getvalue()
    await rig.check_invariants()


async def test_fault_22_above_the_fee_cap_rows_wait_and_no_nonce_is_spent(rig: Rig, log_lines: io.StringIO) -> None:
    """The base fee rises above network.max_fee_gwei before anything was sent, and falls again."""
    (buyer,) = await rig.buyers(1)

    async def is_said() -> bool:
        return "is above network.max_fee_gwei" in log_lines.getvalue()

    async with rig.working(max_fee=Wei(2 * GWEI)):
        async with no_mining(rig.chain):
            await block(rig.chain, base_fee=8 * GWEI)
            height = (await rig.chain.rpc.head()).number
            await rig.until(finds(rig, "SELECT head_height >= $1 FROM chain_heads", height))
            await rig.pay(buyer)
            await rig.until(is_said)
            assert await rig.counts() == {"payments_pending": 1}
            assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0
            for _ in range(20):  # an eighth less with each empty block
                await block(rig.chain)
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(idle(rig))
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_23_a_gap_in_the_pool_is_closed_with_the_same_bytes(rig: Rig) -> None:
    """The first of three is evicted, so that the others cannot be mined: it is sent again, and all are."""
    buyers = await rig.buyers(3)
    async with rig.working(settle_mode="single"):
        async with no_mining(rig.chain):
            await asyncio.gather(*(rig.pay(buyer) for buyer in buyers))
            await rig.until(finds(rig, "SELECT count(*) = 3 FROM chain_attempts WHERE broadcast_count > 0"))
            await forget(rig.chain, await hash_of_nonce(rig, 0))
            assert await waiting_in_pool(rig.chain) == 0
            await rig.until(_waiting(rig, 3))
        await rig.until_counts(payments_completed=3, mints_completed=3)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) = count(DISTINCT transaction_id) FROM chain_attempts")
    await rig.check_invariants()


async def test_fault_31_a_transaction_dropped_without_a_word_is_sent_again(rig: Rig) -> None:
    """The node acknowledged it and forgot it: found by hash, the same bytes once more."""
    (buyer,) = await rig.buyers(1)
    async with rig.working():
        async with no_mining(rig.chain):
            await rig.pay(buyer)
            await rig.until(finds(rig, "SELECT count(*) = 1 FROM chain_attempts WHERE broadcast_count > 0"))
            await forget(rig.chain, await hash_of_nonce(rig, 0))
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT max(broadcast_count) FROM chain_attempts") == 2
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 2
    await rig.check_invariants()


async def hash_of_nonce(rig: Rig, nonce: int) -> TxHash:
    """The hash of a settling transaction."""
    found = await rig.pool.fetchval(
        "SELECT a.hash FROM chain_attempts a JOIN chain_transactions t ON t.id = a.transaction_id"
        " WHERE t.purpose = 'settle' AND t.account_nonce = $1",
        nonce,
    )
    return TxHash(bytes.fromhex(found[2:]))


def _waiting(rig: Rig, count: int) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await waiting_in_pool(rig.chain) == count

    return holds
