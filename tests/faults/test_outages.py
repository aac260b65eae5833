"""RPC away, PostgreSQL away, a commit cut in the middle, a disk that is full."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
import httpx
import pytest
from flow.rig import BLOCK_TIME_S, Buyer, Rig, open_rig
from postgres import Server, free_port

from payfirst.local import children
from payfirst.store import database
from payfirst.units import Wei, checksum_address

from .rig.boundary import Boundary, Cut, Moment, cut, kill_of, naming
from .rig.chain import block, forget_all, no_mining
from .rig.postgres_proxy import postgres_proxy
from .rig.rpc_proxy import drops, honest, rpc_proxy
from .rig.servers import SmallDisk, server_of_its_own, server_on_a_small_disk
from .waiting import AWAY, Holds, finds, idle, ready

SENT = "SELECT count(*) = $1 FROM payment_queue WHERE status = 'sent'"


@pytest.mark.slow
async def test_original_a_six_minute_outage_with_60_in_sent(rig: Rig) -> None:
    """There all 60 stayed in `sent` for ever. The node is away for six minutes of chain time and forgets its pool."""
    buyers = await rig.buyers(60)
    async with rpc_proxy(rig.chain.url) as proxy, rig.working(rpc_urls=(proxy.url,)):
        async with no_mining(rig.chain):
            await asyncio.gather(*(rig.pay(buyer) for buyer in buyers))
            await rig.until(finds(rig, SENT, 60))
            proxy.fault = drops
            await forget_all(rig.chain)
            for _ in range(6):
                await block(rig.chain, after_s=60)
            assert await rig.counts() == {"payments_sent": 60}
            proxy.fault = honest
        await rig.until_counts(payments_completed=60, mints_completed=60)
        await rig.until(idle(rig))
    await rig.check_invariants()


# ---- a commit that is cut ------------------------------------------------------------------------------


# The payment sent, and credited; its units sent, and minted. Now and then a block's is among them.
COMMITS_OF_A_LIFE = 4


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
async def test_fault_24_a_workers_commit_that_is_cut_is_read_again(rig: Rig, moment: Moment) -> None:
    """Each COMMIT of a payment's life, one after the other: whether it took effect is not guessed."""
    (buyer,) = await rig.buyers(1)
    async with postgres_proxy(rig.database_url) as wire, rig.working(database_url=wire.url):
        for nth in range(1, 10):
            boundary = wire.boundary = Boundary(nth, moment, cut, counts=naming("COMMIT"))
            await rig.pay(buyer, 2)
            await rig.until_counts(payments_completed=nth, mints_completed=2 * nth)
            await rig.until(idle(rig))
            if boundary.at is None:  # each has been cut once
                break
        assert nth > COMMITS_OF_A_LIFE
    await rig.check_invariants()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_fault_24_the_apis_commit_that_is_cut_never_takes_a_payment_twice(
    database_url: str, pool: database.Pool, moment: Moment
) -> None:
    """Stored, the buyer hears 202 after all; not stored, 503 says to send the same header again: then it is 202."""
    async with (
        postgres_proxy(database_url) as wire,
        open_rig(database_url, pool, api_variables={"DATABASE_URL": wire.url}) as rig,
        rig.working(),
    ):
        (buyer,) = await rig.buyers(1)
        authorization = buyer.authorize(2)
        wire.boundary = Boundary(1, moment, cut, counts=naming("INSERT INTO authorizations"))
        first = await rig.order(buyer, 2, authorization=authorization)
        assert wire.boundary.at is not None
        stored = await rig.pool.fetchval("SELECT count(*) FROM payment_queue")
        if moment == "after":
            assert (first.status_code, stored) == (202, 1)
        else:
            assert (first.status_code, stored) == (503, 0)
            assert "same header again" in first.json()["detail"]
        again = await rig.order(buyer, 2, authorization=authorization)
        assert again.status_code in (200, 202)
        await rig.until_counts(payments_completed=1, mints_completed=2)
        await rig.until(idle(rig))
        await rig.check_invariants()


