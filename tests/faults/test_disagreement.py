"""Two RPC endpoints, one of which lies: it alone neither credits a payment nor fails one."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from flow.rig import PAY_TO, PRICE, Rig, transfer

from payfirst.chain.abi import encode_call
from payfirst.local.chain import dev_address, dev_key
from payfirst.pipeline import settle
from payfirst.units import AtomicAmount, hex_text

from .rig.boundary import Boundary, Cut, naming
from .rig.chain import block, no_mining
from .rig.rpc_lies import (
    InventedTransfer,
    invents_payment,
    lags,
    miscounts_nonces,
    strips_receipts,
    withholds_logs,
)
from .rig.rpc_proxy import Asked, Fault, Forward, RpcProxy, answers_in, honest, respond, rpc_proxy, status
from .waiting import Holds, finds, idle

AUTHORIZATION_STATE = encode_call("authorizationState(address,bytes32)", dev_address("seller"), bytes(32))[:4].hex()
# How an answer to a pre-flight begins: a block's number and time, the items, the reasons; then 26 bytes an item.
PREFLIGHT_HEADER, PREFLIGHT_ITEM = 19, 26


def rewrites(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Fault:
    """The node's answers, as `change` (of a call and its answer) leaves them."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        answers = answers_in(await forward(asked))
        for call, answer in zip(asked.calls, answers, strict=True):
            if "result" in answer:
                change(call, answer)
        return respond(asked, answers)

    return fault


def calls_all_used(call: dict[str, Any], answer: dict[str, Any]) -> None:
    """Every authorization that a pre-flight asks about is said to be used."""
    if call["method"] != "eth_call" or "to" in call["params"][0]:
        return
    data = bytearray.fromhex(answer["result"][2:])
    for place in range(PREFLIGHT_HEADER, PREFLIGHT_HEADER + PREFLIGHT_ITEM * int.from_bytes(data[16:18])):
        if (place - PREFLIGHT_HEADER) % PREFLIGHT_ITEM == 0:
            data[place] = 1
    answer["result"] = "0x" + data.hex()


def calls_none_used(call: dict[str, Any], answer: dict[str, Any]) -> None:
    """The last authorization whose state is asked for is said to be unused."""
    if call["method"] == "eth_call" and AUTHORIZATION_STATE in call["params"][0]["data"]:
        answer["result"] = answer["result"][:-1] + "0"


@contextlib.asynccontextmanager
async def liar_first(rig: Rig, *, workers: int = 1, **changes: Any) -> AsyncIterator[RpcProxy]:
    """Workers whose preferred endpoint can be made to lie, beside an honest one."""
    async with contextlib.AsyncExitStack() as stack:
        liar = await stack.enter_async_context(rpc_proxy(rig.chain.url))
        other = await stack.enter_async_context(rpc_proxy(rig.chain.url))
        for _ in range(workers):
            await stack.enter_async_context(rig.working(rpc_urls=(liar.url, other.url), **changes))
        yield liar


def told(log_lines: io.StringIO, subject: str) -> Holds:
    """That endpoints do not agree on a subject was logged, with their numbers and hosts and no key."""

    async def holds() -> bool:
        lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
        found = [line for line in lines if line["event"] == "rpc_disagreement" and line["subject"] == subject]
        assert all(line["endpoints"] == ["endpoint 1 (127.0.0.1)", "endpoint 2 (127.0.0.1)"] for line in found)
        return bool(found)

    return holds


