"""The supervisor of the processes that serve, with processes that do something simpler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from postgres import free_port

from .shop import until
from .test_server import lives

PROGRAM = """
import os, pathlib, signal, sys, time
from payfirst.cli import processes
from payfirst.ops import log

log.configure("json", "info")
processes.STOP_TIMEOUT_S = 1.0
ran = pathlib.Path("ran")

def fall(listener):
    with ran.open("a") as file:
        file.write("x")
    return 3

def fall_once(listener):
    if not ran.exists():
        ran.touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    client, _ = listener.accept()
    client.sendall(b"served")
    client.close()
    signal.pause()
    return 0

def stay(listener):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ran.write_text(str(os.getpid()))
    time.sleep(600)
    return 0

kind = sys.argv[1]
fork = os.fork
if kind == "no_fork":
    os.fork = lambda: (_ for _ in ()).throw(BlockingIOError(11, "Resource temporarily unavailable"))
if kind == "fork_once":
    def os_fork():
        if ran.exists():
            raise BlockingIOError(11, "Resource temporarily unavailable")
        ran.touch()
        return fork()
    os.fork = os_fork

listeners = processes.listen("127.0.0.1", int(sys.argv[2]), count=1, backlog=16)
serve = {"fall_once": fall_once, "stay": stay}.get(kind, fall)
processes.supervise(listeners, serve)
"""


class Supervisor:
    """It runs in a folder of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.ran = folder / "ran"

    async def has_run(self) -> bool:
        """Whether a process has begun."""
        return self.ran.exists()

    async def has_said(self) -> bool:
        """Whether it has said something about itself."""
        return self.ran.exists() and bool(self.ran.read_text())

    async def ended(self) -> tuple[int | None, str]:
        """Its exit code, and what it said."""
        async with asyncio.timeout(20):
            said, _ = await self.process.communicate()
        return self.process.returncode, said.decode()


@contextlib.asynccontextmanager
async def supervising(kind: str, folder: Path) -> AsyncIterator[Supervisor]:
    """One process of a kind."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, kind, str(port), cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield Supervisor(process, port, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_what_cannot_be_kept_alive_ends_the_whole(tmp_path: Path) -> None:
    """Three falls in a row: exit code 1, so that whoever started it knows."""
    async with supervising("fall", tmp_path) as supervisor:
        code, said = await supervisor.ended()
    assert code == 1
    assert supervisor.ran.read_text() == "xxx"
    assert "A serving process ended by itself (code 3): another takes its place" in said
    assert "cannot be kept alive" in said


@pytest.mark.parametrize("kind", ["no_fork", "fork_once"])
async def test_a_system_without_room_for_a_process_ends_the_whole(tmp_path: Path, kind: str) -> None:
    """At the first start, and when one is to be replaced: exit code 1 and the reason, no supervisor of nothing."""
    async with supervising(kind, tmp_path) as supervisor:
        code, said = await supervisor.ended()
    assert code == 1
    assert "No process can be started: Resource temporarily unavailable" in said
    assert "cannot be kept alive" in said


async def test_who_connects_while_a_process_is_replaced_is_served_by_the_next(tmp_path: Path) -> None:
    """The socket is the supervisor's."""
    async with supervising("fall_once", tmp_path) as supervisor, asyncio.timeout(20):
        await until(supervisor.has_run)
        reader, writer = await asyncio.open_connection("127.0.0.1", supervisor.port)
        assert await reader.read() == b"served"
        writer.transport.abort()
        supervisor.process.terminate()
        code, said = await supervisor.ended()
    assert code == 0
    assert "ended by itself (SIGKILL)" in said


async def test_who_does_not_end_is_killed(tmp_path: Path) -> None:
    """After the time that the application has for it."""
    async with supervising("stay", tmp_path) as supervisor:
        await until(supervisor.has_said)
        started = time.monotonic()
        supervisor.process.terminate()
        code, _said = await supervisor.ended()
    assert code == 0
    assert 0.9 < time.monotonic() - started < 15
    assert not lives(int(supervisor.ran.read_text()))
