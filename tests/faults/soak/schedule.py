"""Which fault comes when. Pure: the same seed and length give the same schedule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_S = 4.0
GAP_S = (1.5, 4.0)
LASTS_S = (1.0, 6.0)
# The end of the run is without faults: what is measured there is recovery, not luck.
QUIET_S = 3.0


@dataclass(frozen=True)
class Planned:
    """One fault: from when (seconds into the run), at which of two hosts, for how long, and how much of it."""

    at_s: float
    fault: str
    host: int
    lasts_s: float
    size: int

    def __str__(self) -> str:
        return f"{self.at_s:7.1f} s  {self.fault:<28} host {self.host}  for {self.lasts_s:.1f} s  size {self.size}"


def plan(seed: int, *, seconds: float, faults: Sequence[str]) -> list[Planned]:
    """Faults as they come; each is drawn once before any is drawn again, and they may overlap."""
    # What is drawn decides nothing but the order of faults.
    drawn = random.Random(seed)  # noqa: S311
    planned: list[Planned] = []
    deck: list[str] = []
    at_s = FIRST_S
    while True:
        if not deck:
            deck = list(faults)
            drawn.shuffle(deck)
        lasts_s = round(drawn.uniform(*LASTS_S), 1)
        if at_s + lasts_s > seconds - QUIET_S:
            return planned
        planned.append(Planned(round(at_s, 1), deck.pop(), drawn.randint(0, 1), lasts_s, drawn.randint(1, 3)))
        at_s += drawn.uniform(*GAP_S)
