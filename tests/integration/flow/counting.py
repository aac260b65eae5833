"""A way to PostgreSQL that notes which statements are executed: their number is the same on every machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from listening import connected, listening

_SSL_REQUEST = 80_877_103


@dataclass
class Statements:
    """The texts of what was executed, in order; `url` leads here."""

    url: str = ""
    executed: list[str] = field(default_factory=list)

    def count(self, sql: str) -> int:
        """How often this very statement was executed."""
        return sum(text.strip() == sql.strip() for text in self.executed)


class _Frontend:
    """Reads one connection's messages to the server, as far as it needs to."""

    def __init__(self, executed: list[str]) -> None:
        self._executed = executed
        self._left = b""
        self._started = False
        self._prepared: dict[bytes, str] = {}
        self._bound: dict[bytes, str] = {}

    def feed(self, data: bytes) -> None:
        """More bytes on their way to the server."""
        self._left += data
        while True:
            head = 1 if self._started else 0
            if len(self._left) < head + 4:
                return
            length = head + int.from_bytes(self._left[head : head + 4])
            if len(self._left) < length:
                return
            message, self._left = self._left[:length], self._left[length:]
            if self._started:
                self._read(message[:1], message[5:])
            else:
                self._started = int.from_bytes(message[4:8]) != _SSL_REQUEST

    def _read(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            self._executed.append(body.rstrip(b"\0").decode())
        elif kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text.decode()
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._bound[portal] = self._prepared.get(name, "")
        elif kind == b"E":
            self._executed.append(self._bound.get(body.split(b"\0", 1)[0], ""))


@contextlib.asynccontextmanager
async def counted(database_url: str) -> AsyncIterator[Statements]:
    """Statements of whoever connects through `url`."""
    parts = urlsplit(database_url)
    statements = Statements()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, frontend: _Frontend | None) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                if frontend is not None:
                    frontend.feed(data)
                target.write(data)
                await target.drain()
        target.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with connected(parts.hostname, parts.port) as (far_reader, far_writer), asyncio.TaskGroup() as group:
            group.create_task(pump(reader, far_writer, _Frontend(statements.executed)))
            group.create_task(pump(far_reader, writer, None))

    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    async with listening(carry) as port:
        statements.url = parts._replace(netloc=f"{credentials}127.0.0.1:{port}").geturl()
        yield statements
