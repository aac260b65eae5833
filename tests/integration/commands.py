"""`payfirst` as a seller types it, in a process of its own: what the tests of commands start and ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
from flow.rig import PAY_TO

from payfirst.local.chain import LocalChain, dev_key
from payfirst.units import checksum_address, hex_text

Payfirst = Callable[..., subprocess.CompletedProcess[str]]

PASSPHRASE = "correct horse battery staple"


def environment(**more: str) -> dict[str, str]:
    """What a shell would hand over, without any setting of the machine's own."""
    mine = {n: v for n, v in os.environ.items() if not n.startswith("PAYFIRST_") and n != "DATABASE_URL"}
    return {**mine, **more}


def run(*words: str, cwd: Path, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """`payfirst …`, to its end; `typed` is what it is answered where it asks."""
    return subprocess.run(
        [sys.executable, "-m", "payfirst", *words],
        cwd=cwd,
        env=environment(**more),
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def in_folder(folder: Path, **always: str) -> Payfirst:
    """`run` in that folder, with these variables in each call."""

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return run(*words, cwd=folder, **always | more)

    return call


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def up(folder: Path, chain: LocalChain, port: int, **more: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`payfirst up` with the embedded database, ended by SIGTERM."""
    output = (folder / "up.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "payfirst", "up"],
        cwd=folder,
        env=environment(
            PAYFIRST_PAYMENTS__PAY_TO=checksum_address(PAY_TO),
            PAYFIRST_NETWORK__RPC_URLS=chain.url,
            PAYFIRST_NETWORK__POLL_INTERVAL_MS="50",
            PAYFIRST_SERVER__PORT=str(port),
            PAYFIRST_SIGNERS__SETTLE_KEY=hex_text(dev_key("settle")),
            PAYFIRST_SIGNERS__MINT_KEY=hex_text(dev_key("mint")),
            PAYFIRST_SIGNERS__PASSPHRASE=PASSPHRASE,
            **more,
        ),
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 40)
        output.close()


async def answers(client: httpx.AsyncClient, path: str, status: int, *, within_s: float = 30) -> None:
    """Return once `path` is answered with `status`."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if (await client.get(path)).status_code == status:
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{path} was not answered with {status} within {within_s} s")
