"""How long to go on, and how long to pause between two tries."""

from __future__ import annotations

import random
import time

PAUSE_S_FIRST = 0.5
PAUSE_S_MAX = 15.0


class Patience:
    """When to give up, and how long to pause until then."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause_s = PAUSE_S_FIRST

    @property
    def left_s(self) -> float:
        """What is left of it; never below zero."""
        return max(0.0, self._until - time.monotonic())

    def next_pause_s(self, asked_s: float | None) -> float | None:
        """What the seller asked for, else longer from time to time; None where that would be too long."""
        if asked_s is None:
            pause_s = self._pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - so that many do not come at once
            self._pause_s = min(PAUSE_S_MAX, self._pause_s * 2)
        else:
            pause_s = max(asked_s, PAUSE_S_FIRST)
        return pause_s if pause_s < self.left_s else None

    def begin_again(self) -> None:
        """An answer came: the next pause is a short one."""
        self._pause_s = PAUSE_S_FIRST
