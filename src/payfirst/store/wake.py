"""Wake-ups between processes by NOTIFY: they save waiting, and nothing rests on them.

A NOTIFY never rides in a money transaction (it would take a database-wide lock at its commit): it is sent in
one of its own, many wishes coalesced into one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import asyncpg

from payfirst.errors import StoreUnavailable
from payfirst.store.database import CONNECT_TIMEOUT_S, UNAVAILABLE, Pool, session

PAYMENTS = "payfirst_payments"
MINTS = "payfirst_mints"
CHANNELS = (PAYMENTS, MINTS)

COALESCE_S = 0.01
RECONNECT_S = 1.0

# send_wakeup: tell whoever listens that there is work.
SEND_WAKEUP = "SELECT pg_notify($1, '')"


class Notifier:
    """Sends wake-ups on one channel, at most one in `COALESCE_S`."""

    def __init__(self, pool: Pool, channel: str) -> None:
        self._pool = pool
        self._channel = channel
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Ask for a wake-up; returns at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Send what is asked for, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            # Lost wake-ups are what polling is for.
            with contextlib.suppress(StoreUnavailable):
                async with session(self._pool, "wake the workers") as connection:
                    await connection.execute(SEND_WAKEUP, self._channel)
            await asyncio.sleep(COALESCE_S)


async def listen(url: str, handlers: dict[str, Callable[[], None]]) -> None:
    """Call the handler of a channel whenever it is woken, until cancelled; reconnects by itself.

    Every (re)connection calls all handlers once: what was sent meanwhile was not heard.
    """
    while True:
        with contextlib.suppress(*UNAVAILABLE, asyncpg.PostgresError):
            await _listen_once(url, handlers)
        await asyncio.sleep(RECONNECT_S)


async def _listen_once(url: str, handlers: dict[str, Callable[[], None]]) -> None:
    lost = asyncio.Event()
    connection = await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "payfirst listener"}
    )
    try:
        connection.add_termination_listener(lambda _: lost.set())
        for channel, handler in handlers.items():
            await connection.add_listener(channel, _calling(handler))
        for handler in handlers.values():
            handler()
        await lost.wait()
    finally:
        with contextlib.suppress(*UNAVAILABLE, asyncpg.PostgresError):
            await connection.close(timeout=CONNECT_TIMEOUT_S)


def _calling(handler: Callable[[], None]) -> Callable[[object, int, str, object], None]:
    def call(_connection: object, _pid: int, _channel: str, _payload: object) -> None:
        handler()

    return call
