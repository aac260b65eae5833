"""The time limit of mint requests, kept by one timer for all of them: one for each costs as much as parsing it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

# The database's own timeouts end a request before; this one is for a body that never ends, and for faults of ours.
REQUEST_TIMEOUT_S = 60.0


class InTime:
    """`with in_time:` raises TimeoutError in a task that is in there for longer than REQUEST_TIMEOUT_S.

    As `asyncio.timeout` does, for many tasks of one event loop at once; a task is in there once.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        # In the order of entering, which is the order of the deadlines, as all have the same limit.
        self._until: dict[asyncio.Task[Any] | None, float] = {}
        self._ended: set[asyncio.Task[Any] | None] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """The task that runs has until now + REQUEST_TIMEOUT_S."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()  # once: up to Python 3.11 it is a system call
        until = self._until[asyncio.current_task(loop)] = loop.time() + REQUEST_TIMEOUT_S
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)

    def __exit__(self, _kind: object, error: BaseException | None, _where: TracebackType | None) -> None:
        """Out in time, or not."""
        task = asyncio.current_task(self._loop)
        self._until.pop(task, None)
        if not self._until and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ended and task is not None and task in self._ended:
            self._ended.discard(task)
            # Cancelled by us alone, or by somebody else too: then that is what it is.
            if task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error

    def _look(self) -> None:
        """End those whose time is over, and look again when the next one's is."""
        assert self._loop is not None  # noqa: S101 - the timer is set after it
        now, self._timer = self._loop.time(), None
        while self._until:
            task, until = next(iter(self._until.items()))
            if until > now:
                self._timer = self._loop.call_at(until, self._look)
                return
            del self._until[task]
            if task is not None and task.cancel():
                self._ended.add(task)