async def test_fault_24_a_buyer_is_answered_whatever_goes_wrong_in_reading_again(
    database_url: str, pool: database.Pool
) -> None:
    """The commit is cut, and the look at what it left fails in a way that nobody foresaw: an error, no silence."""
    async with (
        postgres_proxy(database_url) as wire,
        open_rig(database_url, pool, api_variables={"DATABASE_URL": wire.url}) as rig,
        rig.working(),
    ):
        renaming: list[asyncio.Task[str]] = []

        async def cut_and_break() -> None:
            # It waits for the lock of the statement that is cut, and is next in line before the look that follows.
            renaming.append(asyncio.create_task(pool.execute("ALTER TABLE authorizations RENAME TO elsewhere")))
            waits = finds(rig, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
            while not renaming[0].done() and not await waits():
                pass
            raise Cut

        (buyer,) = await rig.buyers(1)
        authorization = buyer.authorize()
        wire.boundary = Boundary(1, "before", cut_and_break, counts=naming("INSERT INTO authorizations"))
        answer = await asyncio.wait_for(rig.order(buyer, authorization=authorization), 10)
        assert answer.status_code == 500
        assert "same header again" in answer.json()["detail"]
        await renaming[0]
        await pool.execute("ALTER TABLE elsewhere RENAME TO authorizations")
        await rig.until(is_taken(rig, buyer))
        await rig.until_counts(payments_completed=1, mints_completed=1)
        await rig.check_invariants()


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
async def test_fault_24_30_an_api_killed_in_its_commit_has_promised_nothing_it_does_not_hold(
    rig: Rig, moment: Moment
) -> None:
    """No answer was given; the same header at the next process is one payment, stored before or not."""
    buyers = await rig.buyers(5)
    headers = [buyer.header(buyer.authorize()) for buyer in buyers]
    path = f"/api/mint/{checksum_address(rig.token)}"
    async with rig.worker_process(), postgres_proxy(rig.database_url) as wire:
        await rig.until(ready(rig))
        async with api_process(rig, database_url=wire.url) as (api, client):
            wire.boundary = Boundary(1, moment, kill_of(api), counts=naming("INSERT INTO authorizations"))
            posted = (client.post(path, headers=header, json={"quantity": 1}) for header in headers)
            answers = await asyncio.gather(*posted, return_exceptions=True)
            assert wire.boundary.at is not None
        promised = [a for a in answers if isinstance(a, httpx.Response) and a.status_code == 202]
        stored = {str(row["id"]) for row in await rig.pool.fetch("SELECT id FROM payment_queue")}
        assert {a.json()["paymentQueueId"] for a in promised} <= stored
        for header in headers:
            again = await rig.client.post(path, headers=header, json={"quantity": 1})
            assert again.status_code in (200, 202), again.text
        await rig.until_counts(payments_completed=5, mints_completed=5)
        await rig.until(idle(rig))
    await rig.check_invariants()


@contextlib.asynccontextmanager
async def api_process(
    rig: Rig, *, database_url: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """An API as `payfirst serve` runs it, and a client of it; killed at the end if it still lives."""
    port = free_port()
    environment = rig.worker_environment("http://127.0.0.1:1") | {
        "DATABASE_URL": database_url,
        "PAYFIRST_SERVER__PORT": str(port),
    }
    for name in [name for name in environment if "SIGNERS" in name]:
        del environment[name]
    process = await children.start(children.api(env=environment), output=asyncio.subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

            async def answers() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    return (await client.get("/ready")).status_code == 200
                return False

            await rig.until(answers)
            yield process, client
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# ---- the server itself ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A PostgreSQL that only these tests use."""
    with server_of_its_own() as running:
        yield running


@contextlib.asynccontextmanager
async def rig_on(server: Server, *, block_time_s: float = BLOCK_TIME_S) -> AsyncIterator[Rig]:
    """A rig whose database is on this server."""
    with server.cluster.database(template=server.cluster.migrated_template) as url:
        async with (
            asyncpg.create_pool(url, min_size=1, max_size=4) as pool,
            open_rig(url, pool, block_time_s=block_time_s) as rig,
        ):
            yield rig


@pytest.mark.parametrize("how", [pytest.param("stopped", marks=pytest.mark.slow), "killed"])
async def test_fault_24_postgresql_restarts_under_load_and_service_goes_on(own_server: Server, how: str) -> None:
    """Stopped or kill -9, with payments in every state: a 503 meanwhile, nothing lost, and service within seconds."""
    async with rig_on(own_server) as rig, rig.working():
        buyers = await rig.buyers(20)
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[:10]))
        own_server.kill() if how == "killed" else own_server.stop()
        refused = await rig.order(buyers[10])
        assert refused.status_code == 503
        own_server.start()
        await rig.until(is_taken(rig, buyers[11]))
        await rig.until(answers_again(rig))
        await rig.until_counts(payments_completed=11)
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[12:]))
        await rig.until_counts(payments_completed=19, mints_completed=19)
        await rig.until(idle(rig))
        await rig.check_invariants()


