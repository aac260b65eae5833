"""A TCP server for tests, of which nothing is left when it closes: no task, no connection, however young.

asyncio's own server begins a task for each connection, which it does not end; one that has not run yet never closes its
side, and the next collection of garbage complains in a test that has nothing to do with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Listener:
    """Serves each connection by `handle`, which may fail because either end is gone; its side is then closed."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self, *, port: int = 0, listening: socket.socket | None = None) -> int:
        """Take connections on loopback or the given socket; returns the port."""
        host, number = (None, None) if listening else ("127.0.0.1", port)
        self._server = await asyncio.start_server(self._connected, host, number, sock=listening)
        return int(self._server.sockets[0].getsockname()[1])

    async def cut_all(self) -> None:
        """End every connection that is open now; new ones are taken, if it is open."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Take no more, and end those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut_all()

    # Not a coroutine, so that asyncio calls it as the connection is made.
    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            writer.transport.abort()  # it was on its way when we closed
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await self._handle(reader, writer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).transport.abort()
        if not task.cancelled() and (error := task.exception()):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "A test's server failed", "exception": error, "task": task}
            )


@contextlib.asynccontextmanager
async def listening(handle: Handle) -> AsyncIterator[int]:
    """A Listener on a free port of loopback, which is yielded."""
    listener = Listener(handle)
    try:
        yield await listener.open()
    finally:
        await listener.close()


@contextlib.asynccontextmanager
async def connected(host: str | None, port: int | None) -> AsyncIterator[Streams]:
    """A connection to somebody else, closed at once in the end, whatever is still to be sent."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
