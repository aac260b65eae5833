"""A request to an application that a test holds open: read what it sends as it comes, and hang up at will."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import msgspec
from starlette.types import ASGIApp, Message

from .shop import Document

HEARD_WITHIN_S = 5.0


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    id: str
    name: str
    document: Document


def fields_of(block: str) -> dict[str, str]:
    """The lines of one event, or of a hint between two, as name and value."""
    return dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)


class Stream:
    """An open GET."""

    def __init__(self) -> None:
        self.to_app: asyncio.Queue[Message] = asyncio.Queue()
        self.from_app: asyncio.Queue[Message] = asyncio.Queue()
        self.status = 0
        self.headers: dict[str, str] = {}
        self._text = b""

    async def begin(self) -> None:
        """Return once status and headers are there."""
        start = await self._next()
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}

    async def event(self) -> Event | None:
        """The next event, None at the stream's end; comments and the hint when to come again are passed over."""
        while True:
            block, found, rest = self._text.partition(b"\n\n")
            if not found:
                message = await self._next()
                self._text += message["body"]
                if not message.get("more_body", False) and not self._text:
                    return None
                continue
            self._text = rest
            fields = fields_of(block.decode())
            if "event" in fields:
                return Event(fields["id"], fields["event"], msgspec.json.decode(fields["data"]))

    async def body(self) -> bytes:
        """The whole rest."""
        text: bytes = self._text
        while True:
            message = await self._next()
            text += message["body"]
            if not message.get("more_body", False):
                return text

    def hang_up(self) -> None:
        """The client has gone."""
        self.to_app.put_nowait({"type": "http.disconnect"})

    async def _next(self) -> Message:
        async with asyncio.timeout(HEARD_WITHIN_S):
            return await self.from_app.get()


@contextlib.asynccontextmanager
async def open_stream(app: ASGIApp, path: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Stream]:
    """A GET on its way; its client hangs up at the end."""
    stream = Stream()
    stream.to_app.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    task = asyncio.create_task(_serve(app, scope, stream))
    try:
        await stream.begin()
        yield stream
    finally:
        stream.hang_up()
        async with asyncio.timeout(HEARD_WITHIN_S):
            await task


async def _serve(app: ASGIApp, scope: Document, stream: Stream) -> None:
    await app(scope, stream.to_app.get, stream.from_app.put)
