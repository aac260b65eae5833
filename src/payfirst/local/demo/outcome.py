"""What the acts bring home: what was taken, what was refused, and what was not as expected."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Paid:
    """A purchase that was answered with 202, and the header that paid for it."""

    payment_id: uuid.UUID
    quantity: int
    header: tuple[str, str] = field(repr=False)


@dataclass(slots=True)
class Outcome:
    """`accepted` counts 202s to new payments, `rejected` 4xx to bad ones; `faults` are sentences."""

    accepted: int = 0
    rejected: int = 0
    paid: list[Paid] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
