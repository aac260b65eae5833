"""kill -9 of workers: at the two moments that decide, at any message at all, and five times during 600 payments."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import pytest
from flow.rig import Buyer, Rig

from .rig.boundary import Boundary, Label, Moment, kill_of, naming
from .rig.postgres_proxy import postgres_proxy
from .rig.processes import kill, terminate
from .rig.rpc_proxy import rpc_proxy
from .waiting import closed, ended, finds, idle, ready, rows

BROADCAST = naming("eth_sendRawTransaction")


@pytest.mark.parametrize("victim", [1, 2], ids=["settling", "minting"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_fault_01_02_killed_around_its_broadcast_the_same_bytes_are_sent_again(
    rig: Rig, victim: int, moment: Moment
) -> None:
    """The bytes were stored first: the next worker sends the same, never under a new account nonce."""
    buyers = await rig.buyers(5)
    async with rpc_proxy(rig.chain.url) as proxy, rig.worker_process(rpc_url=proxy.url) as worker:
        proxy.boundary = Boundary(victim, moment, kill_of(worker), counts=BROADCAST)
        await rig.until(ready(rig))
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until(ended(worker))
    in_flight = await rig.pool.fetch("SELECT hash FROM chain_attempts ORDER BY hash")
    await lease_ends(rig)
    async with rig.worker_process():
        await rig.until_counts(payments_completed=5, mints_completed=10)
    hashes = {row["hash"] for row in await rig.pool.fetch("SELECT hash FROM chain_attempts")}
    assert {row["hash"] for row in in_flight} <= hashes
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == len(
        await rig.pool.fetch("SELECT id FROM chain_transactions")
    )
    await rig.check_invariants()


async def test_fault_02_killed_before_its_bytes_are_stored_nothing_is_spent(rig: Rig) -> None:
    """Signed, and dead before the commit: the account nonce is still free, and the next worker takes it."""
    (buyer,) = await rig.buyers(1)
    async with postgres_proxy(rig.database_url) as wire, rig.worker_process(database_url=wire.url) as worker:
        wire.boundary = Boundary(1, "after", kill_of(worker), counts=naming("INSERT INTO chain_transactions"))
        await rig.until(ready(rig))
        await rig.pay(buyer, 2)
        await rig.until(ended(worker))
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_transactions") == 0
    await lease_ends(rig)
    async with rig.worker_process():
        await rig.until_counts(payments_completed=1, mints_completed=2)
    assert await rows(rig, "SELECT DISTINCT account_nonce::int FROM chain_transactions") == [(0,)]
    await rig.check_invariants()


async def test_a_stopped_worker_gives_its_signers_back(rig: Rig) -> None:
    """SIGTERM: what is under way is finished, and the next worker need not wait for a lease."""
    buyers = await rig.buyers(2)
    async with rig.worker_process() as worker:
        await rig.until(ready(rig))
        await rig.pay(buyers[0])
        assert await terminate(worker) == 0
    assert await rig.pool.fetchval("SELECT count(*) FROM signers WHERE lease_owner IS NOT NULL") == 0
    await rig.until(closed(rig))
    async with rig.worker_process():
        await rig.until(ready(rig))
        await rig.pay(buyers[1])
        await rig.until_counts(payments_completed=2, mints_completed=2)
    await rig.check_invariants()


# ---- a crash at any boundary ---------------------------------------------------------------------------

# What comes by itself whether or not there is a payment: a crash there is a crash while idle.
OF_ITSELF = ("eth_getBlockByNumber latest", "UPDATE chain_heads SET head_height", "INSERT INTO processes", "pg_notify")


def matters(label: Label) -> bool:
    """A message of the payment's life."""
    return bool(label) and not any(word in label for word in OF_ITSELF)


