"""Signals to real processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator


async def kill(process: asyncio.subprocess.Process) -> None:
    """kill -9: nothing in it runs any more."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def terminate(process: asyncio.subprocess.Process, *, within_s: float = 15) -> int:
    """SIGTERM: it finishes what is under way. Raises TimeoutError; returns the exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    return await asyncio.wait_for(process.wait(), within_s)


@contextlib.contextmanager
def paused(process: asyncio.subprocess.Process) -> Iterator[None]:
    """SIGSTOP for the length of a block, then SIGCONT: a machine that sleeps, a long pause of the collector."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
