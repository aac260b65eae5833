"""Workers beside each other, and one that slept through the end of its lease."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from flow.rig import Rig

from .rig.boundary import Boundary, naming
from .rig.postgres_proxy import postgres_proxy
from .rig.processes import kill, paused
from .rig.rpc_proxy import rpc_proxy
from .test_crashes import lease_ends
from .waiting import ended, finds, idle, ready, rows


@pytest.mark.slow
async def test_fault_03_two_workers_with_one_key_never_use_a_nonce_twice(rig: Rig) -> None:
    """One holds the signers; when it is killed the other takes over."""
    buyers = await rig.buyers(20)
    async with rig.worker_process() as first, rig.worker_process():
        await rig.until(ready(rig))
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[:10]))
        await kill(first)
        await asyncio.gather(*(rig.pay(buyer) for buyer in buyers[10:]))
        await rig.until_counts(payments_completed=20, mints_completed=20)
        await rig.until(idle(rig))
    await rig.check_invariants()


def freeze(process: asyncio.subprocess.Process, thawed: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """An act: stop the process, and hold its message back until it goes on."""

    async def act() -> None:
        process.send_signal(signal.SIGSTOP)
        await thawed.wait()

    return act


async def test_fault_04_a_worker_that_wakes_late_can_only_send_the_same_bytes(rig: Rig) -> None:
    """Stopped with its broadcast on the wire; another has settled and minted meanwhile; then it goes on."""
    buyers = await rig.buyers(3)
    thawed = asyncio.Event()
    async with rpc_proxy(rig.chain.url) as proxy, rig.worker_process(rpc_url=proxy.url) as sleeper:
        proxy.boundary = Boundary(1, "before", freeze(sleeper, thawed), counts=naming("eth_sendRawTransaction"))
        await rig.until(ready(rig))
        await asyncio.gather(*(rig.pay(buyer, 2) for buyer in buyers))
        await rig.until(finds(rig, "SELECT count(*) = 3 FROM payment_queue WHERE status = 'sent'"))
        await lease_ends(rig)
        async with rig.worker_process():
            await rig.until_counts(payments_completed=3, mints_completed=6)
            sleeper.send_signal(signal.SIGCONT)
            thawed.set()
            (late,) = await rig.buyers(1)
            await rig.pay(late)
            await rig.until_counts(payments_completed=4, mints_completed=7)
            await rig.until(idle(rig))
            assert sleeper.returncode is None
    assert await rig.pool.fetchval("SELECT count(*) FROM chain_attempts") == await rig.pool.fetchval(
        "SELECT count(*) FROM chain_transactions"
    )
    await rig.check_invariants()


@pytest.mark.slow
async def test_fault_04_a_worker_that_sleeps_inside_a_transaction_holds_the_signer_for_seconds(rig: Rig) -> None:
    """The server ends a transaction whose client says nothing, so its row locks do not outlast the lease by much."""
    (buyer,) = await rig.buyers(1)
    thawed = asyncio.Event()
    async with postgres_proxy(rig.database_url) as wire, rig.worker_process(database_url=wire.url) as sleeper:
        wire.boundary = Boundary(1, "after", freeze(sleeper, thawed), counts=naming("INSERT INTO chain_transactions"))
        await rig.until(ready(rig))
        await rig.pay(buyer, 2)
        await rig.until(lambda: _reached(wire.boundary))
        async with rig.worker_process():
            await rig.until_counts(payments_completed=1, mints_completed=2, within_s=20)
            thawed.set()
            sleeper.send_signal(signal.SIGCONT)
            await rig.until(idle(rig))
            assert sleeper.returncode is None
    assert await rows(rig, "SELECT DISTINCT account_nonce::int FROM chain_transactions") == [(0,)]
    await rig.check_invariants()


async def _reached(boundary: Boundary | None) -> bool:
    return boundary is not None and boundary.at is not None


@pytest.mark.slow
async def test_fault_04_a_worker_that_slept_while_idle_goes_on(rig: Rig) -> None:
    """SIGSTOP for longer than its lease, with nobody else there: it takes its signers again, and works."""
    buyers = await rig.buyers(2)
    async with rig.worker_process() as worker:
        await rig.until(ready(rig))
        await rig.pay(buyers[0])
        await rig.until_counts(mints_completed=1)
        with paused(worker):
            await lease_ends(rig)
            await rig.pay(buyers[1])
        await rig.until_counts(payments_completed=2, mints_completed=2)
    await rig.check_invariants()


@pytest.mark.parametrize(
    "skew_s", [pytest.param(-7_200, marks=pytest.mark.slow), 7_200], ids=["two hours slow", "two hours fast"]
)
async def test_fault_26_a_workers_clock_decides_nothing(rig: Rig, tmp_path: Path, skew_s: int) -> None:
    """Leases go by the database's time, validity by the chain's: a worker with a wrong clock settles and mints."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n_t, _n = time.time, time.time_ns\n"
        f"time.time = lambda: _t() + {skew_s}\ntime.time_ns = lambda: _n() + {skew_s} * 10**9\n"
    )
    buyers = await rig.buyers(2)
    async with rig.worker_process(PYTHONPATH=os.fspath(tmp_path)) as worker:
        await rig.until(ready(rig))
        now = (await rig.chain.rpc.head()).time
        for buyer in buyers:
            await rig.order(buyer, authorization=buyer.authorize(seconds=600, chain_time=now))
        await rig.until_counts(payments_completed=2, mints_completed=2)
        assert not await ended(worker)()
    await rig.check_invariants()
