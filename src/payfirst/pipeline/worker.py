"""One worker process: settle, confirm, mint and watch as tasks of one loop, woken by each other and by NOTIFY."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

import msgspec

from payfirst.chain.rpc import RpcClient
from payfirst.chain.signers import Signer, Treasury
from payfirst.errors import OperatorError, RetriedError, StoreUnavailable
from payfirst.ops import metrics
from payfirst.ops.latency import LoopMonitor
from payfirst.ops.log import FlowLog, get_logger, run_flusher
from payfirst.ops.slow import SlowProcessing
from payfirst.pipeline.audit import Auditor
from payfirst.pipeline.configured import demand_configured_chain
from payfirst.pipeline.confirm import Confirmer
from payfirst.pipeline.displaced import DisplacedWatch
from payfirst.pipeline.head import HeadWatch
from payfirst.pipeline.mint import Minter
from payfirst.pipeline.on_its_way import OnItsWay
from payfirst.pipeline.outbox import Outbox
from payfirst.pipeline.recredit import Recrediter
from payfirst.pipeline.refund import Refunder
from payfirst.pipeline.rounds import Rounds
from payfirst.pipeline.settle import Settler
from payfirst.pipeline.terms import LayOver, Terms
from payfirst.pipeline.under_way import UnderWay
from payfirst.pipeline.watch import Watcher
from payfirst.store import database, mints, processes, settings, settling, wake
from payfirst.store.database import Connection, Pool, session
from payfirst.store.ids import Ids
from payfirst.store.mints import ClaimedMint
from payfirst.store.processes import Identity
from payfirst.store.settling import Claim, ClaimedPayment
from payfirst.store.signers import Purpose
from payfirst.units import Address

POOL_SIZE = 10
POOL_PER_LANE = 2
HEARTBEAT_S = 1.0
RESTART_S = 1.0
STOP_S = 10.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class RefundKeys:
    """What refunds are paid from, and the signers, at least one, that send them."""

    treasury: Treasury
    signers: tuple[Signer, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """The signers of a worker, at least one to settle and one to mint, none for two purposes.

    Without refund keys, what is owed stays owed.
    """

    settle: tuple[Signer, ...]
    mint: tuple[Signer, ...]
    refund: RefundKeys | None = None


@dataclass(frozen=True, slots=True)
class _Lane:
    """One signer's sending: several lanes of a purpose work side by side, each with its own account nonces."""

    name: str
    outbox: Outbox
    rounds: Rounds


async def work(
    *,
    database_url: str,
    rpc_urls: tuple[str, ...],
    terms: Terms,
    keys: Keys,
    stop: asyncio.Event,
    lay_over: LayOver | None = None,
) -> None:
    """Work until `stop` is set; then finish what is under way, and give the signers back.

    With `lay_over`, what the operator sets in a running system is taken up within seconds.

    Raises OperatorError when the database, the endpoint's chain or a signer's purpose is not as configured.
    """
    lanes = len(keys.settle) + len(keys.mint) + (0 if keys.refund is None else len(keys.refund.signers))
    pool = await database.connect(database_url, name="worker", size=POOL_SIZE + POOL_PER_LANE * (lanes - 2))
    try:
        async with RpcClient(
            rpc_urls,
            chain_id=terms.chain_id,
            log_blocks_max=terms.log_blocks_max,
            lag_blocks_max=terms.lag_blocks_max,
        ) as rpc:
            if not await _unless(stop, demand_configured_chain(rpc, terms)):
                return
            worker = _Worker(pool, rpc, database_url=database_url, terms=terms, keys=keys, lay_over=lay_over)
            await worker.run(stop)
    finally:
        await asyncio.wait_for(pool.close(), STOP_S)


