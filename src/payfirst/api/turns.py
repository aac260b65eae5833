"""Whose request is begun next: a few in each round of the event loop, and who was refused before after the others.

A payment that is stored passes the event loop half a dozen times (its commit is sent, is heard of, is told), a refused
one once. Were all requests begun that have come, a payment would wait for all of them at each of its steps. So what is
under way goes on first, and who was refused again and again waits behind those who were not: until none of theirs is
under way, or a few milliseconds (benchmarks/README.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

# So many requests are begun before what is under way goes on: about a millisecond's.
BEGUN_A_ROUND: Final = 8
BEHIND_A_ROUND: Final = 1
# Who is that often refused in a row comes behind. An x402 client is told the price by a first refusal, before it pays.
REFUSED_IN_A_ROW: Final = 2
# Who waits behind when so long has passed is begun beside the others: some of those take minutes (events, a wait).
BEHIND_S_MAX: Final = 0.005

Begin = Callable[[], None]


class Turns:
    """Of the requests of one process. Whoever waits has been read, so there are at most as many as connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._others: deque[Begin] = deque()
        self._behind: deque[Begin] = deque()
        self._others_left = BEGUN_A_ROUND
        self._behind_left = BEHIND_A_ROUND
        self._under_way = 0  # of the others: begun, and not ended
        self._overdue = 0  # so many of those behind have waited long enough
        self._is_called = False  # by the loop, in its next round
        self._until_overdue: asyncio.TimerHandle | None = None
        self._is_stopping = False

    def take(self, begin: Begin, *, is_behind: bool) -> None:
        """Call `begin` now if its turn has come, else when it has; who is not behind says when it has `ended`."""
        if self._is_stopping:
            self._under_way += not is_behind
            begin()
        elif not is_behind:
            self._call()
            if self._others_left:
                self._others_left -= 1
                self._under_way += 1
                begin()
            else:
                self._others.append(begin)
        elif self._behind_left and not self._behind and not self._under_way:
            self._call()
            self._behind_left -= 1
            begin()
        else:
            self._behind.append(begin)
            self._call_for_behind()

    def ended(self) -> None:
        """One that was begun, and is not behind, has its answer."""
        self._under_way -= 1
        if self._behind:
            self._call_for_behind()

    def stop(self) -> None:
        """Nobody waits any longer: what has come is begun before the application ends."""
        self._is_stopping = True
        self._under_way += len(self._others)
        for waiting in (self._others, self._behind):
            while waiting:
                waiting.popleft()()
        if self._until_overdue is not None:
            self._until_overdue.cancel()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon(self._next_round)

    def _call_for_behind(self) -> None:
        if self._overdue or not self._under_way:
            self._call()
        elif self._until_overdue is None:
            self._until_overdue = self._loop.call_later(BEHIND_S_MAX, self._be_overdue)

    def _be_overdue(self) -> None:
        self._until_overdue = None
        self._overdue = len(self._behind)
        if self._behind:
            self._call()

    def _next_round(self) -> None:
        self._is_called = False
        others, behind = self._others, self._behind
        begun = min(len(others), BEGUN_A_ROUND)
        self._under_way += begun
        may_begin_behind = self._overdue or not self._under_way
        behind_begun = min(len(behind), BEHIND_A_ROUND) if may_begin_behind else 0
        self._overdue = max(0, self._overdue - behind_begun)
        # Set before any is begun: one that is may ask for the next.
        self._others_left, self._behind_left = BEGUN_A_ROUND - begun, BEHIND_A_ROUND - behind_begun
        for _ in range(begun):
            others.popleft()()
        for _ in range(behind_begun):
            behind.popleft()()
        if begun or behind_begun:
            self._call()  # the next round has all its places again
        if behind:
            self._call_for_behind()
        elif self._until_overdue is not None:
            self._until_overdue.cancel()
            self._until_overdue = None
