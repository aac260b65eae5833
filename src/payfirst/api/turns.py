"""Whose request is begun next: a few in each round of the event loop, and who was refused before after the others.

A payment that is stored passes the event loop half a dozen times (its commit is sent, is heard of, is told), a refused
one once. Were all requests begun that have come, a payment would wait for all of them at each of its steps. So what is
under way goes on first, and who was refused again and again waits behind those who were not (benchmarks/README.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

# So many requests are begun before what is under way goes on: about a millisecond's.
BEGUN_A_ROUND: Final = 8
REFUSED_A_ROUND: Final = 1
# An x402 client is told the price by a first refusal, before it pays.
REFUSED_IN_A_ROW: Final = 2

Begin = Callable[[], None]


class Turns:
    """Of the requests of one process. Whoever waits has been read, so there are at most as many as connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._others: deque[Begin] = deque()
        self._refused: deque[Begin] = deque()
        self._others_left = BEGUN_A_ROUND
        self._refused_left = REFUSED_A_ROUND
        self._is_called = False  # by the loop, in its next round
        self._is_stopping = False

    def take(self, begin: Begin, *, refused_in_a_row: int) -> None:
        """Call `begin` now if its turn has come, else when it has."""
        if self._is_stopping:
            begin()
            return
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon(self._next_round)
        if refused_in_a_row < REFUSED_IN_A_ROW:
            if self._others_left:
                self._others_left -= 1
                begin()
            else:
                self._others.append(begin)
        elif self._refused_left:
            self._refused_left -= 1
            begin()
        else:
            self._refused.append(begin)

    def stop(self) -> None:
        """Nobody waits any longer: what has come is begun before the application ends."""
        self._is_stopping = True
        for waiting in (self._others, self._refused):
            while waiting:
                waiting.popleft()()

    def _next_round(self) -> None:
        others, refused = self._others, self._refused
        self._is_called = bool(others or refused)
        if self._is_called:
            self._loop.call_soon(self._next_round)
        # Set before any is begun: one that is may ask for the next.
        begun, refused_begun = min(len(others), BEGUN_A_ROUND), min(len(refused), REFUSED_A_ROUND)
        self._others_left, self._refused_left = BEGUN_A_ROUND - begun, REFUSED_A_ROUND - refused_begun
        for _ in range(begun):
            others.popleft()()
        for _ in range(refused_begun):
            refused.popleft()()
