"""Bytes that are too many are refused before they are read: over a raw socket, by what the server takes of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from payfirst.api.mint_request import BODY_BYTES_MAX
from payfirst.store.database import Pool
from payfirst.x402.payload import HEADER_BYTES_MAX

from .shop import MINT_PATH, open_shop
from .test_server import Server, serving

HEAD = f"POST {MINT_PATH} HTTP/1.1\r\nHost: x\r\n".encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OFFERED_BYTES = 64_000_000
# What lies in the buffers of two sockets before anyone reads.
TAKEN_BYTES_MAX = 16_000_000
GROWTH_KB_MAX = 16_000
WAIT_S = 20

# What comes first, and what is repeated for as long as the server takes it.
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "an announced body": (HEAD + b"Content-Length: 1000000000\r\n\r\n", b"a" * 65_536),
    "a body in chunks": (CHUNKED, b"10000\r\n" + b" " * 65_536 + b"\r\n"),
    "a body in one chunk": (CHUNKED + b"ffffffff\r\n", b" " * 65_536),
    "a header": (HEAD + b"X-PAYMENT: ", b"A" * 65_536),
    "headers": (HEAD, b"X-Anything: b\r\n" * 4_096),
    "a path": (b"GET /", b"a" * 65_536),
    "a body that nobody asked for": (
        b"GET /api/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
        b"a" * 65_536,
    ),
}


def memory_kb(server: Server) -> int:
    """What the processes that serve hold in memory."""
    lines = [line for pid in server.processes() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def offer(port: int, first: bytes, more: bytes) -> int:
    """How many bytes of a flood are taken before the connection is cut."""
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    offered = 0
    try:
        writer.write(first)
        while offered < OFFERED_BYTES:
            writer.write(more)
            await writer.drain()
            offered += len(more)
    except OSError:
        pass  # cut off
    finally:
        writer.transport.abort()
    return offered


async def test_no_flood_is_taken(database_url: str, pool: Pool, tmp_path: Path) -> None:
    """The connection is cut at once, memory stays as it was, and the same process serves on."""
    await open_shop(pool)
    async with serving(database_url, tmp_path) as server, httpx.AsyncClient(base_url=server.url) as client:
        port, served_by = int(server.url.rpartition(":")[2]), server.processes()
        assert (await client.post(MINT_PATH, json={"quantity": 1})).status_code == 402
        before = memory_kb(server)
        for name, (first, more) in FLOODS.items():
            async with asyncio.timeout(WAIT_S):
                taken = await offer(port, first, more)
            assert taken < TAKEN_BYTES_MAX, name
        assert memory_kb(server) - before < GROWTH_KB_MAX
        assert (await client.post(MINT_PATH, json={"quantity": 1})).status_code == 402
        assert server.processes() == served_by
        assert "Traceback" not in server.output
    assert await pool.fetchval("SELECT count(*) FROM payment_queue") == 0


# A head, and a body of which the client still owes something; and the refusal that comes all the same.
UNFINISHED: dict[str, tuple[bytes, int, str]] = {
    "a header": (
        HEAD + b"X-PAYMENT: " + b"A" * (HEADER_BYTES_MAX + 1) + b"\r\nContent-Length: 15\r\n\r\n",
        431,
        "header_too_large",
    ),
    "an announced body": (HEAD + b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413, "body_too_large"),
    "a body that is asked about": (
        HEAD + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n",
        413,
        "body_too_large",
    ),
    "a chunk": (
        CHUNKED + b"%x\r\n" % (BODY_BYTES_MAX + 1) + b" " * (BODY_BYTES_MAX + 1) + b"\r\n",
        413,
        "body_too_large",
    ),
    "chunks": (CHUNKED + (b"3e8\r\n" + b" " * 1_000 + b"\r\n") * 5, 413, "body_too_large"),
}


async def test_the_refusal_does_not_wait_for_the_rest(
    database_url: str, pool: Pool, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """It comes while the client still owes the body, or the body's end."""
    await open_shop(pool)
    async with serving(database_url, tmp_path) as server:
        for name, (sent, status, code) in UNFINISHED.items():
            with subtests.test(name):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
                writer.write(sent)
                async with asyncio.timeout(WAIT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await reader.readuntil(b"}")
                writer.transport.abort()
                assert head.startswith(b"HTTP/1.1 %d " % status)
                assert code.encode() in body
