"""The primary is gone and its standby takes over: what a 202 is worth then, and what is done about what was lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import asyncpg
import pytest
from flow.refunding import check_refunds, give_treasury, owe, refunds_are
from flow.rig import MINT_AMOUNT, Buyer, Rig, open_rig

from payfirst.errors import StoreUnavailable
from payfirst.local.chain import dev_address
from payfirst.store import database
from payfirst.units import AtomicAmount

from .rig.machines import machines
from .rig.servers import Pair, primary_and_standby
from .test_machines import DATA, database_on
from .test_outages import answers_again
from .test_restored import SOON_FINAL, check, unfenced
from .waiting import finds, idle, ready

BUYERS = 8
AFTERWARDS = 20
SENT = "SELECT count(*) FROM chain_transactions"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two servers of this test's own."""
    with primary_and_standby() as running:
        yield running


@contextlib.asynccontextmanager
async def rig_on(pair: Pair) -> AsyncIterator[Rig]:
    """A rig whose database is on the primary; everything in it knows both hosts."""
    cluster = pair.primary.cluster
    cluster.execute(f"CREATE DATABASE shop TEMPLATE {cluster.migrated_template} STRATEGY FILE_COPY")
    url = pair.url("shop")
    async with asyncpg.create_pool(url, min_size=0, max_size=4) as pool, open_rig(url, pool) as rig:
        yield rig


async def test_fault_24_with_a_synchronous_standby_every_202_outlives_the_primary(pair: Pair) -> None:
    """kill -9 of it under buyers who go on: each payment that was taken is there, and all are minted, once."""
    pair.be_synchronous()
    async with rig_on(pair) as rig, rig.worker_process():
        await rig.until(ready(rig))
        taken: list[str] = []
        stop = asyncio.Event()
        buying = [asyncio.create_task(keep_buying(rig, buyer, taken, stop)) for buyer in await rig.buyers(BUYERS)]
        await rig.until(finds(rig, "SELECT count(*) > 10 FROM mint_queue WHERE status = 'completed'"))
        taken_before, killed_at = len(taken), time.monotonic()
        await asyncio.to_thread(pair.fail_over)

        async def one_more() -> bool:
            return len(taken) > taken_before + BUYERS  # as many may have been answered just before

        await rig.until(one_more)
        print(f"kill -9 of the primary → the next 202: {time.monotonic() - killed_at:.1f} s")
        await rig.until(answers_again(rig))

        async def many_more() -> bool:
            return len(taken) >= taken_before + AFTERWARDS

        await rig.until(many_more)
        stop.set()
        await asyncio.gather(*buying)
        await rig.until(idle(rig))
        await rig.until_counts(payments_completed=len(taken), mints_completed=len(taken))
        stored = {str(row["id"]) for row in await rig.pool.fetch("SELECT id FROM payment_queue")}
        assert set(taken) == stored
        assert len(taken) == len(stored)
        assert await rig.pool.fetchval("SELECT count(*) FROM audit_log") == 0
        await rig.check_invariants()


async def keep_buying(rig: Rig, buyer: Buyer, taken: list[str], stop: asyncio.Event) -> None:
    """One order after the other, each sent with the same header until it is taken; `taken` are the answered ids."""
    while not stop.is_set():
        authorization = buyer.authorize()
        while (answer := await rig.order(buyer, authorization=authorization)).status_code == 503:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)
        assert answer.status_code in (200, 202), answer.text
        taken.append(answer.json()["paymentQueueId"])


async def test_fault_24_while_the_synchronous_standby_is_away_nothing_is_promised(pair: Pair) -> None:
    """A commit that is cut while it waits for it can be seen, and would not outlive a failover: 503, not 202."""
    pair.be_synchronous()
    async with rig_on(pair) as rig:
        first, second = await rig.buyers(2)
        async with rig.working():
            await rig.pay(first)
            await rig.until_counts(mints_completed=1)
        pair.standby.stop()
        authorization = second.authorize()
        asked = asyncio.create_task(rig.order(second, authorization=authorization))
        waits = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%"
        await rig.until(finds(rig, waits + "INSERT INTO authorizations%'"))
        answer = await asked
        assert await rig.pool.fetchval("SELECT count(*) FROM payment_queue") == 2
        assert answer.status_code == 503
        assert "same header again" in answer.json()["detail"]
        pair.standby.start()
        again = await rig.order(second, authorization=authorization)
        assert again.status_code == 202
        await asyncio.to_thread(pair.fail_over)
        await rig.until(answers_again(rig))
        stored = {str(row["id"]) for row in await rig.pool.fetch("SELECT id FROM payment_queue")}
        assert again.json()["paymentQueueId"] in stored
        assert len(stored) == 2


