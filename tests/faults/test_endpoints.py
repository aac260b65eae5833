"""Several RPC endpoints in front of a real chain, some of which misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from payfirst.chain import endpoints, failover
from payfirst.chain.abi import encode_call
from payfirst.chain.agreement import RpcDisagreement
from payfirst.chain.evidence import TRANSFER
from payfirst.chain.rpc import Call, RpcClient, RpcRefused, RpcUnavailable
from payfirst.local.chain import LocalChain, dev_address
from payfirst.ops import metrics
from payfirst.units import AtomicAmount, BlockNumber, Wei, hex_text

from .rig.rpc_proxy import SECRET, Asked, Fault, Forward, RpcProxy, honest, refuses, respond, rpc_proxy, status

BALANCE = 7


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """A chain that mines when it is told to."""
    async with LocalChain(block_time_s=None) as running:
        await running.fund_gas([dev_address("payer")], Wei(BALANCE))
        yield running


@contextlib.asynccontextmanager
async def two(
    chain: LocalChain, first: Fault, second: Fault = honest, *, timeout_s: float = 4
) -> AsyncIterator[tuple[RpcClient, RpcProxy, RpcProxy]]:
    """A client of two endpoints, the first of which misbehaves."""
    async with (
        rpc_proxy(chain.url, first) as one,
        rpc_proxy(chain.url, second) as other,
        RpcClient([one.url, other.url], timeout_s=timeout_s) as rpc,
    ):
        yield rpc, one, other


def events(log_lines: io.StringIO) -> list[str]:
    """The names of what was logged."""
    return [json.loads(line)["event"] for line in log_lines.getvalue().splitlines()]


async def until(holds: Callable[[], Awaitable[bool]], *, within_s: float = 10) -> None:
    """Return once it holds."""
    async with asyncio.timeout(within_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "first",
    [
        status(500),
        status(401),
        status(429),
        status(503, Retry_After="30"),
        refuses("eth_getBalance", -32005, "daily request count exceeded, request rate limited"),
        refuses("eth_getBalance", -32603, "Internal error"),
        refuses("eth_getBalance", -32601, "the method eth_getBalance does not exist/is not available"),
        refuses("eth_getBalance", -32000, "header not found"),
    ],
    ids=["500", "401", "429", "503", "limit", "internal", "method", "header"],
)
async def test_what_one_endpoint_cannot_answer_the_next_does(
    chain: LocalChain, first: Fault, log_lines: io.StringIO
) -> None:
    """At once, each call of many, with at most one warning, and none of it shows the key in the URL."""
    async with two(chain, first) as (rpc, one, other):
        for _ in range(5):
            assert await rpc.balance(dev_address("payer")) == BALANCE
        assert len(one.seen) >= 1
        assert len(other.seen) == 5
    warnings = [e for e in events(log_lines) if e in ("rpc_endpoint_failing", "rpc_endpoint_limited")]
    assert len(warnings) == len(set(warnings)) <= 1
    assert SECRET not in log_lines.getvalue()


async def test_the_preferred_endpoint_is_returned_to_after_its_rest(chain: LocalChain, log_lines: io.StringIO) -> None:
    """It rests after a failure, is tried again, and is the first again; both changes are told once."""
    async with two(chain, status(500)) as (rpc, one, other):
        await rpc.balance(dev_address("payer"))
        asked = len(one.seen)
        await rpc.balance(dev_address("payer"))
        assert len(one.seen) == asked  # it rests
        one.fault = honest

        async def is_tried_again() -> bool:
            await rpc.balance(dev_address("payer"))
            return len(one.seen) > asked

        await until(is_tried_again)
        before = len(other.seen)
        await rpc.balance(dev_address("payer"))
        assert len(other.seen) == before
    told = [e for e in events(log_lines) if e.startswith("rpc_endpoint")]
    assert told == ["rpc_endpoint_failing", "rpc_endpoint_back"]


async def test_a_hanging_endpoint_is_tried_again_for_a_short_while_only(
    chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call waits for its time-out; a later one that looks whether it is back waits for much less."""
    monkeypatch.setattr(endpoints, "PROBE_S", 0.2)
    released = asyncio.Event()

    async def hang(asked: Asked, forward: Forward) -> web.Response:
        await released.wait()
        return await forward(asked)

    async with two(chain, hang, timeout_s=1) as (rpc, one, _):
        await rpc.balance(dev_address("payer"))
        slowest_s = 0.0

        async def is_tried_again() -> bool:
            nonlocal slowest_s
            started = time.monotonic()
            assert await rpc.balance(dev_address("payer")) == BALANCE
            slowest_s = max(slowest_s, time.monotonic() - started)
            return len(one.seen) == 2

        await until(is_tried_again)
        released.set()
    assert 0.2 < slowest_s < 0.8


