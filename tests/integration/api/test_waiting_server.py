"""Waiting and watching over TCP: what the server adds, hangs up and ends."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from payfirst.store.database import Pool

from . import shop_sql
from .shop import MINT_PATH, Buyer, open_shop, until
from .test_server import Server, serving

STREAM_TIMEOUT = httpx.Timeout(10)


@pytest.fixture
async def server(database_url: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Server]:
    """A server on which one may wait."""
    await open_shop(pool)
    async with serving(database_url, tmp_path, PAYFIRST_SERVER__WAITERS_MAX="1") as running:
        yield running


async def accepted(client: httpx.AsyncClient) -> str:
    """The path of a new payment."""
    answer = await client.post(MINT_PATH, json={"quantity": 1}, headers=Buyer().header())
    assert answer.status_code == 202
    return f"/api/payment/{answer.json()['paymentQueueId']}"


async def names(lines: AsyncIterator[str], *, until_name: str) -> list[str]:
    """The names of the events up to one."""
    found: list[str] = []
    async for line in lines:
        if line.startswith("event: "):
            found.append(line.removeprefix("event: "))
            if found[-1] == until_name:
                return found
    return found


async def test_a_stream_over_tcp(server: Server, pool: Pool) -> None:
    """Events come as they happen, not when the stream ends; a HEAD has the ETag and no body."""
    async with httpx.AsyncClient(base_url=server.url, timeout=STREAM_TIMEOUT) as client:
        path = await accepted(client)
        async with client.stream("GET", f"{path}/events") as stream:
            lines = stream.aiter_lines()
            assert await names(lines, until_name="pending") == ["pending"]
            await shop_sql.send(pool, path.rsplit("/", 1)[1])
            assert await names(lines, until_name="sent") == ["sent"]
            await shop_sql.fail(pool, path.rsplit("/", 1)[1], error="No.", code="no")
            assert await names(lines, until_name="") == ["failed", "end"]
        head, get = await client.head(path), await client.get(path)
    assert (head.content, head.headers["etag"]) == (b"", get.headers["etag"])
    assert json.loads(get.content)["status"] == "failed"


async def test_who_hangs_up_makes_room(server: Server) -> None:
    """A closed stream and a given-up POST free their place at once."""
    async with httpx.AsyncClient(base_url=server.url, timeout=STREAM_TIMEOUT) as client:
        path = await accepted(client)

        async def has_room() -> bool:
            async with client.stream("GET", f"{path}/events") as stream:
                return stream.status_code == 200

        async with client.stream("GET", f"{path}/events") as stream:
            assert stream.status_code == 200
            assert not await has_room()
        await until(has_room)
        held = {**Buyer().header(), "Prefer": "wait=25"}
        with pytest.raises(httpx.ReadTimeout):
            await client.post(MINT_PATH, json={"quantity": 1}, headers=held, timeout=httpx.Timeout(10, read=0.5))
        started = time.monotonic()
        await until(has_room)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_stop_waits_for_no_waiter(server: Server, pool: Pool, is_stream: bool) -> None:
    """SIGTERM: a held request has its 202, a stream ends, and so does the server, soon."""
    async with httpx.AsyncClient(base_url=server.url, timeout=STREAM_TIMEOUT) as client:
        path = await accepted(client)
        if is_stream:
            async with client.stream("GET", f"{path}/events") as stream:
                lines = stream.aiter_lines()
                await names(lines, until_name="pending")
                started = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                assert await names(lines, until_name="") == []
        else:
            held = {**Buyer().header(), "Prefer": "wait=25"}
            request = asyncio.create_task(client.post(MINT_PATH, json={"quantity": 1}, headers=held))

            async def is_stored() -> bool:
                return bool(await pool.fetchval("SELECT count(*) FROM payment_queue") == 2)

            await until(is_stored)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            answer = await request
            assert (answer.status_code, answer.headers.get("preference-applied")) == (202, None)
    async with asyncio.timeout(20):
        assert await server.process.wait() == 0
    assert time.monotonic() - started < 6
    assert "Traceback" not in server.output


async def test_those_who_wait_may_keep_a_file_open_each(database_url: str, tmp_path: Path) -> None:
    """The soft limit is raised before the processes that serve are started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with serving(database_url, tmp_path, PAYFIRST_SERVER__WAITERS_MAX="100") as server:
            (pid,) = server.processes()
            allowed, _ = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert allowed >= min(hard, 4_096 + 100)


async def test_a_hard_limit_that_is_too_low_is_said() -> None:
    """With the setting to change; the server starts all the same."""
    program = "from payfirst.cli import serve; serve._allow_open_files(1_000)"
    limited = ["sh", "-c", 'ulimit -n 300 && exec "$0" -c "$1"', sys.executable, program]
    process = await asyncio.create_subprocess_exec(
        *limited, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    assert b"may open 300 files, 1000 are wanted" in said
