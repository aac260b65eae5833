"""What each fault of the soak does. All of them end by themselves, and leave everything as it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from flow.rig import Rig
from postgres import Server

from faults.rig.boundary import Boundary, Moment, cut, kill_of, naming
from faults.rig.chain import block, forget_all, no_mining, reorg
from faults.rig.postgres_proxy import PostgresProxy
from faults.rig.processes import kill, paused
from faults.rig.rpc_lies import boasts_of_its_height, lags, miscounts_nonces
from faults.rig.rpc_proxy import (
    Fault,
    RpcProxy,
    delays,
    drops,
    duplicates,
    garbage,
    honest,
    loses_reply,
    only,
    reorders,
    status,
)
from faults.rig.servers import SmallDisk

from .hosts import Host
from .schedule import Planned

BASE_FEE_SPIKE = 120 * 10**9  # wei: above the cap of 50 gwei for about seven blocks


@dataclass
class Stage:
    """What faults act on."""

    rig: Rig
    server: Server
    disk: SmallDisk | None
    api: Host
    workers: list[Host]
    _database: asyncio.Lock = field(default_factory=asyncio.Lock)
    _chain: asyncio.Lock = field(default_factory=asyncio.Lock)

    def worker(self, planned: Planned) -> Host:
        """The worker whose turn it is."""
        return self.workers[planned.host % len(self.workers)]

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[None]:
        """One fault of the server at a time."""
        async with self._database:
            yield

    @contextlib.asynccontextmanager
    async def chain(self) -> AsyncIterator[None]:
        """One fault of the chain at a time."""
        async with self._chain:
            yield


Act = Callable[[Stage, Planned], Awaitable[None]]


# ---- processes -----------------------------------------------------------------------------------------


async def worker_killed(stage: Stage, planned: Planned) -> None:
    """kill -9; started again after a while."""
    await _kill(stage.worker(planned), planned.lasts_s)


async def api_killed(stage: Stage, planned: Planned) -> None:
    """kill -9, with requests under way."""
    await _kill(stage.api, planned.lasts_s / 3)


async def both_workers_killed(stage: Stage, planned: Planned) -> None:
    """Nobody settles for a while."""
    await asyncio.gather(*(_kill(host, planned.lasts_s) for host in stage.workers))


async def _kill(host: Host, lasts_s: float) -> None:
    async with host.alone() as process:
        with host.down():
            await kill(process)
            await asyncio.sleep(lasts_s)


async def worker_paused(stage: Stage, planned: Planned) -> None:
    """SIGSTOP, now and then for longer than its lease."""
    async with stage.worker(planned).alone() as process:
        with contextlib.suppress(ProcessLookupError), paused(process):
            await asyncio.sleep(planned.lasts_s)


async def api_paused(stage: Stage, planned: Planned) -> None:
    """SIGSTOP of the API: buyers wait."""
    async with stage.api.alone() as process:
        with contextlib.suppress(ProcessLookupError), paused(process):
            await asyncio.sleep(planned.lasts_s / 2)


# ---- PostgreSQL ----------------------------------------------------------------------------------------


async def postgres_killed(stage: Stage, planned: Planned) -> None:
    """kill -9 of the server and all of its processes."""
    async with stage.database():
        stage.server.kill()
        await asyncio.sleep(planned.lasts_s)
        await asyncio.to_thread(stage.server.start)


async def postgres_restarted(stage: Stage, _planned: Planned) -> None:
    """A fast shutdown and a start."""
    async with stage.database():
        await asyncio.to_thread(stage.server.stop)
        await asyncio.to_thread(stage.server.start)


async def disk_full(stage: Stage, planned: Planned) -> None:
    """Not a byte is left on PostgreSQL's disk; a server that died of it is started again once there is room."""
    if stage.disk is None:
        return
    async with stage.database():
        await asyncio.to_thread(stage.disk.fill)
        try:
            await asyncio.sleep(planned.lasts_s)
        finally:
            stage.disk.clear()
        if not stage.server.is_running:
            await asyncio.to_thread(stage.server.start)


async def connections_cut(stage: Stage, planned: Planned) -> None:
    """All connections of a worker and of the API to the database end at once."""
    await stage.worker(planned).wire.cut_all()
    await stage.api.wire.cut_all()


def commits_cut(moment: Moment) -> Act:
    """The connection of a worker ends in a few COMMITs, before or after they take effect."""

    async def act(stage: Stage, planned: Planned) -> None:
        host = stage.worker(planned)
        for _ in range(planned.size):
            await _reach(host.wire, Boundary(1, moment, cut, counts=naming("COMMIT")), planned.lasts_s)

    return act