async def test_a_rate_limit_is_kept_to_the_second(chain: LocalChain) -> None:
    """A lone endpoint that says when to come back is not asked before; the call waits instead of failing."""
    async with rpc_proxy(chain.url, status(429, Retry_After="1")) as one, RpcClient([one.url]) as rpc:
        asking = asyncio.create_task(rpc.balance(dev_address("payer")))

        async def was_asked() -> bool:
            return len(one.seen) == 1

        await until(was_asked)
        one.fault = honest
        started = time.monotonic()
        assert await asking == BALANCE
        assert time.monotonic() - started > 0.9
        assert len(one.seen) == 2


async def test_a_longer_rest_than_the_call_may_take_ends_it(chain: LocalChain) -> None:
    """The error names the endpoint and what it said; the endpoint is left alone."""
    async with rpc_proxy(chain.url, status(429, Retry_After="60")) as one, RpcClient([one.url]) as rpc:
        for _ in range(3):
            with pytest.raises(RpcUnavailable, match=r"endpoint 1 \(127\.0\.0\.1\)") as caught:
                await rpc.balance(dev_address("payer"))
            assert SECRET not in str(caught.value)
        assert len(one.seen) == 1


async def test_a_revert_is_an_answer(chain: LocalChain) -> None:
    """What the chain says of a call is not asked of another endpoint."""
    async with two(chain, honest) as (rpc, _, other):
        too_much = encode_call("transfer(address,uint256)", dev_address("seller"), 10**30)
        with pytest.raises(RpcRefused) as caught:
            await rpc.eth_call(to=chain.usdc, data=too_much, sender=dev_address("payer"))
        assert caught.value.is_execution
        assert other.seen == []


@pytest.mark.parametrize("said", ["nonce too low", "already known", "replacement transaction underpriced"])
async def test_a_verdict_on_a_transaction_is_an_answer(chain: LocalChain, said: str) -> None:
    """Another endpoint of the same chain would say the same."""
    async with two(chain, refuses("eth_sendRawTransaction", -32000, said)) as (rpc, _, other):
        with pytest.raises(RpcRefused, match=said):
            await rpc.broadcast(b"\x02")
        assert other.seen == []


async def test_a_broadcast_goes_on_to_an_endpoint_that_takes_it(chain: LocalChain) -> None:
    """The same bytes elsewhere do no harm; here the node says what it thinks of them."""
    async with two(chain, refuses("eth_sendRawTransaction", -32005, "limit exceeded")) as (rpc, _, other):
        with pytest.raises(RpcRefused, match="decode"):
            await rpc.broadcast(b"\x02")
        assert other.methods() == ["eth_sendRawTransaction"]


