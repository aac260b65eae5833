"""A wire to PostgreSQL that knows its messages, and can be cut (or kill its client) at any one of them.

    async with postgres_proxy(database_url) as wire:
        wire.freeze()                                                        # what is open now says nothing any more
        wire.boundary = Boundary(1, "after", cut, counts=naming("COMMIT"))   # committed, and nobody hears of it

A message here is a round trip: what a client sends up to a Query or a Sync, and all that the server answers to it.
Its label is the SQL. Message formats: PostgreSQL, "Frontend/Backend Protocol".
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from listening import Listener, connected

from .boundary import Boundary, Cut

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102


@dataclass
class PostgresProxy:
    """Forwards everything; `boundary` acts once at one message; `seen` holds the labels of all of them."""

    target: tuple[str, int]
    boundary: Boundary | None = None
    url: str = ""
    seen: list[str] = field(default_factory=list)
    _conversations: set[_Conversation] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Nobody can connect yet."""
        self._listener = Listener(self._handle)

    async def open(self) -> int:
        """Take connections; returns the port."""
        return await self._listener.open()

    async def close(self) -> None:
        """End every connection, and take no more."""
        await self._listener.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with connected(*self.target) as (far_reader, far_writer):
            startup = await _startup(reader, writer)
            far_writer.write(startup)
            if _code(startup) != CANCEL_REQUEST:
                conversation = _Conversation(self, reader, writer, far_reader, far_writer)
                self._conversations.add(conversation)
                try:
                    await conversation.run()
                finally:
                    self._conversations.discard(conversation)

    def freeze(self) -> None:
        """No byte more on any connection that is open now, and neither end is told; new ones are taken.

        As when a firewall forgets them, or a machine on the way has gone.
        """
        for conversation in self._conversations:
            conversation.is_frozen = True

    async def cut_all(self) -> None:
        """End every connection that is open now; new ones are taken."""
        await self._listener.cut_all()


class _Conversation:
    """One connection: the client's messages one round trip at a time, the server's as they come."""

    def __init__(
        self,
        proxy: PostgresProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._far_reader, self._far_writer = far_reader, far_writer
        self._statements: dict[bytes, str] = {}
        self._label = ""
        self._held: bytearray | None = None  # the server's answer, while a boundary holds it back
        self._is_ready = asyncio.Event()
        self.is_frozen = False

    async def run(self) -> None:
        """Until either end closes, or a boundary cuts."""
        tasks = [asyncio.create_task(self._from_client()), asyncio.create_task(self._from_server())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, (OSError, EOFError, Cut)):
                    raise result

    async def _from_client(self) -> None:
        while True:
            kind, message = await _message(self._reader)
            if self.is_frozen:
                continue
            self._learn(kind, message)
            if kind not in (b"Q", b"S"):
                self._far_writer.write(message)
                continue
            label, self._label = self._label, ""
            self._proxy.seen.append(label)
            boundary = self._proxy.boundary
            if boundary is None or not boundary.is_reached_by(label):
                self._far_writer.write(message)
                await self._far_writer.drain()
                continue
            if boundary.moment == "before":
                await boundary.act()
                self._far_writer.write(message)
                continue
            self._held = bytearray()
            self._is_ready.clear()
            self._far_writer.write(message)
            await self._is_ready.wait()
            await boundary.act()
            self._writer.write(bytes(self._held))
            self._held = None

    async def _from_server(self) -> None:
        while True:
            kind, message = await _message(self._far_reader)
            if self.is_frozen:
                continue
            if self._held is None:
                self._writer.write(message)
                await self._writer.drain()
                continue
            self._held += message
            if kind == b"Z":
                self._is_ready.set()

    def _learn(self, kind: bytes, message: bytes) -> None:
        """Which SQL the messages before a Sync are about."""
        if kind == b"Q":
            self._label = message[5:-1].decode()
        elif kind == b"P":
            name, sql, _ = message[5:].split(b"\0", 2)
            self._statements[name] = self._label = sql.decode()
        elif kind == b"B":
            _portal, name, _ = message[5:].split(b"\0", 2)
            self._label = self._statements.get(name, "")


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first message; encryption is declined."""
    while True:
        length = await reader.readexactly(4)
        message = length + await reader.readexactly(int.from_bytes(length) - 4)
        if _code(message) not in (SSL_REQUEST, GSS_REQUEST):
            return message
        writer.write(b"N")


def _code(startup: bytes) -> int:
    return int(struct.unpack("!I", startup[4:8])[0])


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A message's kind, and the whole of it."""
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


@contextlib.asynccontextmanager
async def postgres_proxy(database_url: str) -> AsyncIterator[PostgresProxy]:
    """A wire to the database of `database_url`, on a free port."""
    parts = urlsplit(database_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = PostgresProxy((parts.hostname, parts.port))
    port = await proxy.open()
    proxy.url = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}?sslmode=disable"
    try:
        yield proxy
    finally:
        await proxy.close()
