"""The processes of an installation, each started again when it falls, with wires of its own to database and chain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.rig.postgres_proxy import PostgresProxy
from faults.rig.processes import terminate
from faults.rig.rpc_proxy import RpcProxy
from payfirst.local import children
from payfirst.local.children import Program

RESTART_S = 0.3


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Host:
    """One process and its wires. It is not started while `down` is held."""

    name: str
    program: Program
    log: Path
    wire: PostgresProxy
    rpc: RpcProxy
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    _may_run: asyncio.Event = field(default_factory=_set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def keep(self) -> None:
        """Run the program, and run it again whenever it has ended."""
        with self.log.open("ab") as output:
            while True:
                await self._may_run.wait()
                self.starts += 1
                self.process = await children.start(self.program, output=output.fileno())
                try:
                    await self.process.wait()
                except asyncio.CancelledError:
                    await _end(self.process)
                    raise
                await asyncio.sleep(RESTART_S)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """One fault at a time at this process; waits until there is a process."""
        async with self._turn:
            while self.process is None or self.process.returncode is not None:  # noqa: ASYNC110 - it may fall again
                await asyncio.sleep(0.05)
            yield self.process

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """For the length of the block it is not started again."""
        self._may_run.clear()
        try:
            yield
        finally:
            self._may_run.set()


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        await terminate(process)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running(hosts: list[Host]) -> AsyncIterator[None]:
    """All of them, for the length of the block; ended by SIGTERM, so that each finishes what is under way."""
    keepers = [asyncio.create_task(host.keep()) for host in hosts]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
