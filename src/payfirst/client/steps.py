"""What a purchase reports on its way. Pure: values only."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.client.answers import Payment
from payfirst.client.purchases import Outcome, Purchase
from payfirst.errors import PayfirstError
from payfirst.x402.requirements import PaymentRequirements


@dataclass(frozen=True, slots=True)
class Offered:
    """The seller's offer, which is within the limits."""

    requirements: PaymentRequirements


@dataclass(frozen=True, slots=True)
class Signed:
    """The payment is signed and on the disk; nothing has been sent."""

    purchase: Purchase


@dataclass(frozen=True, slots=True)
class Accepted:
    """The seller has taken the payment; its id is on the disk."""

    purchase: Purchase


@dataclass(frozen=True, slots=True)
class Progress:
    """The payment's status has changed."""

    purchase: Purchase
    payment: Payment


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is known from the last answer, or there was none; the same is sent again after so many seconds."""

    reason: str
    after_s: float
    purchase: Purchase | None = None  # None: still asking for an offer


@dataclass(frozen=True, slots=True)
class Ended:
    """The last step. `error` says why it is not minted, and who acts; None when it is."""

    purchase: Purchase
    outcome: Outcome
    error: PayfirstError | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last step of a purchase that `resume` could not bring to its end this time."""

    purchase: Purchase
    error: PayfirstError


Step = Offered | Signed | Accepted | Progress | Waiting | Ended | Stopped