class _Worker:
    def __init__(
        self,
        pool: Pool,
        rpc: RpcClient,
        *,
        database_url: str,
        terms: Terms,
        keys: Keys,
        lay_over: LayOver | None,
    ) -> None:
        self._pool = pool
        self._rpc = rpc
        self._terms = terms
        self._lay_over = lay_over
        self._settings: dict[str, object] | None = None  # as the table held them last
        self._settings_json = "{}"
        self._database_url = database_url
        self._network = terms.network
        self._process = Identity(
            id=Ids().draw(),
            role="worker",
            network=terms.network,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._flow_log = FlowLog(get_logger())
        self._head = HeadWatch(
            pool, rpc, network=terms.network, poll_s=terms.poll_s, final_depth=terms.final_depth,
            confirmations=terms.confirmations, others=terms.depths,
        )  # fmt: skip
        recrediter = Recrediter(pool, rpc, terms=terms)
        self._change_notifier = wake.ChangeNotifier(pool)
        on_changed = self._change_notifier.changed
        owner = str(self._process.id)
        payments_under_way: UnderWay[ClaimedPayment] = UnderWay()
        on_its_way = OnItsWay(pool, network=terms.network, asset=terms.asset)
        self._settle_lanes: list[_Lane] = []
        for number, signer in enumerate(keys.settle, start=1):
            outbox = Outbox(
                pool, rpc, terms=terms, signer=signer, purpose="settle", owner=owner, head=self._head,
                free_claims=settling.free_claims,
            )  # fmt: skip
            settler = Settler(
                pool, rpc, terms=terms, outbox=outbox, head=self._head, flow_log=self._flow_log,
                recrediter=recrediter, under_way=payments_under_way, on_its_way=on_its_way,
                on_changed=on_changed,
            )  # fmt: skip
            self._settle_lanes.append(_Lane(f"settle {number}", outbox, settler.rounds))
        units_under_way: UnderWay[ClaimedMint] = UnderWay()
        self._mint_lanes: list[_Lane] = []
        for number, signer in enumerate(keys.mint, start=1):
            outbox = Outbox(
                pool, rpc, terms=terms, signer=signer, purpose="mint", owner=owner, head=self._head,
                free_claims=mints.free_claims,
            )  # fmt: skip
            minter = Minter(
                pool, rpc, terms=terms, outbox=outbox, head=self._head, under_way=units_under_way, on_changed=on_changed
            )
            self._mint_lanes.append(_Lane(f"mint {number}", outbox, minter.rounds))
        self._lanes = [*self._settle_lanes, *self._mint_lanes, *self._refund_lanes(keys.refund, owner)]
        self._mint_notifier = wake.Notifier(pool, wake.MINTS)
        self._confirmer = Confirmer(
            pool, rpc, terms=terms, head=self._head, flow_log=self._flow_log, on_capacity=self._on_capacity,
            on_mints=self._on_mints, on_changed=on_changed,
        )  # fmt: skip
        displaced = DisplacedWatch(pool, rpc, terms=terms, head=self._head, on_changed=on_changed)
        self._watcher = Watcher(
            pool, rpc, terms=terms, head=self._head, recrediter=recrediter, displaced=displaced, on_changed=on_changed,
        )  # fmt: skip
        self._monitor = LoopMonitor(on_late=SlowProcessing(get_logger(role="worker")))
        self._auditor = Auditor(pool, rpc, terms=terms, recrediter=recrediter, on_changed=on_changed)
        self._addresses: dict[Address, Purpose] = {
            **{signer.address: "settle" for signer in keys.settle},
            **{signer.address: "mint" for signer in keys.mint},
            **{signer.address: "refund" for signer in (() if keys.refund is None else keys.refund.signers)},
        }
        self._stopping = False

    def _refund_lanes(self, keys: RefundKeys | None, owner: str) -> list[_Lane]:
        lanes: list[_Lane] = []
        if keys is None:
            return lanes
        for number, signer in enumerate(keys.signers, start=1):
            outbox = Outbox(
                self._pool, self._rpc, terms=self._terms, signer=signer, purpose="refund", owner=owner,
                head=self._head, free_claims=_free_nothing,
            )  # fmt: skip
            refunder = Refunder(
                self._pool, self._rpc, terms=self._terms, treasury=keys.treasury, outbox=outbox, head=self._head,
                on_changed=self._change_notifier.changed,
            )  # fmt: skip
            lanes.append(_Lane(f"refund {number}", outbox, refunder.rounds))
        return lanes

    def _wake_settling(self) -> None:
        for lane in self._settle_lanes:
            lane.rounds.wake()

    def _wake_minting(self) -> None:
        for lane in self._mint_lanes:
            lane.rounds.wake()

    def _on_capacity(self) -> None:
        self._wake_settling()
        self._wake_minting()

    def _on_mints(self) -> None:
        self._wake_minting()
        self._mint_notifier.wake()

    async def run(self, stop: asyncio.Event) -> None:
        if not await _unless(stop, self._started()):
            return
        # What sends is let finish its step; what only looks and records is cancelled after it.
        sending = {lane.name: lane.rounds.run for lane in self._lanes}
        looking = {
            "confirm": self._confirmer.run,
            "watch": self._watcher.run,
            "audit": self._auditor.run,
            "head": self._head.run,
            **{f"{lane.name} outbox": lane.outbox.tend for lane in self._lanes},
            "notify": self._mint_notifier.run,
            "notify changes": self._change_notifier.run,
            "heartbeat": self._beat,
            "log": lambda: run_flusher(self._flow_log),
            "listen": self._listen,
        }
        senders = [asyncio.create_task(self._keep(name, task)) for name, task in sending.items()]
        lookers = [asyncio.create_task(self._keep(name, task)) for name, task in looking.items()]
        self._monitor.start()
        log.info("worker_started", message="Worker started", worker=str(self._process.id), network=self._network)
        asked = asyncio.create_task(_until(stop))
        await asyncio.wait([asked, *senders, *lookers], return_when=asyncio.FIRST_COMPLETED)
        failure = next((t.exception() for t in (*senders, *lookers) if t.done() and not t.cancelled()), None)
        log.info("worker_stopping", message="Worker stops: finishing what is under way")
        await self._stop(senders, [*lookers, asked])
        if failure is not None:
            raise failure

    async def _started(self) -> None:
        while True:
            try:
                async with session(self._pool, "read the settings") as connection:
                    await self._take_up_settings(connection)
                # Before the head is written: until when the last worker lived is read there.
                await self._auditor.fence_lost()
                await self._head.start()
                await self._auditor.at_start(self._addresses)
                return
            except RetriedError as error:
                log.warning("start_postponed", message=f"Waiting to start: {error}")
                await asyncio.sleep(RESTART_S)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a task for ever. What it does not handle is logged whole, and it is started again from the rows."""
        while not self._stopping:
            try:
                await run()
            except OperatorError:
                raise
            except Exception:
                metrics.TASK_FAILURES.add()
                log.exception("task_failed", message=f"The {name} task failed and is started again", task=name)
                await asyncio.sleep(RESTART_S)

    async def _stop(self, senders: list[asyncio.Task[None]], lookers: list[asyncio.Task[None]]) -> None:
        self._stopping = True
        self._monitor.stop()
        for lane in self._lanes:
            lane.rounds.stop()
        await asyncio.wait(senders, timeout=STOP_S)
        for task in (*senders, *lookers):
            task.cancel()
        await asyncio.wait([*senders, *lookers], timeout=STOP_S)
        self._flow_log.flush()
        for give_back in (*(lane.outbox.release for lane in self._lanes), self._leave):
            try:
                await give_back()
            except StoreUnavailable as error:
                log.warning("stop_incomplete", message=f"Not given back, its lease will end by itself: {error}")
        log.info("worker_stopped", message="Worker stopped")

    async def _listen(self) -> None:
        handlers = {wake.PAYMENTS: self._wake_settling, wake.MINTS: self._wake_minting}
        await wake.listen(self._database_url, handlers)

    async def _leave(self) -> None:
        async with session(self._pool, "say that this worker stops") as connection:
            await processes.leave(connection, self._process)

    def _stats(self) -> str:
        counted = metrics.snapshot(
            (*metrics.WORKER, metrics.TASK_FAILURES), rebucketed={metrics.LOOP_LAG: self._monitor.histogram}
        )
        stall_ms = round(self._monitor.max_s * 1_000, 3)
        return msgspec.json.encode({"loop_stall_ms_max": stall_ms, "metrics": counted}).decode()

    async def _take_up_settings(self, connection: Connection) -> None:
        """Go by what the table of settings holds; every task reads its terms anew each round."""
        if self._lay_over is None:
            return
        rows = await settings.read(connection)
        if rows == self._settings:
            return
        first, self._settings = self._settings is None, rows
        taken_up = self._lay_over(rows)
        self._terms.take_up(taken_up.terms)
        self._settings_json = taken_up.said_json
        self._head.poll_s = self._terms.poll_s
        self._on_capacity()
        if rows or not first:
            log.info(
                "settings_taken_up", message=f"Settings of the database taken up: {taken_up.said_json}", settings=rows
            )

    async def _beat(self) -> None:
        noted = ""
        while True:
            try:
                async with session(self._pool, "say that this worker lives") as connection:
                    await processes.beat(connection, self._process, stats_json=self._stats())
                    await self._take_up_settings(connection)
                    if noted != self._settings_json:
                        await processes.note_settings(connection, self._process, settings_json=self._settings_json)
                        noted = self._settings_json
            except StoreUnavailable as error:
                log.warning("heartbeat_missed", message=f"No heartbeat could be written: {error}")
            await asyncio.sleep(HEARTBEAT_S)


async def _free_nothing(_connection: Connection, _claim: Claim) -> None:
    """Refunds are not leased: whoever holds the signer sends what is due."""


async def _unless(stop: asyncio.Event, start: Coroutine[None, None, None]) -> bool:
    """Await `start`, whatever it waits for, unless `stop` is set first; True when it came to its end."""
    starting, asked = asyncio.create_task(start), asyncio.create_task(_until(stop))
    try:
        await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            return True
        return False
    finally:
        for task in (starting, asked):
            task.cancel()
        await asyncio.wait([starting, asked])


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()
