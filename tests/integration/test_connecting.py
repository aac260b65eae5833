"""A database URL with several hosts leads to the one that takes writes, whatever the others do or leave undone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from faults.rig.servers import primary_and_standby
from listening import listening
from postgres import Cluster, free_port

from payfirst.store import connecting
from payfirst.store.connecting import each_host, open_connection
from payfirst.store.database import DatabaseNotThere, connect


@contextlib.asynccontextmanager
async def silent_host() -> AsyncIterator[str]:
    """A host that takes connections and never says a word, as a machine that froze."""

    async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(say_nothing) as port:
        yield f"127.0.0.1:{port}"


def url_of(*hosts: str, query: str = "sslmode=disable") -> str:
    """With a password, which nobody may see."""
    return f"postgresql://payfirst:secret@{','.join(hosts)}/postgres?{query}"


def test_a_url_is_taken_apart_by_host() -> None:
    """User, password, database and parameters are those of each; a URL with one host or none stays as it is."""
    assert each_host("postgresql://u:p,w@one:1,[::1]:2,three/shop?x=y,z") == [
        "postgresql://u:p,w@one:1/shop?x=y,z",
        "postgresql://u:p,w@[::1]:2/shop?x=y,z",
        "postgresql://u:p,w@three/shop?x=y,z",
    ]
    for url in ("postgresql://u:p@one/shop", "postgresql:///shop?host=/run/a,/run/b"):
        assert each_host(url) == [url]


async def test_a_host_that_says_nothing_does_not_keep_from_the_next_one(postgres_18: Cluster) -> None:
    """The driver alone waits for the first until the whole time is over."""
    async with silent_host() as silent:
        url = url_of(silent, f"127.0.0.1:{postgres_18.port}")
        started = time.monotonic()
        connection = await open_connection(url)
        assert time.monotonic() - started < connecting.CONNECT_TIMEOUT_S / 2
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_what_each_host_said_is_told_without_the_password() -> None:
    """Nobody listens at either."""
    hosts = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(DatabaseNotThere) as told:
        await connect(url_of(*hosts), name="test", size=2)
    assert "host 1: " in str(told.value)
    assert "host 2: " in str(told.value)
    assert "secret" not in str(told.value)


async def test_of_a_primary_and_its_standby_the_primary_is_chosen_in_any_order() -> None:
    """Unless the URL says otherwise: somebody may want to read from the standby."""
    with primary_and_standby() as pair:
        hosts = [f"127.0.0.1:{server.cluster.port}" for server in (pair.standby, pair.primary)]
        for url, is_standby in (
            (url_of(*hosts), False),
            (url_of(*reversed(hosts)), False),
            (url_of(*hosts, query="sslmode=disable&target_session_attrs=standby"), True),
        ):
            connection = await open_connection(url)
            assert await connection.fetchval("SELECT pg_is_in_recovery()") is is_standby
            await connection.close()
        pair.primary.stop()
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched, match="none of its hosts takes writes now"):
            await open_connection(url_of(*hosts))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has the option that is looked at")
async def test_the_system_is_told_to_give_up_a_link_that_is_silent(postgres_18: Cluster) -> None:
    """On each connection of a pool; as the driver makes them, it would try for a quarter of an hour."""
    pool = await connect(postgres_18.url("postgres"), name="test", size=2)
    plain = await asyncpg.connect(postgres_18.url("postgres"))
    async with pool.acquire() as connection:
        found = [_options(one) for one in (connection, plain)]
    await pool.close()
    await plain.close()
    assert found == [(1, connecting.KEEPALIVE_IDLE_S, connecting.UNACKNOWLEDGED_MS), (0, 7200, 0)]


def _options(connection: object) -> tuple[int, int, int]:
    own = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    return (
        int(own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0),
        own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    )