@pytest.mark.parametrize(("wire", "moment"), [("rpc", "after"), ("postgres", "before")])
async def test_fault_01_02_24_a_crash_at_some_boundaries(rig: Rig, wire: str, moment: Moment) -> None:
    """Killed at a few messages drawn anew each time; the whole sweep is the slow test below."""
    drawn = sorted(random.sample(range(1, 14 if wire == "rpc" else 60), 2))  # a failure names them
    async with Sweep(rig, wire, moment) as sweep:
        for nth in drawn:
            await sweep.crash_at(nth)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("wire", ["rpc", "postgres"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_fault_01_02_24_a_crash_at_any_boundary(rig: Rig, wire: str, moment: Moment) -> None:
    """Killed at the first message of a batch's life, at the second, … until a whole life passed without the n-th."""
    async with Sweep(rig, wire, moment) as sweep:
        for nth in itertools.count(1):
            if not await sweep.crash_at(nth):
                break
        assert nth > 10  # that many messages at least, or nothing was swept
        print(f"{wire} {moment}: {nth - 1} boundaries")


class Sweep:
    """Workers behind a proxy, one at a time: each is killed at a boundary, and the next finishes its work."""

    def __init__(self, rig: Rig, wire: str, moment: Moment) -> None:
        self._rig = rig
        self._wire = wire
        self._moment: Moment = moment
        self._stack = contextlib.AsyncExitStack()
        self._buyers: list[Buyer] = []
        self._paid = 0

    async def __aenter__(self) -> Sweep:
        self._rpc = await self._stack.enter_async_context(rpc_proxy(self._rig.chain.url))
        self._postgres = await self._stack.enter_async_context(postgres_proxy(self._rig.database_url))
        self._buyers = await self._rig.buyers(2)
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._worker = await self._stack.enter_async_context(
            self._rig.worker_process(rpc_url=self._rpc.url, database_url=self._postgres.url)
        )
        await self._rig.until(ready(self._rig))

    async def crash_at(self, nth: int) -> bool:
        """Two payments, the worker killed at the n-th message; False when their life had fewer."""
        boundary = Boundary(nth, self._moment, kill_of(self._worker), counts=matters)
        proxy = self._rpc if self._wire == "rpc" else self._postgres
        proxy.boundary = boundary
        for quantity, buyer in enumerate(self._buyers, start=1):
            await self._rig.pay(buyer, quantity)
        self._paid += 1
        minted = finds(self._rig, "SELECT count(*) = $1 FROM mint_queue WHERE status = 'completed'", 3 * self._paid)

        async def is_over() -> bool:
            return self._worker.returncode is not None or await minted()

        await self._rig.until(is_over)
        proxy.boundary = None
        reached = boundary.at is not None
        if self._worker.returncode is not None:
            await lease_ends(self._rig)
            await self._start()
        try:
            await self._rig.until(minted)
            await self._rig.until(idle(self._rig))
            await self._rig.check_invariants()
        except AssertionError as error:
            raise AssertionError(f"killed {self._moment} message {nth}: {boundary.at}") from error
        return reached


async def lease_ends(rig: Rig) -> None:
    """The few seconds pass after which a dead worker's signers are free."""
    await rig.pool.execute("UPDATE signers SET lease_until = now() - interval '1 second'")


# ---- the kill schedule that the original server failed -------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_kill_schedule_five_kills_during_600_payments(rig: Rig, workers: int) -> None:
    """Every payment is minted, none of them fails: the original left 40 paid and unminted, 60 minted and failed."""
    buyers = await rig.buyers(60)
    kills = [100, 200, 300, 400, 500]
    async with workers_of_whom_holders_are_killed_at(rig, kills, count=workers):
        for round_of_buyers in range(10):
            await asyncio.gather(*(rig.pay(buyer) for buyer in buyers))
            settled = 60 * round_of_buyers
            await rig.until(
                finds(rig, "SELECT count(*) >= $1 FROM payment_queue WHERE status = 'completed'", settled),
                within_s=120,
            )
        await rig.until_counts(payments_completed=600, mints_completed=600, within_s=120)
        await rig.until(idle(rig))
    assert not kills
    ledger = await rig.examine()
    ledger.demand()
    assert (ledger.payments, ledger.settled, ledger.minted, ledger.failed) == (600, 600, 600, 0)
    assert (ledger.lost, ledger.doubled, ledger.owed) == (0, 0, 0)


HOLDER = (
    "SELECT p.pid FROM signers s JOIN processes p ON p.id::text = s.lease_owner"
    " WHERE s.purpose = 'settle' AND s.lease_until > now()"
)


@contextlib.asynccontextmanager
async def workers_of_whom_holders_are_killed_at(rig: Rig, kills: list[int], *, count: int) -> AsyncIterator[None]:
    """Workers that are started again when they fall; whenever so many units are on their way, who settles is killed."""
    running: dict[int, asyncio.subprocess.Process] = {}

    async def keep() -> None:
        while True:
            async with rig.worker_process() as worker:
                running[worker.pid] = worker
                await worker.wait()

    victims: list[asyncio.subprocess.Process] = []

    async def one_lives() -> bool:
        holder = running.get(await rig.pool.fetchval(HOLDER))  # for some seconds a dead one is named still
        if holder is None or holder.returncode is not None:
            return False
        victims.append(holder)
        return True

    async def kill_them() -> None:
        sent = "SELECT count(*) >= $1 FROM mint_queue WHERE status IN ('sent', 'completed')"
        while kills:
            await rig.until(finds(rig, sent, kills[0]), within_s=120)
            await rig.until(one_lives)
            await kill(victims[-1])
            kills.pop(0)

    keepers = [asyncio.create_task(keep()) for _ in range(count)]
    killer = asyncio.create_task(kill_them())
    try:
        await rig.until(ready(rig))
        yield
    finally:
        for task in (*keepers, killer):
            task.cancel()
        await asyncio.wait([*keepers, killer])
        for task in (*keepers, killer):
            if not task.cancelled():
                task.result()