async def test_fault_37_an_endpoint_that_calls_authorizations_used_fails_no_payment(
    rig: Rig, log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other finds no fault at the same block: held, said, and settled once they agree."""
    monkeypatch.setattr(settle, "LOOK_UP_AGAIN_S", 0.5)
    (buyer,) = await rig.buyers(1)
    async with liar_first(rig) as liar:
        liar.fault = rewrites(calls_all_used)
        await rig.pay(buyer)
        await rig.until(told(log_lines, "fault"))
        assert await rig.counts() == {"payments_pending": 1}
        liar.fault = honest
        await rig.until_counts(mints_completed=1)
        await rig.until(idle(rig))
    await rig.check_invariants()


async def test_fault_37_money_whose_log_one_endpoint_withholds_is_neither_missed_nor_expired(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """A stranger settles; the preferred endpoint hides it, and calls the authorization unused after its end.

    First the two do not agree on the state, then not on the logs: the payment waits all that time, and is credited.
    """
    (buyer,) = await rig.buyers(1)
    async with liar_first(rig, workers=2, settling_paused=True) as liar:
        head = await rig.chain.rpc.head()
        authorization = buyer.authorize(2, seconds=300, chain_time=head.time)
        assert (await rig.order(buyer, 2, authorization=authorization)).status_code == 202
        unused = rewrites(calls_none_used)

        async def hides_it(asked: Asked, forward: Forward) -> web.Response:
            return await (withholds_logs() if "eth_getLogs" in asked.methods else unused)(asked, forward)

        liar.fault = hides_it
        await rig.chain.send(rig.chain.usdc, transfer(buyer, authorization))
        await block(rig.chain, after_s=600)
        await rig.until(told(log_lines, "expired"))
        liar.fault = withholds_logs()
        await rig.until(told(log_lines, "used"))
        assert await rig.counts() == {"payments_pending": 1}
        liar.fault = honest
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    await rig.check_invariants()


async def test_fault_37_a_payment_is_not_lost_by_the_word_of_one_endpoint(rig: Rig, log_lines: io.StringIO) -> None:
    """It calls the authorization of a reorged payment unused after its end: the other does not, and nothing is owed."""
    (buyer,) = await rig.buyers(1)
    async with liar_first(rig) as liar:
        head = await rig.chain.rpc.head()
        await rig.order(buyer, 1, authorization=buyer.authorize(seconds=300, chain_time=head.time))
        await rig.until_counts(mints_completed=1)
        liar.fault = rewrites(calls_none_used)
        await rig.pool.execute("UPDATE payment_queue SET finality = 'reorged'")
        await block(rig.chain, after_s=600)
        await rig.until(told(log_lines, "lost"))
        assert await rig.pool.fetchval("SELECT finality FROM payment_queue") == "reorged"
        assert await rig.pool.fetchval("SELECT count(*) FROM owed") == 0


@pytest.mark.slow
async def test_fault_18_a_nonce_is_given_up_only_when_two_endpoints_call_it_used(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """Somebody else used it, and one endpoint still counts too few: what it carried waits until both say so."""
    (buyer,) = await rig.buyers(1)

    async def comes_first() -> None:
        await rig.chain.send(dev_address("stranger"), b"", dev_key("settle"), gas=21_000)
        raise Cut

    async with (
        rpc_proxy(rig.chain.url) as one,
        rpc_proxy(rig.chain.url, miscounts_nonces(lambda nonce: max(0, nonce - 1))) as late,
        rig.working(rpc_urls=(one.url, late.url), final_depth=2),
    ):
        await rig.pool.execute("UPDATE chain_heads SET audited_at = now()")  # which would adopt what came first
        one.boundary = Boundary(1, "before", comes_first, counts=naming("eth_sendRawTransaction"))
        late.boundary = Boundary(1, "before", _cut, counts=naming("eth_sendRawTransaction"))
        await rig.pay(buyer)
        await rig.until(told(log_lines, "nonce"))
        assert await rig.counts() == {"payments_sent": 1}
        late.fault = honest
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM chain_transactions WHERE state = 'displaced'"))
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.until(idle(rig))
    await rig.check_invariants()


async def _cut() -> None:
    raise Cut


async def test_fault_37_a_payment_that_one_endpoint_invents_is_not_credited_above_the_sellers_value(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """Log, receipt and block are all told alike by the liar: the other has no such transaction in that block."""
    (poor,) = await rig.buyers(1, funds=AtomicAmount(0))
    authorization = poor.authorize(2)
    invented = InventedTransfer(
        asset=hex_text(rig.chain.usdc), payer=hex_text(poor.address), pay_to=hex_text(PAY_TO), value=int(PRICE) * 2
    )
    async with liar_first(rig, workers=2, agree_amount=AtomicAmount(PRICE * 2)) as liar:
        assert (await rig.order(poor, 2, authorization=authorization)).status_code == 202
        liar.fault = invents_payment(invented, nonce=hex_text(authorization.nonce))
        await rig.until(told(log_lines, "payment"))
        assert await rig.pool.fetchval("SELECT count(*) FROM mint_queue") == 0
        liar.fault = honest
        await rig.until_counts(payments_failed=1)
        await rig.until(finds(rig, "SELECT count(*) = 0 FROM waiting_evidence"))
    await rig.check_invariants()


async def test_fault_37_small_payments_go_on_while_two_endpoints_do_not_agree_on_a_large_one(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """The second has receipts without logs: what is below the value is credited, the rest once they agree."""
    buyers = await rig.buyers(3)
    async with (
        rpc_proxy(rig.chain.url) as one,
        rpc_proxy(rig.chain.url, strips_receipts()) as other,
        rig.working(rpc_urls=(one.url, other.url), agree_amount=AtomicAmount(PRICE * 2)),
    ):
        large = await rig.pay(buyers[0], 2)
        await rig.pay(buyers[1])
        await rig.until(told(log_lines, "payment"))
        await rig.pay(buyers[2])
        await rig.until_counts(payments_completed=2, payments_sent=1, mints_completed=2)
        assert (await rig.payment(large))["status"] == "sent"
        other.fault = honest
        await rig.until_counts(payments_completed=3, mints_completed=4)
        await rig.until(idle(rig))
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_37_receipts_without_logs_from_one_endpoint_fail_nothing(
    rig: Rig, log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own transaction looks as if it had paid nothing: what it carried is neither sold twice nor failed."""
    monkeypatch.setattr(settle, "LOOK_UP_AGAIN_S", 0.5)
    (buyer,) = await rig.buyers(1)
    async with liar_first(rig) as liar:
        liar.fault = strips_receipts()
        await rig.pay(buyer, 2)
        await rig.until(told(log_lines, "used"))
        assert await rig.pool.fetchval("SELECT count(*) FROM payment_queue WHERE status = 'failed'") == 0
        liar.fault = honest
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
    await rig.check_invariants(in_order=False)


@pytest.mark.slow
async def test_fault_37_a_use_below_acceptance_that_one_endpoint_invents_fails_nothing(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """What ends a payment needs the second endpoint whatever its amount."""
    (buyer,) = await rig.buyers(1)
    authorization = buyer.authorize(1)
    invented = InventedTransfer(
        asset=hex_text(rig.chain.usdc), payer=hex_text(buyer.address), pay_to=hex_text(PAY_TO), value=int(PRICE)
    )
    async with liar_first(rig, confirmations=4, settling_paused=True) as liar, no_mining(rig.chain):
        # The block in which it is said to be used is below the height of its acceptance, and is read after it.
        await rig.chain.mine(2)
        await rig.until(finds(rig, "SELECT head_height = $1 FROM chain_heads", (await rig.chain.rpc.head()).number))
        assert (await rig.order(buyer, 1, authorization=authorization)).status_code == 202
        liar.fault = invents_payment(invented, nonce=hex_text(authorization.nonce))
        await block(rig.chain)
        await block(rig.chain)
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM waiting_evidence"))

        async def mined_and_told() -> bool:
            await block(rig.chain)
            return await told(log_lines, "payment")()

        await rig.until(mined_and_told)
        assert await rig.counts() == {"payments_pending": 1}
        liar.fault = honest
        await block(rig.chain)
        await rig.until(finds(rig, "SELECT count(*) = 0 FROM waiting_evidence"))
        assert await rig.counts() == {"payments_pending": 1}


async def test_fault_17_a_second_endpoint_that_lags_delays_what_it_has_to_agree_on(
    rig: Rig, log_lines: io.StringIO
) -> None:
    """It is not there yet, and that is no disagreement."""
    (buyer,) = await rig.buyers(1)
    async with (
        rpc_proxy(rig.chain.url) as one,
        rpc_proxy(rig.chain.url, lags(4)) as behind,
        rig.working(rpc_urls=(one.url, behind.url), agree_amount=AtomicAmount(PRICE)),
    ):
        await rig.pay(buyer, 2)
        await rig.until(finds(rig, "SELECT count(*) = 1 FROM waiting_evidence"))
        seen = await rig.pool.fetchval("SELECT block FROM waiting_evidence")
        await rig.until_counts(payments_completed=1, mints_completed=2)
        assert await rig.pool.fetchval("SELECT cursor_height FROM chain_heads") >= seen + 4
        await rig.until(idle(rig))
    assert "rpc_disagreement" not in log_lines.getvalue()
    await rig.check_invariants()


async def test_nothing_is_asked_twice_where_nothing_has_to_be_agreed_on(rig: Rig) -> None:
    """The second endpoint hears of payments below the value no more than before: heads are compared, that is all."""
    buyers = await rig.buyers(3)
    async with (
        rpc_proxy(rig.chain.url) as one,
        rpc_proxy(rig.chain.url) as other,
        rig.working(rpc_urls=(one.url, other.url), agree_amount=AtomicAmount(PRICE * 2)),
    ):
        for buyer in buyers:
            await rig.pay(buyer)
        await rig.until_counts(payments_completed=3, mints_completed=3)
        assert set(other.methods()) <= {"eth_chainId", "eth_blockNumber"}
        await rig.pay(buyers[0], 2)
        await rig.until_counts(payments_completed=4, mints_completed=5)
        # Of one transaction, once: its block and its receipt.
        assert other.methods().count("eth_getTransactionReceipt") == other.methods().count("eth_getBlockByNumber") == 1
        await rig.until(idle(rig))


@pytest.mark.slow
async def test_fault_28_two_workers_go_on_through_the_endpoint_that_is_left(rig: Rig) -> None:
    """The preferred endpoint answers 429 to both: each goes on with the other, and no payment is tried twice."""
    buyers = await rig.buyers(6)
    async with (
        rpc_proxy(rig.chain.url) as one,
        rpc_proxy(rig.chain.url) as other,
        rig.working(rpc_urls=(one.url, other.url)),
        rig.working(rpc_urls=(one.url, other.url)),
    ):
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
        one.fault = status(429, Retry_After="60")
        for buyer in buyers[1:]:
            await rig.pay(buyer)
        await rig.until_counts(payments_completed=6, mints_completed=6)
        await rig.until(idle(rig))
    assert await rig.pool.fetchval("SELECT max(attempts) FROM payment_queue") == 1
    await rig.check_invariants()
