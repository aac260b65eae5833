"""One run: set up, let buyers and faults loose, heal, wait until nothing is on its way, and judge."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import postgres
from flow.refunding import give_treasury
from flow.rig import Rig, open_rig
from postgres import Server, free_port

from faults.rig.invariants import Ledger
from faults.rig.postgres_proxy import postgres_proxy
from faults.rig.rpc_proxy import rpc_proxy
from faults.rig.servers import SmallDisk, can_mount, server_on_a_small_disk
from faults.waiting import AWAY, Holds
from payfirst.errors import RetriedError
from payfirst.local import children
from payfirst.local.chain import dev_key
from payfirst.local.postgres_host import binaries
from payfirst.units import Wei, hex_text

from . import buyers as crowds
from .acts import ACTS, Stage
from .editions import editions
from .hosts import Host, running
from .schedule import Planned, plan

# From the last fault on, everything that was taken comes to its end within this.
SETTLED_WITHIN_S = 180.0
# From each fault's end on, the next payment settles within this: buyers go on all the time.
NEXT_WITHIN_S = 60.0
TREASURY_UNITS = 10_000
DISK_MIB = 768
WATCH_S = 0.1
Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    schedule: list[Planned]
    ledger: Ledger
    promised: int
    answers: collections.Counter[str]
    owed: list[str]
    violations: list[str]
    recovery_s: list[tuple[str, float]]  # a fault, and from its end to the next settled payment, if there was one
    seconds: float
    logs: Path
    restarts: dict[str, int] = field(default_factory=dict)
    lost: int = 0

    def as_json(self) -> dict[str, int]:
        """The figures for machines."""
        ledger = self.ledger
        return {
            "payments": ledger.payments,
            "settled": ledger.settled,
            "minted": ledger.minted,
            "refunded": ledger.refunded,
            "owed": len(self.owed),
            "lost": self.lost,
            "doubled": ledger.doubled,
            "faults": len(self.schedule),
            "seed": self.seed,
        }

    def report(self) -> str:
        """One page for people."""
        ledger, times = self.ledger, sorted(s for _, s in self.recovery_s)
        slowest = sorted(self.recovery_s, key=lambda each: -each[1])[:5]
        lines = [
            f"Soak: seed {self.seed}, {self.seconds:.0f} s, {len(self.schedule)} faults of"
            f" {len({p.fault for p in self.schedule})} kinds",
            f"  taken      {self.promised} payments ({ledger.payments} rows)",
            f"  settled    {ledger.settled}, failed without a transfer {ledger.failed}",
            f"  minted     {ledger.minted} units, refunded {ledger.refunded}",
            f"  lost       {self.lost}, doubled {ledger.doubled}, owed {len(self.owed)}",
            *(f"    owed: {row}" for row in self.owed),
            f"  answers    {', '.join(f'{name} × {n}' for name, n in sorted(self.answers.items()))}",
            f"  starts     {', '.join(f'{name} × {n}' for name, n in self.restarts.items())}",
        ]
        if times:
            lines.append(
                f"  from a fault's end to the next settled payment: median {times[len(times) // 2]:.1f} s,"
                f" at most {times[-1]:.1f} s; slowest: {', '.join(f'{f} {s:.1f} s' for f, s in slowest)}"
            )
        if self.violations:
            lines += ["  VIOLATIONS:", *(f"    {each}" for each in self.violations), f"  logs: {self.logs}"]
        else:
            lines.append("  every invariant holds, in the database and on the chain")
        return "\n".join(lines)


async def soak(*, seed: int, minutes: float, say: Say, logs: Path) -> Outcome:
    """Run it. `logs` is a folder for the processes' output."""
    seconds = minutes * 60
    names = [name for name in ACTS if name != "PostgreSQL's disk full" or can_mount()]
    schedule = plan(seed, seconds=seconds, faults=names)
    say(f"The schedule of seed {seed} over {minutes:g} minutes:")
    for each in schedule:
        say(f"  {each}")
    with _server() as (server, disk):
        async with _stage(server, disk, seed=seed, logs=logs) as (stage, client):
            return await _run(stage, client, schedule, seed=seed, seconds=seconds, say=say, logs=logs)


