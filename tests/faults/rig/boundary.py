"""A boundary: the n-th message on a wire, before it is forwarded or after it was carried out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

# `before`: the message never reaches the server. `after`: the server has carried it out, and its reply is held back.
Moment = Literal["before", "after"]
# What a message is called: the methods of an RPC request, the SQL of a statement.
Label = str


class Cut(Exception):
    """Raised by an act: the connection ends here."""


def every(_label: Label) -> bool:
    """Each message counts."""
    return True


def naming(*words: str) -> Callable[[Label], bool]:
    """Only messages that contain one of these words count."""
    return lambda label: any(word in label for word in words)


@dataclass
class Boundary:
    """Acts once, at the `nth` message (from 1) that `counts`. `at` is that message once it was reached."""

    nth: int
    moment: Moment
    act: Callable[[], Awaitable[None]]
    counts: Callable[[Label], bool] = every
    passed: int = 0
    at: Label | None = None

    def is_reached_by(self, label: Label) -> bool:
        """Count a message; True for the one."""
        if self.at is not None or not self.counts(label):
            return False
        self.passed += 1
        if self.passed < self.nth:
            return False
        self.at = label
        return True


async def cut() -> None:
    """An act: end the connection that carries the message."""
    raise Cut


def kill_of(process: asyncio.subprocess.Process) -> Callable[[], Awaitable[None]]:
    """An act: kill -9, and no byte more to or from the dead."""

    async def act() -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise Cut

    return act
