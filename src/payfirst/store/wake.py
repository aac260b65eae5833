"""Wake-ups between processes by NOTIFY: they save waiting, and nothing rests on them.

A NOTIFY never rides in a money transaction (it would take a database-wide lock at its commit): it is sent in
one of its own, many wishes coalesced into one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from collections.abc import Callable, Iterable

import asyncpg

from payfirst.errors import StoreUnavailable
from payfirst.store.connecting import CONNECT_TIMEOUT_S, open_connection
from payfirst.store.database import UNAVAILABLE, Connection, Pool, session

PAYMENTS = "payfirst_payments"
MINTS = "payfirst_mints"
STATUS = "payfirst_status"

# Told which payments' documents have just changed, after the commit that changed them.
OnChanged = Callable[[Iterable[uuid.UUID]], None]

# The first wish is granted at once; those that follow within this time share a message. A commit each would cost
# more than the payments it tells of.
COALESCE_S = 0.05
RECONNECT_S = 1.0
# A listener hears nothing for hours, or its link is dead: so often it asks, and gives the link up after as long again.
CHECK_S = 5.0
# PostgreSQL takes payloads below 8,000 bytes; base64 makes 22 of the 16 that an id has.
IDS_IN_PAYLOAD_MAX = 350

# send_wakeup: tell whoever listens that there is work.
SEND_WAKEUP = "SELECT pg_notify($1, '')"

# send_changed: tell whoever listens which payments changed; all parts in one commit.
SEND_CHANGED = "SELECT pg_notify($1, part) FROM unnest($2::text[]) AS part"


async def send(connection: Connection, channel: str) -> None:
    """Wake whoever listens on a channel, once; for what has just been committed."""
    await connection.execute(SEND_WAKEUP, channel)


async def say_changed(connection: Connection, ids: Iterable[uuid.UUID]) -> None:
    """Say on STATUS which payments have just been changed."""
    await connection.execute(SEND_CHANGED, STATUS, _payloads(ids))


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


class ChangeNotifier:
    """Says on STATUS which payments have changed, at most once in `COALESCE_S`; call it after their commit."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ids: set[uuid.UUID] = set()
        self._wanted = asyncio.Event()

    def changed(self, ids: Iterable[uuid.UUID]) -> None:
        """Ask for it to be said; returns at once."""
        self._ids.update(ids)
        self._wanted.set()

    async def run(self) -> None:
        """Say what is asked for, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            ids, self._ids = self._ids, set()
            # Who waits looks by itself too.
            with contextlib.suppress(StoreUnavailable):
                async with session(self._pool, "say which payments changed") as connection:
                    await connection.execute(SEND_CHANGED, STATUS, _payloads(ids))
            await asyncio.sleep(COALESCE_S)


def _payloads(ids: Iterable[uuid.UUID]) -> list[str]:
    every = [one.bytes for one in ids]
    parts = (every[at : at + IDS_IN_PAYLOAD_MAX] for at in range(0, len(every), IDS_IN_PAYLOAD_MAX))
    return [base64.b64encode(b"".join(part)).decode("ascii") for part in parts]


def _ids_in(payload: str) -> list[uuid.UUID]:
    """Raises ValueError when it is nothing that a ChangeNotifier sent."""
    data = base64.b64decode(payload, validate=True)
    return [uuid.UUID(bytes=data[at : at + 16]) for at in range(0, len(data), 16)]


async def listen(url: str, handlers: dict[str, Callable[[], None]], *, check_s: float = CHECK_S) -> None:
    """Call the handler of a channel whenever it is woken, until cancelled; reconnects by itself.

    Every (re)connection calls all handlers once: what was sent meanwhile was not heard.
    """

    def woken(handler: Callable[[], None]) -> Callable[[str], None]:
        return lambda _payload: handler()

    def connected() -> None:
        for handler in handlers.values():
            handler()

    woken_by = {channel: woken(handler) for channel, handler in handlers.items()}
    await _listen(url, woken_by, connected, check_s=check_s)


async def listen_to_changes(
    url: str, *, changed: OnChanged, connected: Callable[[], None], check_s: float = CHECK_S
) -> None:
    """Call `changed` with the payments that a ChangeNotifier names, until cancelled; reconnects by itself.

    Every (re)connection calls `connected`: what was said meanwhile was not heard.
    """

    def said(payload: str) -> None:
        with contextlib.suppress(ValueError):  # anyone with a connection may say anything on a channel
            changed(_ids_in(payload))

    await _listen(url, {STATUS: said}, connected, check_s=check_s)


async def _listen(
    url: str, handlers: dict[str, Callable[[str], None]], connected: Callable[[], None], *, check_s: float
) -> None:
    while True:
        with contextlib.suppress(*UNAVAILABLE, asyncpg.PostgresError):
            await _listen_once(url, handlers, connected, check_s=check_s)
        await asyncio.sleep(RECONNECT_S)


async def _listen_once(
    url: str, handlers: dict[str, Callable[[str], None]], connected: Callable[[], None], *, check_s: float
) -> None:
    lost = asyncio.Event()
    connection = await open_connection(url, server_settings={"application_name": "payfirst listener"})
    try:
        connection.add_termination_listener(lambda _: lost.set())
        for channel, handler in handlers.items():
            await connection.add_listener(channel, _calling(handler))
        connected()
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                # Not wait_for: up to Python 3.11 it returns when it is cancelled just as the wait ends.
                async with asyncio.timeout(check_s):
                    await lost.wait()
                return
            try:
                async with asyncio.timeout(check_s):
                    await connection.execute("SELECT 1")
            except TimeoutError:
                connection.terminate()  # nobody would hear a farewell
                raise
    finally:
        with contextlib.suppress(*UNAVAILABLE, asyncpg.PostgresError):
            await connection.close(timeout=CONNECT_TIMEOUT_S)


def _calling(handler: Callable[[str], None]) -> Callable[[object, int, str, object], None]:
    def call(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        handler(str(payload))

    return call
