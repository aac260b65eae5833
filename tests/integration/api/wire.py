"""A wire to the database that a test can cut, and mend, and that loses what it is told to lose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from listening import Listener, connected


class Wire:
    """Forwards TCP connections while it is whole; a cut one ends them and refuses new ones."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._target = (parts.hostname, parts.port)
        self._rest = (parts.username, parts.path)
        self._listener = Listener(self._carry)
        self._port = 0
        self._loses_questions = False
        self._loses_answers = False
        self._fatal_bytes: bytes | None = None

    @property
    def url(self) -> str:
        """The database's URL by way of this wire."""
        user, path = self._rest
        return f"postgresql://{user}@127.0.0.1:{self._port}{path}?sslmode=disable"

    def lose_answers(self, *, after: bytes) -> None:
        """Once a question holds these bytes: the database hears it, and nobody hears the database any more."""
        self._fatal_bytes = after

    def lose_questions(self) -> None:
        """From now on the database hears nothing."""
        self._loses_questions = True

    async def mend(self) -> None:
        """Take connections, at the same port as before, and lose nothing any more."""
        self._loses_questions = self._loses_answers = False
        self._fatal_bytes = None
        self._port = await self._listener.open(port=self._port)

    async def cut(self) -> None:
        """End all connections and take no more."""
        await self._listener.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with connected(*self._target) as (far_reader, far_writer), asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, far_writer, is_lost=self._loses_question))
            group.create_task(_copy(far_reader, writer, is_lost=lambda _answer: self._loses_answers))

    def _loses_question(self, question: bytes) -> bool:
        if self._fatal_bytes is not None and self._fatal_bytes in question:
            self._loses_answers = True
        return self._loses_questions


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_lost: Callable[[bytes], bool]
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            if not is_lost(data):
                writer.write(data)
                await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def wire_to(database_url: str) -> AsyncIterator[Wire]:
    """A whole wire, cut for good at the end."""
    wire = Wire(database_url)
    await wire.mend()
    try:
        yield wire
    finally:
        await wire.cut()
