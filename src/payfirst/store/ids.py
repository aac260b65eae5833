"""Ids of new rows: UUIDs of version 7, so that what comes later is found behind what came before.

They are the driver's own, which are `uuid.UUID`s too and are made, printed and sent in a tenth of the time.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import Final, cast

from asyncpg.pgproto import pgproto

from payfirst.units import uuid7_bytes

RANDOM_BYTES: Final = 10
DRAWN_AT_ONCE: Final = 256


class Ids:
    """Draws ids; randomness is drawn for many at once, because each draw is a system call."""

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def draw(self) -> uuid.UUID:
        """A new id of this millisecond."""
        if self._at >= len(self._drawn):
            self._drawn, self._at = os.urandom(RANDOM_BYTES * DRAWN_AT_ONCE), 0
        random_bits = int.from_bytes(self._drawn[self._at : self._at + RANDOM_BYTES])
        self._at += RANDOM_BYTES
        made = pgproto.UUID(uuid7_bytes(now_ms=time.time_ns() // 1_000_000, random_bits=random_bits))
        return cast(uuid.UUID, made)
