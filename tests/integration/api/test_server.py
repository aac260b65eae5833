"""The real server over TCP: its processes, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from postgres import free_port

from payfirst.cli import serve
from payfirst.errors import OperatorError
from payfirst.store.database import Pool
from payfirst.units import checksum_address

from .shop import MINT_PATH, PAY_TO, Buyer, configure, open_shop, until

# What `payfirst serve` does, without a command line; the document's own language is Python here.
PROGRAM = """
import os
from payfirst.cli.serve import run_api
from payfirst.config import load
from payfirst.ops import log
config = load(role="api")
log.configure("json", "info")
run_api(config, database_url=config.database.url)
"""
# Beyond what the server may have buffered by the time it looks at its limit.
ENDLESS_BYTES = 1_000_000


class Server:
    """A running `run_api`, and what it writes."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, output: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._output = output

    @property
    def output(self) -> str:
        """Everything it wrote so far."""
        return self._output.read_text()

    async def end(self, number: signal.Signals) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    def processes(self) -> list[int]:
        """The processes it started to serve."""
        return children_of(self.process.pid)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether it runs; one that only waits to be reaped does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


@contextlib.asynccontextmanager
async def serving(database_url: str, folder: Path, **settings: str) -> AsyncIterator[Server]:
    """A server that answers /health; killed at the end if it still runs."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
        "PAYFIRST_SERVER__PORT": str(port),
        # Nothing listens there: an API that asked the chain for anything would fail.
        "PAYFIRST_NETWORK__RPC_URLS": "http://127.0.0.1:1",
        **settings,
    }
    output = folder / "output"
    with output.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, env=environment, cwd=folder, stdout=written, stderr=written,
            start_new_session=True,
        )  # fmt: skip
    server = Server(process, port, output)
    try:
        async with httpx.AsyncClient() as client:

            async def answers() -> bool:
                assert process.returncode is None, server.output
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"{server.url}/health")).status_code == 200
                return False

            await until(answers)
        yield server
    finally:
        left = children_of(process.pid) if process.returncode is None else []
        for pid in (process.pid, *left):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


async def test_a_payment_over_tcp(database_url: str, pool: Pool, buyer: Buyer, tmp_path: Path) -> None:
    """Offered, paid and answered with 202 by the real server, whose RPC URL leads nowhere; then it ends with 0."""
    await open_shop(pool)
    async with serving(database_url, tmp_path) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.post(MINT_PATH, json={"quantity": 10})).status_code == 402
            header = buyer.header(10)
            first = await client.post(MINT_PATH, json={"quantity": 10}, headers=header)
            again = await client.post(MINT_PATH, json={"quantity": 10}, headers=header)
            status = await client.get(first.json()["statusUrl"])
        assert not re.search("[0-9]", status.headers.get("server", "")), "no version is told"
        served_by = server.processes()
        assert await server.end(signal.SIGTERM) == 0
    assert (first.status_code, again.content) == (202, first.content)
    assert status.json()["status"] == "pending"
    assert first.json()["statusUrl"].startswith(server.url)
    expected = (
        f"✅ X402 payment queued: {first.json()['paymentQueueId']} (10x mint will be created after payment confirms)"
    )
    assert expected in server.output
    assert "Traceback" not in server.output
    assert served_by
    assert not any(map(lives, served_by))
    assert await pool.fetchval("SELECT count(*) FROM processes WHERE role = 'api'") == 0


async def test_two_processes_share_the_port(database_url: str, pool: Pool, buyer: Buyer, tmp_path: Path) -> None:
    """Both report themselves, and each header is one payment whichever of them reads it."""
    await open_shop(pool)
    async with serving(database_url, tmp_path, PAYFIRST_SERVER__PROCESSES="2") as server:

        async def both_report() -> bool:
            return bool(await pool.fetchval("SELECT count(*) FROM processes WHERE role = 'api'") == 2)

        await until(both_report)
        header = buyer.header()

        async def pay() -> bytes:
            async with httpx.AsyncClient(base_url=server.url) as client:
                return (await client.post(MINT_PATH, json={"quantity": 1}, headers=header)).content

        assert len(set(await asyncio.gather(*(pay() for _ in range(20))))) == 1
        assert await server.end(signal.SIGINT) == 0
    assert await pool.fetchval("SELECT count(*) FROM payment_queue") == 1


async def test_what_is_under_way_is_answered_before_the_end(database_url: str, pool: Pool, tmp_path: Path) -> None:
    """SIGTERM in a burst: every request that was answered was answered whole, and every 202 has its row."""
    await open_shop(pool)
    headers = [Buyer().header() for _ in range(300)]
    answers: list[httpx.Response] = []
    async with serving(database_url, tmp_path) as server:
        limits = httpx.Limits(max_connections=32)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:

            async def pay(header: dict[str, str]) -> None:
                with contextlib.suppress(httpx.TransportError):  # refused: it came after the end
                    answers.append(await client.post(MINT_PATH, json={"quantity": 1}, headers=header))
                if len(answers) == 100:
                    server.process.terminate()

            await asyncio.gather(*map(pay, headers))
        assert len(answers) >= 100
        async with asyncio.timeout(20):
            assert await server.process.wait() == 0
    assert {answer.status_code for answer in answers} == {202}
    assert await pool.fetchval("SELECT count(*) FROM payment_queue") >= len(answers)
    assert "Traceback" not in server.output


async def test_a_process_that_dies_is_replaced(database_url: str, tmp_path: Path) -> None:
    """kill -9 of the process that serves: another takes its place."""
    async with serving(database_url, tmp_path) as server:
        (first,) = server.processes()
        os.kill(first, signal.SIGKILL)

        async def is_replaced() -> bool:
            return any(pid != first for pid in server.processes())

        await until(is_replaced)
        async with httpx.AsyncClient(base_url=server.url) as client:

            async def answers() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get("/health")).status_code == 200
                return False

            await until(answers)
        assert await server.end(signal.SIGTERM) == 0


async def test_no_process_outlives_its_supervisor(database_url: str, tmp_path: Path) -> None:
    """kill -9 of the supervisor: nobody keeps the port."""
    async with serving(database_url, tmp_path) as server:
        served_by = server.processes()
        await server.end(signal.SIGKILL)

        async def all_gone() -> bool:
            return not any(map(lives, served_by))

        await until(all_gone)


async def test_an_endless_head_is_not_read(database_url: str, tmp_path: Path) -> None:
    """The server itself gives it up: 431, or a cut connection where the client was still writing; then it serves on."""
    async with serving(database_url, tmp_path) as server, httpx.AsyncClient(base_url=server.url) as client:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post(MINT_PATH, headers={"X-Anything": "a" * ENDLESS_BYTES}, json={"quantity": 1})
            assert answer.status_code == 431
        assert (await client.get("/health")).status_code == 200


async def test_an_announced_large_body_is_not_waited_for(database_url: str, pool: Pool, tmp_path: Path) -> None:
    """413 comes before the body was sent."""
    await open_shop(pool)
    async with serving(database_url, tmp_path) as server:
        port = int(server.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {MINT_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody listens, and would share it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_the_operators_to_free(database_url: str, taken_port: int) -> None:
    """The sentence names the setting; a port is not shared with another payfirst by accident."""
    config = configure(database_url, server__port=str(taken_port))
    with pytest.raises(OperatorError, match=f"Port {taken_port} on 127.0.0.1 is taken.*server.port"):
        serve.run_api(config, database_url=database_url)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_the_operators_to_change(database_url: str, host: str) -> None:
    """The sentence names the setting."""
    config = configure(database_url, server__host=host)
    with pytest.raises(OperatorError, match=r"Cannot listen on .*server.host"):
        serve.run_api(config, database_url=database_url)