def api_commit_cut(moment: Moment) -> Act:
    """The connection of the API ends in the statement that takes payments."""

    async def act(stage: Stage, planned: Planned) -> None:
        await _reach(
            stage.api.wire, Boundary(1, moment, cut, counts=naming("INSERT INTO authorizations")), planned.lasts_s
        )

    return act


def killed_in_commit(moment: Moment) -> Act:
    """kill -9 of a worker at one of its COMMITs."""

    async def act(stage: Stage, planned: Planned) -> None:
        host = stage.worker(planned)
        async with host.alone() as process:
            boundary = Boundary(planned.size, moment, kill_of(process), counts=naming("COMMIT"))
            await _reach(host.wire, boundary, planned.lasts_s)

    return act


async def _reach(wire: PostgresProxy | RpcProxy, boundary: Boundary, within_s: float) -> None:
    wire.boundary = boundary
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while boundary.at is None:  # noqa: ASYNC110 - a boundary has no event
                await asyncio.sleep(0.02)
    wire.boundary = None


# ---- RPC -----------------------------------------------------------------------------------------------


def rpc(fault: Fault, *, everywhere: bool = False) -> Act:
    """A worker's endpoint (every worker's, if `everywhere`) has a fault for a while."""

    async def act(stage: Stage, planned: Planned) -> None:
        hosts = stage.workers if everywhere else [stage.worker(planned)]
        for host in hosts:
            host.rpc.fault = fault
        try:
            await asyncio.sleep(planned.lasts_s)
        finally:
            for host in hosts:
                host.rpc.fault = honest

    return act


async def killed_around_broadcast(stage: Stage, planned: Planned) -> None:
    """kill -9 of a worker when the node has taken its transaction, and it has not heard of that."""
    host = stage.worker(planned)
    async with host.alone() as process:
        boundary = Boundary(1, "after", kill_of(process), counts=naming("eth_sendRawTransaction"))
        await _reach(host.rpc, boundary, planned.lasts_s)


# ---- the chain -----------------------------------------------------------------------------------------


async def reorganised(stage: Stage, planned: Planned) -> None:
    """The last blocks are replaced by empty ones."""
    async with stage.chain():
        await reorg(stage.rig.chain, planned.size)


async def pool_forgotten(stage: Stage, planned: Planned) -> None:
    """The node drops what waits in its pool, without a word."""
    async with stage.chain():
        for _ in range(planned.size):
            await forget_all(stage.rig.chain)
            await asyncio.sleep(0.4)


async def mining_stopped(stage: Stage, planned: Planned) -> None:
    """No block for a while."""
    async with stage.chain(), no_mining(stage.rig.chain):
        await asyncio.sleep(planned.lasts_s)


async def base_fee_spike(stage: Stage, _planned: Planned) -> None:
    """The base fee is above the workers' cap, and falls from block to block."""
    async with stage.chain():
        await block(stage.rig.chain, base_fee=BASE_FEE_SPIKE)


ACTS: dict[str, Act] = {
    "worker killed": worker_killed,
    "both workers killed": both_workers_killed,
    "worker paused": worker_paused,
    "API killed": api_killed,
    "API paused": api_paused,
    "PostgreSQL killed": postgres_killed,
    "PostgreSQL restarted": postgres_restarted,
    "PostgreSQL's disk full": disk_full,
    "connections cut": connections_cut,
    "COMMIT cut before": commits_cut("before"),
    "COMMIT cut after": commits_cut("after"),
    "API's COMMIT cut before": api_commit_cut("before"),
    "API's COMMIT cut after": api_commit_cut("after"),
    "killed before COMMIT": killed_in_commit("before"),
    "killed after COMMIT": killed_in_commit("after"),
    "killed after broadcast": killed_around_broadcast,
    "RPC away": rpc(drops, everywhere=True),
    "RPC lost replies": rpc(loses_reply, everywhere=True),
    "RPC lost broadcast replies": rpc(only("eth_sendRawTransaction", loses_reply), everywhere=True),
    "RPC 429": rpc(status(429, Retry_After="1")),
    "RPC 502": rpc(status(502), everywhere=True),
    "RPC garbage": rpc(garbage),
    "RPC lags": rpc(lags(2), everywhere=True),
    "RPC slow": rpc(delays(1.0), everywhere=True),
    "RPC duplicates": rpc(duplicates),
    "RPC reorders": rpc(reorders()),
    "RPC boasts of its height": rpc(boasts_of_its_height(5)),
    "RPC stale nonces": rpc(miscounts_nonces(lambda n: max(0, n - 2)), everywhere=True),
    "reorg": reorganised,
    "pool forgotten": pool_forgotten,
    "no mining": mining_stopped,
    "base fee spike": base_fee_spike,
}
