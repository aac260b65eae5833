"""RPC endpoints that lose, repeat, refuse, lag and lie while payments are on their way."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from aiohttp import web
from flow.rig import PAY_TO, PRICE, Rig

from payfirst.units import hex_text

from .rig.rpc_lies import InventedTransfer, boasts_of_its_height, invents_logs, lags, withholds_logs
from .rig.rpc_proxy import (
    Asked,
    Fault,
    Forward,
    delays,
    drops,
    duplicates,
    garbage,
    honest,
    loses_reply,
    only,
    reorders,
    respond,
    rpc_proxy,
    status,
    times,
)
from .waiting import idle

BROADCAST = "eth_sendRawTransaction"


async def sells_through(rig: Rig, fault: Fault) -> None:
    """Two payments settle and are minted through an endpoint with this fault, with one hash for each nonce."""
    buyers = await rig.buyers(2)
    await rig.chain.mine(8)  # their money is there also for a node that lags
    async with rpc_proxy(rig.chain.url) as proxy, rig.working(rpc_urls=(proxy.url,)):
        proxy.fault = fault
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until_counts(payments_completed=2, mints_completed=4)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT count(*) = count(DISTINCT transaction_id) FROM chain_attempts")
    await rig.check_invariants()


@pytest.mark.parametrize(
    "fault",
    [
        only(BROADCAST, loses_reply),
        pytest.param(times(1, drops, method=BROADCAST), marks=pytest.mark.slow),
        pytest.param(times(1, status(502), method=BROADCAST), marks=pytest.mark.slow),
        pytest.param(times(1, garbage, method=BROADCAST), marks=pytest.mark.slow),
    ],
    ids=["reply lost", "connection reset", "502", "garbage"],
)
async def test_fault_05_a_broadcast_without_an_answer_is_unknown_and_not_failed(rig: Rig, fault: Fault) -> None:
    """Whether it went through or not: the same bytes are looked for by hash, and sent again if nobody has them."""
    await sells_through(rig, fault)


def says(message: str) -> Fault:
    """The node takes the transaction, and then says this of it."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        await forward(asked)
        return respond(asked, [{"error": {"code": -32000, "message": message}} for _ in asked.calls])

    return fault


@pytest.mark.parametrize(
    "fault",
    [only(BROADCAST, duplicates), only(BROADCAST, says("nonce too low")), only(BROADCAST, says("already known"))],
    ids=["sent twice", "nonce too low", "already known"],
)
async def test_fault_06_what_a_node_says_against_our_own_transaction_decides_nothing(rig: Rig, fault: Fault) -> None:
    """The transaction it speaks of is ours: hash and logs decide."""
    await sells_through(rig, fault)


async def test_fault_17_a_lagging_node_delays_and_fails_nothing(rig: Rig) -> None:
    """Eight blocks behind in every answer: no receipt yet is no failure."""
    await sells_through(rig, lags(8))


@pytest.mark.slow
async def test_fault_17_a_node_that_is_now_behind_and_now_is_not(rig: Rig) -> None:
    """Behind a balancer, every third answer is five blocks old: the head does not go back, nothing is undone."""
    behind, turn = lags(5), itertools.count()

    async def balancer(asked: Asked, forward: Forward) -> web.Response:
        return await (behind if next(turn) % 3 == 0 else honest)(asked, forward)

    await sells_through(rig, balancer)
    assert await rig.pool.fetchval("SELECT max(attempts) FROM payment_queue") == 1


@pytest.mark.parametrize(
    "fault",
    [duplicates, pytest.param(reorders(), marks=pytest.mark.slow), pytest.param(delays(0.3), marks=pytest.mark.slow)],
    ids=["everything twice", "out of order", "slow"],
)
async def test_a_wire_that_repeats_reorders_and_delays_is_survived(rig: Rig, fault: Fault) -> None:
    """Every message of every kind."""
    await sells_through(rig, fault)


async def test_fault_28_rate_limits_and_failures_move_the_calls_and_no_row(rig: Rig) -> None:
    """The first endpoint answers 429 from one moment on: the second is asked, and every payment goes its way."""
    buyers = await rig.buyers(4)
    async with (
        rpc_proxy(rig.chain.url) as one,
        rpc_proxy(rig.chain.url) as other,
        rig.working(rpc_urls=(one.url, other.url)),
    ):
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
        one.fault = status(429, Retry_After="60")
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[1:]))
        await rig.until_counts(payments_completed=4, mints_completed=4)
        await rig.until(idle(rig))
        assert BROADCAST in other.methods()
    assert await rig.pool.fetchval("SELECT max(attempts) FROM payment_queue") == 1
    await rig.check_invariants()


async def test_fault_28_a_head_that_nobody_has_changes_no_row(rig: Rig) -> None:
    """An endpoint boasts of fifty blocks that are not there; nothing is believed of them, and the truth is followed."""
    buyers = await rig.buyers(2)
    async with rpc_proxy(rig.chain.url) as proxy, rig.working(rpc_urls=(proxy.url,)):
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
        proxy.fault = boasts_of_its_height(50)
        seen = len(proxy.seen)

        async def ten_lies_told() -> bool:
            return len(proxy.seen) > seen + 10

        await rig.until(ten_lies_told)
        assert await rig.counts() == {"payments_completed": 1, "mints_completed": 1}
        proxy.fault = honest
        await rig.pay(buyers[1])
        await rig.until_counts(payments_completed=2, mints_completed=2)
        await rig.until(idle(rig))
    await rig.check_invariants()


async def test_fault_37_a_log_whose_receipt_nobody_has_is_no_evidence(rig: Rig) -> None:
    """An endpoint invents the transfer that would pay an order of an empty account: nothing is credited for it."""
    (poor,) = await rig.buyers(1, funds=PRICE * 0)  # type: ignore[arg-type]  # no money
    async with rpc_proxy(rig.chain.url) as proxy, rig.working(rpc_urls=(proxy.url,)):
        proxy.fault = invents_logs(
            InventedTransfer(
                asset=hex_text(rig.chain.usdc), payer=hex_text(poor.address), pay_to=hex_text(PAY_TO), value=int(PRICE)
            )
        )
        await rig.pay(poor)
        before = (await rig.chain.rpc.head()).number

        async def blocks_pass() -> bool:
            return (await rig.chain.rpc.head()).number >= before + 6

        await rig.until(blocks_pass)
        assert await rig.pool.fetchval("SELECT count(*) FROM mint_queue") == 0
        proxy.fault = honest
        await rig.until_counts(payments_failed=1)
    await rig.check_invariants()


async def test_fault_37_a_withheld_log_delays_our_own_payment_at_most(rig: Rig) -> None:
    """Receipts of our own transactions are read by hash: what eth_getLogs keeps back is credited all the same."""
    await sells_through(rig, withholds_logs())
