"""What lives as long as an API process: its connections, its background tasks, and what it measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import asyncpg
import msgspec

from payfirst.api.waiting import Waiting
from payfirst.config import Config, live
from payfirst.errors import PayfirstError, StoreUnavailable
from payfirst.ops import metrics
from payfirst.ops.latency import LatencyHistogram, LoopMonitor
from payfirst.ops.log import FlowLog, get_logger, run_flusher
from payfirst.ops.slow import SlowProcessing
from payfirst.pipeline.accept import Acceptor
from payfirst.pipeline.admission import Admission, Limits, NotNow
from payfirst.store import processes
from payfirst.store.database import Connection, Pool, connect, session
from payfirst.store.wake import PAYMENTS, Notifier, listen_to_changes

# Two batch writers, the look-ups that requests share, the reads, and what watches in the background.
POOL_SIZE = 9
# Reads never take all connections: the batch writers, on which every 202 waits, keep theirs.
READS_AT_ONCE_MAX = 3
READ_WAIT_S = 5.0
OPEN_RETRY_S = 1.0
RESTART_S = 1.0
HEARTBEAT_S = 1.0
DRAIN_S = 10.0
CLOSE_S = 3.0


class Starting(NotNow):
    """The database was never reached since this process started, so nothing is known yet."""


class DatabaseBusy(StoreUnavailable):
    """Too many reads wait for a connection."""


@dataclass(slots=True)
class Measured:
    """What this process counted since its start; `accept` is from request to response sent, of new payments."""

    accept: LatencyHistogram = field(default_factory=LatencyHistogram)
    accepted: int = 0
    replayed: int = 0
    offered: int = 0  # 402s to requests that carried no payment yet
    refused: Counter[str] = field(default_factory=Counter)  # by HTTP status

    def to_json(self, monitor: LoopMonitor) -> str:
        """As `processes.stats` holds it."""
        return msgspec.json.encode(
            {
                "accept_ms": self.accept.to_json(),
                "accepted": self.accepted,
                "replayed": self.replayed,
                "offered": self.offered,
                "refused": dict(self.refused),
                "loop_stall_ms_max": round(monitor.max_s * 1_000, 3),
                "loop_stall": monitor.histogram.to_json(),
                "metrics": metrics.snapshot(
                    (*metrics.API, metrics.TASK_FAILURES),
                    rebucketed={metrics.ACCEPT: self.accept, metrics.LOOP_LAG: monitor.histogram},
                ),
            }
        ).decode()


@dataclass(frozen=True, slots=True)
class Service:
    """What is there once the database was reached."""

    pool: Pool
    admission: Admission
    acceptor: Acceptor
    notifier: Notifier


class Runtime:
    """One API process. Its background tasks are restarted when they fail; `stop` lets running requests end."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.network = config.network.network.caip2
        self._settings_json = "{}"
        self.log = get_logger(role="api")
        self.flow = FlowLog(get_logger(role="api"))
        self.measured = Measured()
        self.monitor = LoopMonitor(on_late=SlowProcessing(self.log))
        self.waiting = Waiting(self.reading, waiters_max=config.server.waiters_max)
        self._service: Service | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reads = asyncio.Semaphore(READS_AT_ONCE_MAX)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._identity = processes.Identity(
            id=uuid.uuid4(), role="api", network=self.network, host=socket.gethostname(), pid=os.getpid()
        )

    @property
    def service(self) -> Service:
        """Raises Starting until the database was reached and read once."""
        if self._service is None:
            raise Starting("The database does not answer yet.", retry_after_s=1)
        return self._service

    async def start(self) -> None:
        """Return when the database was read once, or could not be reached: then it is tried until it is."""
        tried = asyncio.Event()
        self._supervise("open the database", lambda: self._open(tried))
        self._supervise("count log lines", lambda: run_flusher(self.flow))
        await tried.wait()

    async def stop(self) -> None:
        """Let the requests in flight end, stop the tasks, leave `processes`, close the connections."""
        self.waiting.stop()
        if self._in_flight:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._idle.wait()
        self.monitor.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._service is not None:
            service, self._service = self._service, None
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(CLOSE_S), session(service.pool, "leave") as connection:
                    await processes.leave(connection, self._identity)
            await _close(service.pool)

    def enter(self) -> None:
        """A request begins."""
        self._in_flight += 1

    def leave(self) -> None:
        """A request ends."""
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    @contextlib.asynccontextmanager
    async def read_slot(self) -> AsyncIterator[None]:
        """Wait for one of the few connections that reads may use. Raises DatabaseBusy after a while."""
        try:
            async with asyncio.timeout(READ_WAIT_S):
                await self._reads.acquire()
        except TimeoutError:
            raise DatabaseBusy("too many reads are waiting for a connection") from None
        try:
            yield
        finally:
            self._reads.release()

    @contextlib.asynccontextmanager
    async def reading(self, doing: str) -> AsyncIterator[Connection]:
        """A connection to read with. Raises Starting or StoreUnavailable."""
        pool = self.service.pool
        async with self.read_slot(), session(pool, doing) as connection:
            yield connection

    async def _open(self, tried: asyncio.Event) -> None:
        said = ""
        while self._service is None:
            try:
                self._service = await self._open_once()
            except (PayfirstError, asyncpg.PostgresError) as error:
                if str(error) != said:  # once, not each second
                    said = str(error)
                    self.log.warning("database_away", message=f"Nothing is accepted yet: {said}")
            finally:
                tried.set()
            if self._service is None:
                await asyncio.sleep(OPEN_RETRY_S)
        service = self._service
        self._supervise("admission", service.admission.run)
        self._supervise("batch writer", service.acceptor.run)
        self._supervise("notifier", service.notifier.run)
        self._supervise("listener", self._listen)
        self._supervise("waiting: read", self.waiting.run_reads)
        self._supervise("waiting: look", self.waiting.run_looks)
        self._supervise("heartbeat", lambda: self._beat(service.pool))

    async def _open_once(self) -> Service:
        """Connect and read once. Raises DatabaseNotThere, StoreUnavailable or PostgreSQL's own refusals."""
        pool = await connect(self.config.database.url, name="api", size=POOL_SIZE)
        try:
            admission = Admission(
                pool,
                network=self.network,
                asset=self.config.asset.address_bytes,
                limits_of=self._limits_of,
                monotonic=time.monotonic,
            )
            await admission.refresh()
        except BaseException:
            await _close(pool)
            raise
        notifier = Notifier(pool, PAYMENTS)
        acceptor = Acceptor(
            pool,
            network=self.network,
            asset=self.config.asset.address_bytes,
            pay_to=self.config.payments.pay_to_bytes,
            notifier=notifier,
        )
        return Service(pool, admission, acceptor, notifier)

    def _limits_of(self, rows: Mapping[str, object]) -> Limits:
        """What binds while the table of settings holds these rows; said in the log and in `processes`."""
        found = live.overlay(self.config, rows)
        said, self._settings_json = self._settings_json, live.said_json(found)
        if self._settings_json != said and (rows or said != "{}"):
            self.log.info(
                "settings_taken_up",
                message=f"Settings of the database taken up: {self._settings_json}",
                settings=dict(rows),
            )
        payments, pause = found.config.payments, found.config.pause
        return Limits(
            heartbeat_age_s_max=payments.heartbeat_max_age_s,
            confirm_lag_s_max=payments.confirm_lag_max_s,
            token_sync_age_s_max=payments.token_sync_max_age_s,
            confirmations=found.config.network.confirmations,
            queue_depth_max=payments.queue_depth_max,
            token_unsettled_max=payments.token_outstanding_max,
            payer_unsettled_max=payments.payer_outstanding_max,
            payer_short_s=payments.payer_short_s,
            drain_rate_floor_per_s=payments.drain_rate_floor_per_s,
            seconds_left_min=payments.seconds_left_min,
            wallet_unsettled_max=payments.wallet_outstanding_max,
            wallet_payer_unsettled_max=payments.wallet_payer_outstanding_max,
            accepting=not pause.accepting,
            settling=not pause.settling,
        )

    async def _listen(self) -> None:
        await listen_to_changes(self.config.database.url, changed=self.waiting.changed, connected=self.waiting.look)

    async def _beat(self, pool: Pool) -> None:
        noted = ""
        while True:
            with contextlib.suppress(StoreUnavailable):  # the next beat is a second away
                async with session(pool, "say that this process lives") as connection:
                    await processes.beat(connection, self._identity, stats_json=self.measured.to_json(self.monitor))
                    said = self._settings_json
                    if noted != said:
                        await processes.note_settings(connection, self._identity, settings_json=said)
                        noted = said
            await asyncio.sleep(HEARTBEAT_S)

    def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(self._keep_running(name, run), name=f"payfirst {name}"))

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
                return
            except Exception:
                metrics.TASK_FAILURES.add()
                self.log.exception(
                    "task_failed", message=f"A background task failed and is restarted: {name}", task=name
                )
            await asyncio.sleep(RESTART_S)


async def _close(pool: Pool) -> None:
    """Close in good order, or at once when the server does not answer."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        pool.terminate()
