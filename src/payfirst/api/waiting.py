"""Who waits for a payment to change, and what tells them: one reader a process, whatever the number of waiters.

Workers name the payments they changed (NOTIFY); of those, the ones that somebody waits for are read, many in one query.
That only saves time: once a second one query a few thousand asks which of the waited-for payments have moved on.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager

from starlette.types import Receive

from payfirst.api.documents import Seen, seen
from payfirst.errors import StoreUnavailable
from payfirst.pipeline.admission import NotNow
from payfirst.store import payments
from payfirst.store.database import Connection

# Between two reads: what changes meanwhile is read together.
COALESCE_S = 0.05
# Documents made without a pause for other requests: about 10 ms.
READ_AT_ONCE = 200
LOOK_EVERY_S = 1.0
LOOK_AT_ONCE = 2_000
FIRST_READ_S = 5.0
RETRY_S = 0.5
RETRY_AFTER_S = 5

Reading = Callable[[str], AbstractAsyncContextManager[Connection]]


class NoRoomToWait(NotNow):
    """This process holds as many waiters as it may, or it stops."""


class Waiter:
    """One request that waits. It is woken by a change, by its client's hanging up, and when the process stops."""

    def __init__(self, watched: _Watched) -> None:
        self._watched = watched
        self._news = asyncio.Event()
        self.is_read = False
        self.is_over = False

    @property
    def seen(self) -> Seen | None:
        """The payment as it was read last, None where there is none (once `first` has returned)."""
        return self._watched.seen

    async def first(self) -> Seen | None:
        """The payment as it is now, None where there is none. Raises StoreUnavailable when it cannot be read."""
        await self._until(lambda: self.is_read, within_s=FIRST_READ_S)
        if not self.is_read:
            raise StoreUnavailable("the payment could not be read in time")
        return self._watched.seen

    async def until(self, holds: Callable[[Seen], bool], *, within_s: float) -> Seen | None:
        """The payment once `holds`, or as it is when the time or the waiting is over."""
        await self._until(lambda: self.seen is not None and holds(self.seen), within_s=within_s)
        return self.seen

    async def news(self, *, within_s: float) -> bool:
        """Return at the next change, or when the waiting is over; False when the time is over first."""
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _until(self, holds: Callable[[], bool], *, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not holds() and not self.is_over:
                    self._news.clear()
                    await self._news.wait()

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def end(self) -> None:
        """Wait no longer."""
        self.is_over = True
        self._news.set()

    @contextlib.contextmanager
    def until_hung_up(self, receive: Receive) -> Iterator[None]:
        """Wait no longer once the client has gone."""
        task = asyncio.create_task(self._listen(receive))
        try:
            yield
        finally:
            task.cancel()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # the rest of a body that nobody reads
        self.end()


class _Watched:
    """A payment that somebody waits for; it is read once for all of them."""

    __slots__ = ("fingerprint", "seen", "waiters")

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self.fingerprint: int | None = None
        self.waiters: set[Waiter] = set()


class Waiting:
    """The payments that this process waits for."""

    def __init__(self, reading: Reading, *, waiters_max: int) -> None:
        self._reading = reading
        self._waiters_max = waiters_max
        self._watched: dict[uuid.UUID, _Watched] = {}
        self._count = 0
        self._changed: set[uuid.UUID] = set()
        self._to_read = asyncio.Event()
        self._to_look = asyncio.Event()
        self._stopping = False

    @property
    def count(self) -> int:
        """How many wait."""
        return self._count

    @contextlib.contextmanager
    def watch(self, payment_id: uuid.UUID) -> Iterator[Waiter]:
        """Wait for a payment for the length of a block; it is read at once. Raises NoRoomToWait."""
        if self._stopping:
            raise NoRoomToWait("This server is being restarted.", retry_after_s=1)
        if self._count >= self._waiters_max:
            raise NoRoomToWait("Too many wait here already.", retry_after_s=RETRY_AFTER_S)
        watched = self._watched.setdefault(payment_id, _Watched())
        waiter = Waiter(watched)
        watched.waiters.add(waiter)
        self._count += 1
        # Also when others wait for it already: what they were told may be a second old.
        self.changed([payment_id])
        try:
            yield waiter
        finally:
            self._count -= 1
            watched.waiters.discard(waiter)
            if not watched.waiters:
                self._watched.pop(payment_id, None)

    def changed(self, ids: Iterable[uuid.UUID]) -> None:
        """These may have changed; those that nobody waits for are passed over."""
        waited_for = self._watched.keys() & ids
        if waited_for:
            self._changed |= waited_for
            self._to_read.set()

    def look(self) -> None:
        """Any may have changed: look now, not only when the next second is over."""
        self._to_look.set()

    def stop(self) -> None:
        """Everyone who waits is told to answer now, and nobody may wait any more."""
        self._stopping = True
        for watched in self._watched.values():
            for waiter in watched.waiters:
                waiter.end()

    async def run_reads(self) -> None:
        """Read what changed and wake who waits for it, until cancelled."""
        while True:
            await self._to_read.wait()
            self._to_read.clear()
            try:
                while self._changed:
                    await self._read([self._changed.pop() for _ in range(min(READ_AT_ONCE, len(self._changed)))])
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
                self._to_read.set()
            await asyncio.sleep(COALESCE_S)

    async def _read(self, ids: list[uuid.UUID]) -> None:
        # Who comes while the query runs is not told by it: the row may have been read before.
        told = {one: list(self._watched[one].waiters) for one in ids if one in self._watched}
        if not told:
            return
        try:
            async with self._reading("read payments that are waited for") as connection:
                found = {payment.id: payment for payment in await payments.show_many(connection, list(told))}
        except BaseException:
            self._changed |= told.keys()
            raise
        for one, waiters in told.items():
            watched, payment = self._watched.get(one), found.get(one)
            if watched is None:
                continue  # nobody waits any more
            before, watched.seen = watched.seen, None if payment is None else seen(payment)
            is_news = before is None or watched.seen is None or before.tag != watched.seen.tag
            for waiter in waiters:
                if is_news or not waiter.is_read:
                    waiter.is_read = True
                    waiter.wake()

    async def run_looks(self) -> None:
        """Find what changed without a word, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._to_look.wait()
            self._to_look.clear()
            with contextlib.suppress(StoreUnavailable):  # the next look is a second away
                await self._look()

    async def _look(self) -> None:
        waited_for = list(self._watched)
        for at in range(0, len(waited_for), LOOK_AT_ONCE):
            part = waited_for[at : at + LOOK_AT_ONCE]
            before = {one: self._watched[one].fingerprint for one in part if one in self._watched}
            if not before:
                continue
            async with self._reading("look what moved on") as connection:
                moved = await payments.moved_on(connection, before)
            for one, fingerprint in moved:
                if one in self._watched:
                    self._watched[one].fingerprint = fingerprint
            self.changed([one for one, _ in moved])