@pytest.mark.slow
async def test_fault_24_33_what_an_asynchronous_standby_lacked_is_lost_from_the_end_and_never_doubled(
    pair: Pair,
) -> None:
    """A worker lives through it: it signs nothing until the mints and refunds that the standby lacked are adopted."""
    async with rig_on(pair) as bare:
        rig = await give_treasury(bare)
        (owed_to,) = await rig.buyers(1, funds=AtomicAmount(0))
        kept, lost, later = await rig.buyers(3)
        async with replace(rig, terms=replace(rig.terms, refund_mode="approve")).working():
            await owe(rig, owed_to)
            await rig.until(refunds_are(rig, waiting=1))
            await rig.pay(kept)
            await rig.until_counts(mints_completed=1)
            await rig.until(idle(rig))
        sent_before = await rig.pool.fetchval(SENT)
        pair.wait_for_the_stream()
        pair.lose_the_stream()
        async with rig.working(**SOON_FINAL):
            await rig.until(refunds_are(rig, completed=1))
            for _ in range(3):
                await rig.pay(lost)
            await rig.until_counts(mints_completed=4)
            await rig.until(idle(rig))
            lost_by_then = await rig.pool.fetchval(SENT) - sent_before
            await asyncio.to_thread(pair.fail_over)
            await rig.until(answers_again(rig))
            assert (await rig.counts())["mints_completed"] == 1
            assert await rig.pool.fetchval("SELECT status FROM refunds") == "waiting"
            await rig.until(ready(rig))
            await rig.pay(later)
            await rig.until_counts(mints_completed=2)
            await rig.until(lambda: unfenced(rig))
            await rig.until(refunds_are(rig, completed=1))
        assert await rig.chain.rpc.account_nonce(dev_address("refund")) == 1
        assert await rig.balance(rig.token, lost.address) == 3 * MINT_AMOUNT
        adopted = await rig.pool.fetchval("SELECT count(*) FROM audit_log WHERE action = 'transaction_adopted'")
        assert adopted == lost_by_then
        await check_refunds(rig, units=1, buyers=[owed_to])
        await check(rig, lost_and_delivered=3)


# What a silent connection is given up after, and a little for a busy machine.
MOVED_WITHIN_S = 22.0


@pytest.mark.slow
async def test_fault_24_a_database_machine_that_vanishes_in_silence_is_given_up_for_the_next_host() -> None:
    """Its connections break for nobody: without limits of their own each would be waited for, one after the other."""
    with machines(shop=[DATA], db1=[DATA], db2=[DATA]) as hosts:
        async with database_on(hosts["db1"]) as (first, _), database_on(hosts["db2"]) as (second, _):
            url = f"{first.removesuffix('/payfirst')},{second.partition('@')[2]}"
            addresses = [hosts[name].addresses[DATA] for name in ("db1", "db2")]

            def inside() -> float:
                return asyncio.run(moves(url, *addresses, vanish=lambda: hosts["db1"].drop(DATA)))

            moved_s = await asyncio.to_thread(hosts["shop"].run, inside)
            print(f"the machine of the database vanished → the next host answers: {moved_s:.1f} s")
            assert moved_s < MOVED_WITHIN_S


async def moves(url: str, first: str, second: str, *, vanish: Callable[[], None]) -> float:
    """Seconds from where the first host vanishes, with a pool full of connections to it, until the second answers."""
    pool = await database.connect(url, name="test", size=4)

    async def answers() -> str:
        async with database.session(pool, "ask who it is") as connection:
            return str(await connection.fetchval("SELECT host(inet_server_addr()) FROM pg_sleep(0.1)"))

    assert await asyncio.gather(*(answers() for _ in range(4))) == [first] * 4
    vanish()
    began = time.monotonic()
    while True:
        with contextlib.suppress(StoreUnavailable):
            assert await answers() == second
            pool.terminate()
            return time.monotonic() - began
