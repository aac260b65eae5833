"""Ids of new rows."""

from __future__ import annotations

import time
import uuid

from payfirst.store.ids import DRAWN_AT_ONCE, Ids
from payfirst.units import uuid7


def test_ids_are_new_and_in_order_of_time() -> None:
    """Version 7, variant 10, of this millisecond, and never twice, across draws of randomness too."""
    ids = Ids()
    before = time.time_ns() // 1_000_000
    drawn = [ids.draw() for _ in range(3 * DRAWN_AT_ONCE)]
    after = time.time_ns() // 1_000_000
    assert len(set(drawn)) == len(drawn)
    assert {(one.version, one.variant) for one in drawn} == {(7, uuid.RFC_4122)}
    assert all(before <= one.int >> 80 <= after for one in drawn)
    assert len({one.int & ((1 << 62) - 1) for one in drawn}) == len(drawn)


def test_they_are_ids_like_all_others() -> None:
    """Equal to, and kept in dictionaries like, the same id of the standard library's class."""
    drawn = Ids().draw()
    same = uuid.UUID(str(drawn))
    assert isinstance(drawn, uuid.UUID)
    assert {drawn: "found"}[same] == "found"
    assert same == uuid7(
        now_ms=drawn.int >> 80, random_bits=((drawn.int >> 64) & 0xFFF) << 62 | drawn.int & ((1 << 62) - 1)
    )