def is_taken(rig: Rig, buyer: Buyer) -> Holds:
    """An order of this buyer is taken; it is the same order each time it is tried."""
    authorization = buyer.authorize()

    async def holds() -> bool:
        return (await rig.order(buyer, authorization=authorization)).status_code in (200, 202)

    return holds


@pytest.fixture(scope="module")
def small_disk() -> Iterator[SmallDisk]:
    """A PostgreSQL on a disk that can be filled."""
    with server_on_a_small_disk() as disk:
        yield disk


async def test_fault_30_on_a_full_disk_nothing_is_promised_that_is_not_stored(small_disk: SmallDisk) -> None:
    """Each 202 has its row, every other answer is 503; with room again the same headers are taken, once each."""
    async with rig_on(small_disk.server) as rig, rig.working():
        buyers = await rig.buyers(60)
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
        small_disk.fill()
        orders = [(buyer, buyer.authorize()) for buyer in buyers[1:]]
        answers = [await rig.order(buyer, authorization=authorization) for buyer, authorization in orders[:5]]
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # Rows of somebody else, until the last segment of the log is full too.
            while True:
                await rig.pool.execute(OTHER_ROWS)
        answers += [await rig.order(buyer, authorization=authorization) for buyer, authorization in orders[5:15]]
        small_disk.clear()
        if not small_disk.server.is_running:  # it could not even recover
            small_disk.server.start()
        await rig.until(answers_again(rig))
        taken = {a.json()["paymentQueueId"] for a in answers if a.status_code == 202}
        stored = {str(row["id"]) for row in await rig.pool.fetch("SELECT id FROM payment_queue")}
        assert taken <= stored
        assert {a.status_code for a in answers} <= {202, 503}
        assert 503 in {a.status_code for a in answers}
        await rig.until(ready(rig))
        for buyer, authorization in orders[:15]:
            assert (await rig.order(buyer, authorization=authorization)).status_code in (200, 202)
        await rig.until_counts(payments_completed=16, mints_completed=16)
        await rig.until(idle(rig))
        await rig.check_invariants()


OTHER_ROWS = (
    "INSERT INTO audit_log (actor, action, subject) SELECT 'x', 'x', md5(n::text) FROM generate_series(1, 500) n"
)


def answers_again(rig: Rig) -> Holds:
    """PostgreSQL takes statements again; connections that it ended are dropped from the pool by being used."""

    async def holds() -> bool:
        with contextlib.suppress(*AWAY):
            return await rig.pool.fetchval("SELECT true") is True
        return False

    return holds


# ---- more than can be settled --------------------------------------------------------------------------


async def test_fault_29_a_full_queue_takes_nothing_and_settles_what_it_took(
    database_url: str, pool: database.Pool
) -> None:
    """Nothing drains while the base fee is above the cap: admission stops with Retry-After, and later all is minted."""
    small = {"PAYFIRST_PAYMENTS__QUEUE_DEPTH_MAX": "10"}
    async with open_rig(database_url, pool, api_variables=small) as rig, rig.working(max_fee=Wei(2 * 10**9)):
        buyers = await rig.buyers(40)
        async with no_mining(rig.chain):
            await block(rig.chain, base_fee=8 * 10**9)
            height = (await rig.chain.rpc.head()).number
            await rig.until(finds(rig, "SELECT head_height >= $1 FROM chain_heads", height))
            answers = [await rig.order(buyer) for buyer in buyers]
            taken = [answer for answer in answers if answer.status_code == 202]
            refused = [answer for answer in answers if answer.status_code != 202]
            assert refused
            assert {answer.status_code for answer in refused} == {503}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert await rig.pool.fetchval("SELECT count(*) FROM payment_queue") == len(taken)
            for _ in range(20):
                await block(rig.chain)
        await rig.until_counts(payments_completed=len(taken), mints_completed=len(taken))
        await rig.until(idle(rig))
        await rig.check_invariants()
