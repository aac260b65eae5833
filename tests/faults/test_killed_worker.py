"""kill -9 of a worker at the two moments that decide: before its broadcast went out, and after."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from flow.rig import Rig

from .rpc_proxy import Swallow, rpc_proxy


@pytest.mark.parametrize("victim", [1, 2], ids=["settling", "minting"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_around_its_broadcast_settles_and_mints_once(rig: Rig, victim: int, moment: str) -> None:
    """The bytes were stored first: the next worker sends the same, never under a new account nonce."""
    buyers = await rig.buyers(5)
    broadcasts = 0
    async with rpc_proxy(rig.chain.url) as proxy, rig.worker_process(rpc_url=proxy.url) as worker:

        async def kill(method: str) -> None:
            nonlocal broadcasts
            if method != "eth_sendRawTransaction":
                return
            broadcasts += 1
            if broadcasts == victim:
                worker.kill()
                await worker.wait()
                if moment == "before":
                    raise Swallow

        setattr(proxy, moment, kill)
        await rig.until(_is_ready(rig))
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until(_has_ended(worker))
    assert broadcasts == victim
    in_flight = await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash")
    async with rig.worker_process():
        await rig.until_counts(payments_completed=5, mints_completed=10)
    hashes = {row["hash"] for row in await rig.pool.fetch("SELECT hash FROM chain_attempts")}
    assert {row["hash"] for row in in_flight} <= hashes
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions WHERE mined_hash IS NULL") == 0
    await rig.check_invariants()


async def test_a_lost_reply_to_the_broadcast_changes_nothing(rig: Rig) -> None:
    """The transaction went through, the answer did not come back: unknown is not failed."""
    (buyer,) = await rig.buyers(1)
    cut: list[str] = []
    async with rpc_proxy(rig.chain.url) as proxy:

        async def lose_reply(method: str) -> None:
            if method == "eth_sendRawTransaction":
                cut.append(method)
                raise ConnectionResetError("cut by the test")

        proxy.after = lose_reply
        async with rig.worker_process(rpc_url=proxy.url):
            await rig.until(_is_ready(rig))
            await rig.pay(buyer, 2)
            await rig.until_counts(payments_completed=1, mints_completed=2)
    assert len(cut) >= 2
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 2
    await rig.check_invariants()


async def test_a_transaction_dropped_by_the_node_is_sent_again(rig: Rig) -> None:
    """The node acknowledged it and forgot it: found by hash, the same bytes once more."""
    (buyer,) = await rig.buyers(1)
    swallowed: list[str] = []
    async with rpc_proxy(rig.chain.url) as proxy:

        async def swallow_first(method: str) -> None:
            if method == "eth_sendRawTransaction" and not swallowed:
                swallowed.append(method)
                raise Swallow

        proxy.before = swallow_first
        async with rig.worker_process(rpc_url=proxy.url):
            await rig.until(_is_ready(rig))
            await rig.pay(buyer, 1)
            await rig.until_counts(payments_completed=1, mints_completed=1)
    assert await rig.pool.fetchval("SELECT max(broadcast_count) FROM chain_attempts") == 2
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == 2
    await rig.check_invariants()


async def test_a_stopped_worker_gives_its_signers_back(rig: Rig) -> None:
    """SIGTERM: what is under way is finished, and the next worker need not wait for a lease."""
    buyers = await rig.buyers(2)
    async with rig.worker_process() as worker:
        await rig.until(_is_ready(rig))
        await rig.pay(buyers[0])
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 15) == 0
    assert await rig.pool.fetchval("SELECT count(*) FROM signers WHERE lease_owner IS NOT NULL") == 0
    await rig.until(_is_closed(rig))
    async with rig.worker_process():
        await rig.until(_is_ready(rig))
        await rig.pay(buyers[1])
        await rig.until_counts(payments_completed=2, mints_completed=2)
    await rig.check_invariants()


async def test_a_worker_that_waits_for_its_endpoint_can_be_stopped(rig: Rig) -> None:
    """SIGTERM is heard before the first block was seen."""
    async with rpc_proxy(rig.chain.url) as proxy:

        async def swallow(_method: str) -> None:
            raise Swallow

        proxy.before = swallow
        async with rig.worker_process(rpc_url=proxy.url) as worker:

            async def asked() -> bool:
                return bool(proxy.seen)

            await rig.until(asked)
            worker.terminate()
            assert await asyncio.wait_for(worker.wait(), 8) == 0


async def test_two_workers_share_the_work_and_never_a_nonce(rig: Rig) -> None:
    """One holds the signers; when it is killed the other takes over."""
    buyers = await rig.buyers(20)
    async with rig.worker_process() as first, rig.worker_process():
        await rig.until(_is_ready(rig))
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[:10]))
        with contextlib.suppress(ProcessLookupError):
            first.kill()
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[10:]))
        await rig.until_counts(payments_completed=20, mints_completed=20)
    await rig.check_invariants()


def _is_ready(rig: Rig) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return (await rig.client.get("/ready")).status_code == 200

    return ready


def _is_closed(rig: Rig) -> Callable[[], Awaitable[bool]]:
    async def closed() -> bool:
        return (await rig.client.get("/ready")).status_code == 503

    return closed


def _has_ended(process: asyncio.subprocess.Process) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        return process.returncode is not None

    return ended
