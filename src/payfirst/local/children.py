"""Child processes that do not outlive their parent, and are started again when they fall."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from payfirst.ops.log import get_logger

STOP_S = 20.0
RESTART_S_FIRST = 0.5
RESTART_S_MAX = 15.0
# A child that lived this long had a good start: its next fall is restarted without the longer wait.
STEADY_S = 30.0
WORKER_NICENESS = 5
_PR_SET_PDEATHSIG = 1

log = get_logger()


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and in which environment: the API's has no key in it."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    niceness: int = 0


def api(*, env: Mapping[str, str]) -> Program:
    """`payfirst serve`, run by this interpreter."""
    return Program("api", (sys.executable, "-m", "payfirst", "serve"), env)


def worker(*, number: int = 1, env: Mapping[str, str]) -> Program:
    """`payfirst work`, run by this interpreter, behind the API: a buyer waits for milliseconds, a block for seconds."""
    return Program(f"worker-{number}", (sys.executable, "-m", "payfirst", "work"), env, WORKER_NICENESS)


def metrics(*, env: Mapping[str, str]) -> Program:
    """`payfirst metrics`, run by this interpreter, behind everything else."""
    return Program("metrics", (sys.executable, "-m", "payfirst", "metrics"), env, WORKER_NICENESS)


def before_start(niceness: int = 0) -> Callable[[], None]:
    """For `preexec_fn`: give way by `niceness`, and (on Linux) end by SIGTERM when the parent dies, however it dies."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if niceness:
            os.nice(niceness)

    return prepare


async def start(program: Program, *, output: int | None = None) -> asyncio.subprocess.Process:
    """Start a program in a session of its own, so that Ctrl-C reaches it through its parent only."""
    return await asyncio.create_subprocess_exec(
        *program.argv,
        env=dict(program.env),
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=before_start(program.niceness),
    )


async def stop(process: asyncio.subprocess.Process, *, within_s: float = STOP_S) -> int:
    """SIGTERM, and SIGKILL for one that will not go; returns the exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(within_s):
            return await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()


async def supervise(programs: Sequence[Program], *, asked_to_stop: asyncio.Event) -> None:
    """Keep the programs running until asked to stop; then stop them all, in reverse order of their starts."""
    keepers = [asyncio.create_task(_keep(program)) for program in programs]
    waiting = asyncio.create_task(_until(asked_to_stop))
    await asyncio.wait([waiting, *keepers], return_when=asyncio.FIRST_COMPLETED)
    for keeper in (*reversed(keepers), waiting):
        keeper.cancel()
    for result in await asyncio.gather(*keepers, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def _keep(program: Program) -> None:
    loop = asyncio.get_running_loop()
    wait_s = RESTART_S_FIRST
    while True:
        process = await start(program)
        started_at = loop.time()
        log.info("process_started", message=f"Started {program.name}", name=program.name, pid=process.pid)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await stop(process)
            raise
        if loop.time() - started_at > STEADY_S:
            wait_s = RESTART_S_FIRST
        log.error(
            "process_fell",
            message=f"{program.name} ended with code {code}; it is started again in {wait_s:g} s",
            name=program.name,
            code=code,
        )
        await asyncio.sleep(wait_s)
        wait_s = min(RESTART_S_MAX, wait_s * 2)


async def _until(event: asyncio.Event) -> None:
    await event.wait()