async def _run(
    stage: Stage,
    client: httpx.AsyncClient,
    schedule: list[Planned],
    *,
    seed: int,
    seconds: float,
    say: Say,
    logs: Path,
) -> Outcome:
    rig, hosts = stage.rig, [stage.api, *stage.workers]
    crowd = await crowds.crowd(rig, client, seed=seed, seconds=seconds)
    small = await editions(rig, crowd, seconds=seconds)
    await rig.chain.mine(4)  # no reorg is deep enough to take the buyers' money
    violations: list[str] = []
    recovery_s: list[tuple[str, float]] = []
    stop = asyncio.Event()
    started = time.monotonic()
    async with running(hosts):
        await rig.until(_is_ready(client), within_s=60)
        watch = _Watch(rig)
        watching = asyncio.create_task(watch.run())
        buying = asyncio.create_task(crowd.buy_until(stop))
        collecting = asyncio.create_task(small.sell(seconds=seconds))
        began = asyncio.get_running_loop().time()
        try:
            acts = [asyncio.create_task(_act(stage, each, began, watch, say)) for each in schedule]
            for each, act in zip(schedule, acts, strict=True):
                took_s = await act
                if took_s is None:
                    violations.append(f"{each.fault}: no payment settled within {NEXT_WITHIN_S:.0f} s of its end")
                else:
                    recovery_s.append((each.fault, took_s))
            await asyncio.sleep(max(0.0, began + seconds - asyncio.get_running_loop().time()))
        finally:
            stop.set()
        await asyncio.gather(buying, collecting)
        try:
            await rig.until(_settled(rig), within_s=SETTLED_WITHIN_S)
        except AssertionError as late:
            violations.append(str(late))
        if watching.done():
            watching.result()  # who watches must not fall: without it no recovery is measured
        watching.cancel()
    ledger = await rig.examine(in_order=False, foreign=small.foreign)
    violations += [*ledger.violations, *crowd.complaints]
    rows = {str(row["id"]) for row in await rig.pool.fetch("SELECT id FROM payment_queue")}
    broken = [payment for payment in crowd.promised if payment not in rows]
    violations += [f"payment {each} ({crowd.promised[each]}) was promised, and has no row" for each in broken]
    return Outcome(
        seed=seed,
        schedule=schedule,
        ledger=ledger,
        promised=len(crowd.promised),
        answers=crowd.answers,
        owed=await _owed(rig, crowd),
        violations=violations,
        recovery_s=recovery_s,
        seconds=time.monotonic() - started,
        logs=logs,
        restarts={host.name: host.starts for host in hosts},
        lost=len(broken) + ledger.missing,
    )


