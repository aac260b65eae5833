"""Machines with links that can be cut: network namespaces, joined by bridges in a namespace of their own.

    with machines(db=["data"], worker=["data", "rpc"]) as hosts:
        hosts["worker"].drop("data")        # every packet is lost in silence, and the link stays up
        hosts["worker"].restore("data")

Nothing of it is in the namespace of the machine that runs the tests, and no packet leaves: tests reach in by sockets
that were made inside. What a test that was killed left behind is removed by the next one, by the names' prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from listening import Listener

REQUIRED = "PAYFIRST_TEST_REQUIRE_ROOT"
PREFIX = "pfm"
NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")
Far = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass
class Machine:
    """One namespace, with an address on each network that it is on, and a thread that is inside."""

    name: str  # of the namespace
    switch: str  # the namespace of the bridges
    addresses: dict[str, str] = field(default_factory=dict)  # by network
    _inside: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        # A thread of its own for as long as the machine is there: what it starts is told when it ends.
        self._inside = ThreadPoolExecutor(1, initializer=lambda: _enter(self.name))

    def run(self, do: Callable[[], T]) -> T:
        """Call it inside; sockets and processes that it makes belong to this machine."""
        return self._inside.submit(do).result()

    def argv(self, command: Sequence[str]) -> tuple[str, ...]:
        """A command that runs inside."""
        return ("ip", "netns", "exec", self.name, *command)

    # ---- faults ------------------------------------------------------------------------------------

    def drop(self, network: str) -> None:
        """From now on every packet on this link is lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self._port(network), "nomaster")

    def unplug(self, network: str) -> None:
        """The cable is out: the link is down at the other end."""
        _ip("-n", self.switch, "link", "set", self._port(network), "down")

    def restore(self, network: str) -> None:
        """The link is as it was."""
        _ip("-n", self.switch, "link", "set", self._port(network), "master", network, "up")

    def _port(self, network: str) -> str:
        return f"{self.name.rpartition('-')[2]}-{network}"

    # ---- the tests' way in -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def reached(self, port: int, *, host: str = "127.0.0.1") -> AsyncIterator[int]:
        """A port outside that leads to a port inside."""

        async def far() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            inner = self.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            inner.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(inner, (host, port))
            except BaseException:
                inner.close()
                raise
            return await asyncio.open_connection(sock=inner)

        async with _forwarding(socket.create_server(("127.0.0.1", 0)), far) as outer:
            yield outer

    @contextlib.asynccontextmanager
    async def leads_to(self, network: str, host: str, port: int) -> AsyncIterator[int]:
        """A port of this machine on a network that leads to a server outside."""
        listening = self.run(lambda: socket.create_server((self.addresses[network], 0)))

        async def far() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(host, port)

        async with _forwarding(listening, far) as inner:
            yield inner


@contextlib.contextmanager
def machines(**networks: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """A machine for each name, on these networks.

    Needs root: skipped elsewhere with the reason, failed where REQUIRED is set to 1.
    """
    _require()
    _remove_leftovers()
    mine = f"{PREFIX}-{os.getpid()}"
    switch, made = f"{mine}-switch", {}
    try:
        _ip("netns", "add", switch)
        bridges = list(dict.fromkeys(n for each in networks.values() for n in each))
        for bridge in bridges:
            _ip("-n", switch, "link", "add", bridge, "type", "bridge", "forward_delay", "0")
            _ip("-n", switch, "link", "set", bridge, "up")
        for number, (name, on) in enumerate(networks.items(), start=1):
            _ip("netns", "add", f"{mine}-{name}")
            machine = made[name] = Machine(f"{mine}-{name}", switch)
            _ip("-n", machine.name, "link", "set", "lo", "up")
            for network in on:
                machine.addresses[network] = f"10.213.{bridges.index(network)}.{number}"
                port = machine._port(network)
                far = ("peer", "name", port, "netns", switch)
                _ip("link", "add", network, "netns", machine.name, "type", "veth", *far)
                _ip("-n", machine.name, "addr", "add", f"{machine.addresses[network]}/24", "dev", network)
                _ip("-n", machine.name, "link", "set", network, "up")
                machine.restore(network)
        yield made
    finally:
        for machine in made.values():
            machine._inside.shutdown()
        for name in _namespaces():
            if name.startswith(f"{mine}-"):
                _remove(name)


def _require() -> None:
    reason = None
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        reason = "machines are network namespaces, and only root may make them"
    elif shutil.which("ip") is None:
        reason = "machines are network namespaces: no `ip` here (Debian: iproute2)"
    else:
        tried = subprocess.run(
            ["ip", "netns", "add", f"{PREFIX}-{os.getpid()}-try"], capture_output=True, text=True, check=False
        )
        if tried.returncode != 0:
            reason = f"no network namespace can be made here: {tried.stderr.strip()}"
        else:
            _ip("netns", "del", f"{PREFIX}-{os.getpid()}-try")
    if reason is not None:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def _remove_leftovers() -> None:
    """Of tests that were killed: their process is gone, their namespaces are not."""
    for name in _namespaces():
        prefix, _, rest = name.partition("-")
        owner = rest.partition("-")[0]
        if prefix == PREFIX and owner.isdigit() and not psutil.pid_exists(int(owner)):
            _remove(name)


def _remove(name: str) -> None:
    """The namespace, and whoever is still inside."""
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
    for pid in inside:
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", name)


def _namespaces() -> list[str]:
    return sorted(path.name for path in NAMESPACES.iterdir()) if NAMESPACES.is_dir() else []


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(NAMESPACES / name, os.O_RDONLY)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns({name})")
    finally:
        os.close(handle)


@contextlib.asynccontextmanager
async def _forwarding(listening: socket.socket, far: Far) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await far()
        try:
            pumps = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            far_writer.transport.abort()

    listener = Listener(handle)
    try:
        yield await listener.open(listening=listening)
    finally:
        await listener.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
