"""One process that serves: the application's life, its listener, and an end that leaves no answer owed. ASGI 3.0."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from starlette.types import ASGIApp, Message

from payfirst.api.connection import Connection, Connections

# Connections that wait to be taken: more than the slowest 5 s of the goal's load bring.
BACKLOG = 4_096
LOOK_S = 1.0
# For what is still in the sockets' buffers when every request is answered.
FLUSH_S = 0.5


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    stop: asyncio.Event,
    connections_max: int,
    started: Callable[[], object] = lambda: None,
) -> bool:
    """Serve until `stop` is set, and answer what came before; False when the application could not start.

    `listener` listens already; it is closed at the end. `started` is called when the application has started.
    """
    life = _Life(app)
    if not await life.begin(unless=stop):
        return stop.is_set()
    connections = Connections(app, connections_max=connections_max)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(connections), sock=listener, backlog=BACKLOG)
    started()
    looking = asyncio.create_task(_look(connections))
    try:
        await stop.wait()
    finally:
        server.close()
        connections.stop()
        try:
            await life.end()  # it lets the requests under way end, and those that only wait
        finally:
            looking.cancel()
            await _flush(connections)
    return True


async def _look(connections: Connections) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        connections.look()


async def _flush(connections: Connections) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            while connections.connections:  # noqa: ASYNC110 - each leaves it by a call of the event loop
                await asyncio.sleep(0.01)
    for connection in list(connections.connections):
        connection.abort()
    await asyncio.sleep(0)  # their ends are told


class _Life:
    """The application's lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(app))

    async def begin(self, *, unless: asyncio.Event) -> bool:
        """Whether it has started; not if the event comes first."""
        await self._to_app.put({"type": "lifespan.startup"})
        answering = asyncio.create_task(self._from_app.get())
        waiting = asyncio.create_task(unless.wait())
        await asyncio.wait([answering, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if answering.done():
            return bool(answering.result()["type"] == "lifespan.startup.complete")
        for task in (answering, self._task):
            task.cancel()
        return False

    async def end(self) -> None:
        """Return when it has ended."""
        await self._to_app.put({"type": "lifespan.shutdown"})
        await self._task

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app({"type": "lifespan", "asgi": {"version": "3.0"}}, self._to_app.get, self._from_app.put)
        finally:
            await self._from_app.put({"type": "lifespan.ended"})
