"""The loop of what sends: what it leaves behind when a round fails."""

from __future__ import annotations

from typing import cast

import pytest

from payfirst.errors import RetriedError
from payfirst.pipeline.outbox import Outbox
from payfirst.pipeline.rounds import Rounds


class Box:
    """Of an outbox what the loop uses."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def give_up_claims(self) -> None:
        """The round is tried again."""
        self.said.append("given up")

    def note_failure(self) -> None:
        """The round is not understood."""
        self.said.append("failed")

    def stop(self) -> None:
        """The loop ends."""


async def test_an_unforeseen_error_is_noted_and_raised() -> None:
    """Or the rows at the queue's head would be read again each time, and nothing behind them ever sent."""
    box = Box()

    async def fails() -> bool:
        raise ValueError("a row that nobody foresaw")

    with pytest.raises(ValueError, match="nobody foresaw"):
        await Rounds("settle", fails, outbox=cast("Outbox", box)).run()
    assert box.said == ["failed"]


async def test_what_is_tried_again_gives_its_claims_up() -> None:
    """And the next round is made."""
    box = Box()
    made = 0

    async def fails_once() -> bool:
        nonlocal made
        made += 1
        if made == 1:
            raise RetriedError("the database is away")
        rounds.stop()
        return True

    rounds = Rounds("settle", fails_once, outbox=cast("Outbox", box))
    await rounds.run()
    assert (made, box.said) == (2, ["given up"])