async def _act(stage: Stage, planned: Planned, began: float, watch: _Watch, say: Say) -> float | None:
    """Seconds from the fault's end to the next settled payment; None if none came within NEXT_WITHIN_S."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, began + planned.at_s - loop.time()))
    say(f"{loop.time() - began:7.1f} s  {planned.fault}")
    await ACTS[planned.fault](stage, planned)
    ended = loop.time()
    try:
        return await watch.next_after(ended, within_s=NEXT_WITHIN_S)
    except TimeoutError:
        return None


class _Watch:
    """When payments were seen settled: the count in the database, looked at every WATCH_S."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._settled = 0
        self._rose_at = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with contextlib.suppress(*AWAY):
                found = await self._rig.pool.fetchval(
                    "SELECT count(*) FROM payment_queue WHERE status = 'completed'", timeout=5
                )
                if found > self._settled:
                    self._settled, self._rose_at = found, asyncio.get_running_loop().time()
            await asyncio.sleep(WATCH_S)

    async def next_after(self, moment: float, *, within_s: float) -> float:
        """Seconds from `moment` to the next settled payment. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while self._rose_at <= moment:  # noqa: ASYNC110 - what is looked at is in the database
                await asyncio.sleep(WATCH_S)
        return self._rose_at - moment


def _is_ready(client: httpx.AsyncClient) -> Holds:
    async def holds() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await client.get("/ready")).status_code == 200
        return False

    return holds


def _settled(rig: Rig) -> Holds:
    """Nothing is on its way, three blocks later still not, what a reorg took is back, what is owed to buyers repaid."""
    question = (
        "SELECT NOT EXISTS (SELECT 1 FROM payment_queue WHERE status IN ('pending', 'sent') OR finality = 'reorged')"
        " AND NOT EXISTS (SELECT 1 FROM mint_queue WHERE status IN ('pending', 'sent'))"
        " AND NOT EXISTS (SELECT 1 FROM chain_transactions WHERE state = 'sent')"
        " AND NOT EXISTS (SELECT 1 FROM refunds WHERE status IN ('waiting', 'approved', 'sent'))"
        " AND NOT EXISTS (SELECT 1 FROM owed o JOIN payment_queue p ON p.id = o.payment_id"
        " WHERE o.direction = 'to_buyer' AND o.status = 'open' AND p.finality <> 'lost')"
    )
    since: int | None = None

    async def holds() -> bool:
        nonlocal since
        try:
            head = (await rig.chain.rpc.head()).number
            is_idle = await rig.pool.fetchval(question)
        except (*AWAY, RetriedError):
            is_idle = False
        if not is_idle:
            since = None
            return False
        since = head if since is None else since
        return head >= since + 3

    return holds


async def _owed(rig: Rig, crowd: crowds.Crowd) -> list[str]:
    rows = await rig.pool.fetch(
        "SELECT o.direction, o.reason, o.amount, o.payment_id::text, o.beneficiary, p.finality, p.error"
        " FROM owed o LEFT JOIN payment_queue p ON p.id = o.payment_id WHERE o.status = 'open' ORDER BY o.id"
    )
    return [
        f"{row['direction']}: {row['reason']}, {row['amount']}, payment {row['payment_id']}"
        f" of a buyer ({crowd.promised.get(row['payment_id'], 'not answered')}), {row['finality']}, {row['error']}"
        if row["payment_id"] is not None
        else f"{row['direction']}: {row['reason']}, {row['amount']} of {row['beneficiary']}, who paid without an order"
        for row in rows
    ]


# ---- the stage -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server() -> Iterator[tuple[Server, SmallDisk | None]]:
    if can_mount():
        with server_on_a_small_disk(mib=DISK_MIB, settings={}) as disk:
            yield disk.server, disk
        return
    with postgres.temporary_folder() as folder, postgres.server(binaries(), folder) as server:
        yield server, None


@contextlib.asynccontextmanager
async def _stage(
    server: Server, disk: SmallDisk | None, *, seed: int, logs: Path
) -> AsyncIterator[tuple[Stage, httpx.AsyncClient]]:
    async with contextlib.AsyncExitStack() as stack:
        url = stack.enter_context(server.cluster.database(template=server.cluster.migrated_template))
        pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=0, max_size=4))
        bare = await stack.enter_async_context(open_rig(url, pool, block_time_s=1))
        rig = await give_treasury(bare, units=TREASURY_UNITS)
        await rig.chain.fund_gas(crowds.gas_payers(), Wei(10**20))
        data, key = crowds.grant_to_the_second_minter()
        await rig.chain.send(rig.token, data, key)
        hosts = []
        port = free_port()
        for name in ("API", "worker 1", "worker 2"):
            wire = await stack.enter_async_context(postgres_proxy(url))
            proxy = await stack.enter_async_context(rpc_proxy(rig.chain.url))
            env = _environment(rig, proxy.url, wire.url, port=port, confirmations=1 + seed % 2)
            if name == "API":
                env = {key: value for key, value in env.items() if "SIGNERS" not in key}
            program = children.api(env=env) if name == "API" else children.worker(env=env)
            hosts.append(Host(name, program, logs / f"{name.replace(' ', '-').lower()}.log", wire, proxy))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, limits=httpx.Limits(max_connections=40))
        )
        yield Stage(rig, server, disk, hosts[0], hosts[1:]), client


def _environment(rig: Rig, rpc_url: str, database_url: str, *, port: int, confirmations: int) -> dict[str, str]:
    return rig.worker_environment(rpc_url) | {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "PAYFIRST_SERVER__PORT": str(port),
        "PAYFIRST_NETWORK__CONFIRMATIONS": str(confirmations),
        "PAYFIRST_NETWORK__FINAL_DEPTH": "12",
        "PAYFIRST_NETWORK__REPLACE_AFTER_S": "6",
        "PAYFIRST_NETWORK__ABANDON_AFTER_S": "60",
        "PAYFIRST_PAYMENTS__SECONDS_LEFT_MIN": "5",
        "PAYFIRST_SIGNERS__SETTLE_KEY": _keys("settle", "settle 2"),
        "PAYFIRST_SIGNERS__MINT_KEY": _keys("mint", "mint 2"),
        "PAYFIRST_SIGNERS__REFUND_KEY": _keys("refund", "refund 2"),
        "PAYFIRST_LOG__FORMAT": "json",
    }


def _keys(*names: str) -> str:
    return ",".join(hex_text(dev_key(name)) for name in names)
