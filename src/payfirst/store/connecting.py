"""One connection, to whichever of the named hosts takes writes now; a link that has gone silent ends within seconds."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

CONNECT_TIMEOUT_S = 5.0
# While one host has not answered for so long, the next one is asked beside it: a machine that is gone says nothing.
NEXT_HOST_S = 0.5
# A peer that is silent for KEEPALIVE_IDLE_S is asked, and given up where it acknowledges nothing for UNACKNOWLEDGED_MS
# (on systems without that option after so many questions). Else the system tries for a quarter of an hour, and a
# pool is full of connections to a machine that is no more. Idle ones end just before the first that was in use then:
# its successor must not be one of them, which would take as long again.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVES_MAX = 3, 1, 7
UNACKNOWLEDGED_MS = 10_000


async def open_connection(url: str | None = None, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
    """Connect within CONNECT_TIMEOUT_S; `options` are asyncpg's. Without a URL it is the environment's server.

    Of several hosts in the URL it is one that takes writes, unless `target_session_attrs` says otherwise. Raises
    TimeoutError, OSError, asyncpg's errors, or TargetServerAttributeNotMatched with what each host said.
    """
    url = url or ""
    connection: asyncpg.Connection[asyncpg.Record]
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        urls = each_host(url)
        if len(urls) == 1:
            connection = await asyncpg.connect(url, **options)
        else:
            if "target_session_attrs" not in parse_qs(urlsplit(url).query) and "PGTARGETSESSIONATTRS" not in os.environ:
                options = {"target_session_attrs": "read-write", **options}
            connection = await _first(urls, options)
    _watch(connection)
    return connection


def each_host(url: str) -> list[str]:
    """The URL once for each host that it names, in its order; as it is where it names one or none."""
    scheme, slashes, rest = url.partition("://")
    end = next((at for at, letter in enumerate(rest) if letter in "/?#"), len(rest))
    login, at_sign, hosts = rest[:end].rpartition("@")
    return [f"{scheme}{slashes}{login}{at_sign}{host}{rest[end:]}" for host in hosts.split(",")]


async def _first(urls: Sequence[str], options: dict[str, Any]) -> asyncpg.Connection[asyncpg.Record]:
    """The connection to the first host that will do, each asked a little after the one before it."""
    tasks: list[asyncio.Task[asyncpg.Connection[asyncpg.Record]]] = []
    chosen: asyncpg.Connection[asyncpg.Record] | None = None
    try:
        while len(tasks) < len(urls) or not all(task.done() for task in tasks):
            if len(tasks) < len(urls):
                tasks.append(asyncio.create_task(asyncpg.connect(urls[len(tasks)], **options)))
            running = [task for task in tasks if not task.done()]
            await asyncio.wait(
                running,
                timeout=NEXT_HOST_S if len(tasks) < len(urls) else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            chosen = next((t.result() for t in tasks if t.done() and not t.cancelled() and not t.exception()), None)
            if chosen is not None:
                return chosen
        raise _why([task.exception() for task in tasks])
    finally:
        for task in tasks:
            task.cancel()
        for left in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(left, asyncpg.Connection) and left is not chosen:
                left.terminate()


def _why(failures: Sequence[BaseException | None]) -> BaseException:
    """What to say of hosts that all failed: a refusal in a server's own words, or what each of them said."""
    away = (OSError, asyncpg.TargetServerAttributeNotMatched, asyncpg.CannotConnectNowError)
    for failure in failures:
        if failure is not None and not isinstance(failure, away):
            return failure
    said = "; ".join(
        f"host {at}: {str(failure) or type(failure).__name__}" for at, failure in enumerate(failures, start=1)
    )
    return asyncpg.TargetServerAttributeNotMatched(f"none of its hosts takes writes now ({said})")


def _watch(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Have the system notice that the other end has gone without a word."""
    # The driver offers no way to its socket but this one.
    own: socket.socket | None = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with socket.fromfd(own.fileno(), own.family, socket.SOCK_STREAM) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_EVERY_S),
            ("TCP_KEEPCNT", KEEPALIVES_MAX),
            ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
        ):
            if hasattr(socket, option):  # not every system has each of them
                same.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
