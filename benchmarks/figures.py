"""A measurement that was repeated: its median, between its least and its most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """Median, minimum and maximum of some runs."""

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of at least one value."""
        return cls(round(statistics.median(values), 3), round(min(values), 3), round(max(values), 3), len(values))

    def __str__(self) -> str:
        return f"{self.median:,.1f} ({self.least:,.1f} to {self.most:,.1f}, {self.runs} runs)"