async def test_an_endpoint_of_another_chain_is_set_aside(chain: LocalChain, log_lines: io.StringIO) -> None:
    """It is asked for its chain and nothing else, and an error says so once."""

    async def elsewhere(asked: Asked, _forward: Forward) -> web.Response:
        assert asked.methods == ["eth_chainId"]
        return respond(asked, [{"result": "0x1"}])

    async with (
        rpc_proxy(chain.url, elsewhere) as one,
        RpcClient([one.url, chain.url], chain_id=chain.chain_id) as rpc,
    ):
        assert await rpc.chains() == [1, chain.chain_id]
        for _ in range(3):
            assert await rpc.balance(dev_address("payer")) == BALANCE
    assert events(log_lines).count("rpc_endpoint_misplaced") == 1
    async with rpc_proxy(chain.url, elsewhere) as one, RpcClient([one.url], chain_id=chain.chain_id) as rpc:
        with pytest.raises(RpcUnavailable, match="serves chain 1 instead of 84532"):
            await rpc.balance(dev_address("payer"))


async def test_a_lagging_endpoint_goes_last(
    chain: LocalChain, log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are compared beside the calls; who is further behind than allowed is no longer preferred."""
    monkeypatch.setattr(failover, "HEADS_COMPARED_S", 0.1)
    async with LocalChain(block_time_s=None) as behind, RpcClient([behind.url, chain.url], lag_blocks_max=5) as rpc:
        height = await chain.rpc.head()
        await chain.mine(10)

        async def sees_the_best() -> bool:
            return (await rpc.head()).number == height.number + 10

        async def is_told_that_it_caught_up() -> bool:
            await rpc.head()
            return "rpc_endpoint_caught_up" in events(log_lines)

        await until(sees_the_best)
        await behind.mine(12)
        await until(is_told_that_it_caught_up)
    assert events(log_lines).count("rpc_endpoint_lags") == 1


@pytest.mark.parametrize("silent", [False, True], ids=["says so", "answers with no logs"])
async def test_logs_of_a_block_come_from_an_endpoint_that_has_it(chain: LocalChain, silent: bool) -> None:
    """A node without the block may answer with an error, or with an empty list: neither is "nobody paid"."""

    async def empty(asked: Asked, _forward: Forward) -> web.Response:
        answers: dict[str, object] = {"eth_getLogs": [], "eth_getBlockTransactionCountByHash": None}
        return respond(asked, [{"result": answers[method]} for method in asked.methods])

    await chain.fund_usdc([dev_address("payer")], AtomicAmount(5))
    head = await chain.rpc.head()
    async with (
        LocalChain(block_time_s=None) as behind,
        rpc_proxy(behind.url, empty if silent else honest) as one,
        RpcClient([one.url, chain.url]) as rpc,
    ):
        (found,) = await rpc.logs_of_blocks([head.hash], addresses=[chain.usdc], topics=[hex_text(TRANSFER)])
    assert len(found) == 1


async def test_logs_of_a_range_are_not_taken_from_a_node_that_is_not_there_yet(chain: LocalChain) -> None:
    """It would answer with the logs up to its own head, and a payment would be called unpaid."""
    await chain.fund_usdc([dev_address("payer")], AtomicAmount(5))
    last = (await chain.rpc.head()).number
    async with LocalChain(block_time_s=None) as behind:
        assert (await behind.rpc.head()).number < last
        async with RpcClient([behind.url, chain.url]) as rpc:
            found = await rpc.logs(address=chain.usdc, topics=[hex_text(TRANSFER)], first=BlockNumber(0), last=last)
            assert len(found) == 1
        with pytest.raises(RpcUnavailable, match="no endpoint has the blocks"):
            await behind.rpc.logs(address=chain.usdc, topics=[hex_text(TRANSFER)], first=BlockNumber(0), last=last)


async def test_a_receipt_that_one_endpoint_lacks_is_asked_of_the_next(chain: LocalChain) -> None:
    """No receipt proves nothing."""
    await chain.fund_usdc([dev_address("payer")], AtomicAmount(5))
    (block,) = await chain.rpc.blocks(*[(await chain.rpc.head()).number] * 2)
    (receipt,) = await chain.rpc.receipts(block.transactions)
    assert receipt is not None
    async with LocalChain(block_time_s=None) as behind, RpcClient([behind.url, chain.url]) as rpc:
        assert await rpc.receipts([receipt.tx_hash]) == [receipt]
        assert await rpc.block_hash(receipt.block_number) == receipt.block_hash
        assert await rpc.is_known(receipt.tx_hash)
        assert await rpc.has_block(receipt.block_hash)


@pytest.mark.parametrize("style", ["413", "one error", "error each"])
async def test_a_batch_that_is_refused_is_halved(chain: LocalChain, style: str) -> None:
    """Down to what the endpoint takes, which is remembered; the answers stay in order."""

    async def at_most_four(asked: Asked, forward: Forward) -> web.Response:
        if len(asked.calls) <= 4:
            return await forward(asked)
        error = {"code": -32600, "message": "batch of more than 4 calls"}
        match style:
            case "413":
                return web.Response(status=413)
            case "one error":
                return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=400)
            case _:
                return respond(asked, [{"error": error} for _ in asked.calls])

    await chain.mine(20)
    async with rpc_proxy(chain.url, at_most_four) as one, RpcClient([one.url]) as rpc:
        blocks = await rpc.blocks(BlockNumber(0), BlockNumber(19))
        assert [block.head.number for block in blocks] == list(range(20))
        one.seen.clear()
        await rpc.batch([Call("eth_chainId", ())] * 10, result=str)
        assert max(map(len, one.seen)) <= 4
        assert len(one.methods()) == 10


async def test_a_range_of_logs_is_asked_in_parts(chain: LocalChain) -> None:
    """As many blocks as configured, and halved for an endpoint that wants fewer; nothing is missed or told twice."""

    refuse = refuses("eth_getLogs", -32614, "eth_getLogs is limited to a 10 block range")

    async def ten_blocks(asked: Asked, forward: Forward) -> web.Response:
        query = next(call["params"][0] for call in asked.calls if call["method"] == "eth_getLogs")
        is_narrow = int(query["toBlock"], 16) - int(query["fromBlock"], 16) < 10
        return await (honest if is_narrow else refuse)(asked, forward)

    for _ in range(3):
        await chain.fund_usdc([dev_address("payer")], AtomicAmount(5))
        await chain.mine(11)
    last = (await chain.rpc.head()).number
    async with rpc_proxy(chain.url, ten_blocks) as one, RpcClient([one.url], log_blocks_max=30) as rpc:
        found = await rpc.logs(address=chain.usdc, topics=[hex_text(TRANSFER)], first=BlockNumber(0), last=last)
    assert len(found) == len(set(found)) == 3


async def test_a_rate_limit_says_which_endpoint_and_for_how_long(chain: LocalChain, log_lines: io.StringIO) -> None:
    """Its number and host, the status, the seconds of Retry-After, and what is asked meanwhile; nothing of its key."""
    async with two(chain, status(429, Retry_After="7")) as (rpc, _, _):
        assert await rpc.balance(dev_address("payer")) == BALANCE
    (line,) = [json.loads(text) for text in log_lines.getvalue().splitlines() if "rpc_endpoint_limited" in text]
    assert line["message"] == (
        "RPC: endpoint 1 (127.0.0.1) limits the rate (HTTP 429): it rests for 7 s, the others are asked meanwhile"
    )
    assert (line["endpoint"], line["rests_s"]) == (1, 7.0)


async def test_a_rate_limit_that_goes_on_is_told_again(log_lines: io.StringIO) -> None:
    """Not each time: every ten seconds, with how often it was in a row."""
    endpoint = endpoints.Endpoint(1, "https://rpc.example/key", is_alone=True)
    for now in (0.0, 3.0, 6.0, 9.0, 12.0):
        endpoint.limited("HTTP 429", now=now, seconds=2.0)
    lines = [json.loads(text) for text in log_lines.getvalue().splitlines()]
    told = [line for line in lines if line["event"] == "rpc_endpoint_limited"]
    assert [line["limits_in_a_row"] for line in told] == [1, 5]
    assert "calls wait for it" in told[0]["message"]


async def balance(rpc: RpcClient) -> int:
    """What the tests of agreement ask."""
    return await rpc.balance(dev_address("payer"))


def says(value: int) -> Fault:
    """Another balance than the chain's."""

    async def fault(asked: Asked, forward: Forward) -> web.Response:
        if "eth_getBalance" not in asked.methods:
            return await forward(asked)
        return respond(asked, [{"result": hex(value)} for _ in asked.calls])

    return fault


async def test_what_two_endpoints_say_alike_is_the_answer(chain: LocalChain) -> None:
    """Each is asked by itself, and no more of them than needed."""
    async with two(chain, honest) as (rpc, one, other):
        assert await rpc.agreed(balance, subject="payment", about="a balance") == BALANCE
        assert one.methods() == other.methods() == ["eth_getBalance"]


async def test_what_two_endpoints_do_not_say_alike_is_no_answer(chain: LocalChain, log_lines: io.StringIO) -> None:
    """It is counted each time, told when it lasts, with their numbers and hosts, and over by itself."""
    before = metrics.RPC_DISAGREEMENTS.values[("payment",)]
    asked = 0
    async with two(chain, says(8)) as (rpc, one, _):

        async def is_told() -> bool:
            nonlocal asked
            asked += 1
            with pytest.raises(RpcDisagreement, match=r"endpoint 1 \(127\.0\.0\.1\) and endpoint 2 .* a balance"):
                await rpc.agreed(balance, subject="payment", about="a balance")
            return "rpc_disagreement" in log_lines.getvalue()

        await until(is_told)
        one.fault = honest
        assert await rpc.agreed(balance, subject="payment", about="a balance") == BALANCE
    assert metrics.RPC_DISAGREEMENTS.values[("payment",)] - before == asked > 1
    assert events(log_lines).count("rpc_disagreement") == 1
    assert SECRET not in log_lines.getvalue()


async def test_of_three_endpoints_two_decide(chain: LocalChain) -> None:
    """One that lies holds nothing up while two others are there."""
    async with (
        rpc_proxy(chain.url, says(8)) as liar,
        rpc_proxy(chain.url) as one,
        rpc_proxy(chain.url) as other,
        RpcClient([liar.url, one.url, other.url]) as rpc,
    ):
        assert await rpc.agreed(balance, subject="payment", about="a balance") == BALANCE


@pytest.mark.parametrize("second", [status(500), status(429, Retry_After="60")], ids=["failing", "limited"])
async def test_one_endpoint_agrees_with_nobody(chain: LocalChain, second: Fault) -> None:
    """While the other is away nothing is decided; ordinary calls go on."""
    async with two(chain, honest, second) as (rpc, _, _):
        for _ in range(2):
            with pytest.raises(RpcUnavailable, match="two endpoints have to agree on a balance, and 1 answered"):
                await rpc.agreed(balance, subject="payment", about="a balance")
        assert await balance(rpc) == BALANCE


async def test_two_urls_of_one_host_are_one_opinion(chain: LocalChain) -> None:
    """And where there is one host only, what it says is the answer, as everywhere else."""
    async with rpc_proxy(chain.url, says(8)) as one:
        async with RpcClient([one.url, f"{one.url}?key=other"]) as rpc:
            assert not rpc.can_agree
            assert await rpc.agreed(balance, subject="payment", about="a balance") == 8
        async with rpc_proxy(chain.url) as other, RpcClient([one.url, f"{one.url}?key=other", other.url]) as rpc:
            assert rpc.can_agree
            with pytest.raises(RpcDisagreement):
                await rpc.agreed(balance, subject="payment", about="a balance")
