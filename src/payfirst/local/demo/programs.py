"""The API and the worker of the demo: processes of their own, each with its log in a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from payfirst.errors import OperatorError
from payfirst.local import children
from payfirst.local.children import Program

LOG_LINES_SHOWN = 8

T = TypeVar("T")


class ProgramFell(OperatorError):
    """A process of the demo ended by itself."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process and where its log is."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def fall(self) -> None:
        """Raise ProgramFell when the process ends; until then, wait."""
        code = await self.process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        raise ProgramFell("\n  ".join([f"the {self.name} ended with code {code}. Its last words:", *lines]))


@contextlib.asynccontextmanager
async def running(programs: Sequence[Program], log_folder: Path) -> AsyncIterator[list[Running]]:
    """Start the programs, and stop them in reverse order when the block ends. `log_folder` is there already."""
    async with contextlib.AsyncExitStack() as stack:
        started: list[Running] = []
        for program in programs:
            log = log_folder / f"{program.name}.log"
            with log.open("wb") as output:
                process = await children.start(program, output=output.fileno())
            stack.push_async_callback(children.stop, process)
            started.append(Running(program.name, process, log))
        yield started


async def while_running(programs: Sequence[Running], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises ProgramFell at once when one of the programs ends before it."""
    task = asyncio.ensure_future(work)
    falls = [asyncio.ensure_future(program.fall()) for program in programs]
    try:
        await asyncio.wait([task, *falls], return_when=asyncio.FIRST_COMPLETED)
        for fall in falls:
            if fall.done():
                fall.result()
        return await task
    finally:
        for waiting in (task, *falls):
            waiting.cancel()
        await asyncio.gather(task, *falls, return_exceptions=True)
