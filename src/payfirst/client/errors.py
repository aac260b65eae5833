"""What can keep a purchase from being minted, by who acts: the buyer, the seller, or nobody (it is retried)."""

from __future__ import annotations

from typing import ClassVar

from payfirst.errors import OperatorError, PayerError, PayfirstError, RetriedError


class OfferRefused(PayerError):
    """The offer is outside the limits that the caller set. Nothing was signed."""

    code: ClassVar[str] = "offer_refused"


class OrderRefused(PayerError):
    """The seller sells nothing of the kind: no such token, sold out, too many at once. Nothing was signed."""

    code: ClassVar[str] = "order_refused"


class AlreadyUnderWay(PayerError):
    """The folder holds an unfinished purchase of the same order, or another order under the same reference."""

    code: ClassVar[str] = "already_under_way"


class PaymentRefused(PayerError):
    """The seller did not take the signed payment. No money moved."""

    code: ClassVar[str] = "payment_refused"


class PaymentFailed(PayerError):
    """The payment was taken and could not be settled. No money moved."""

    code: ClassVar[str] = "payment_failed"


class SellerFault(PayfirstError):
    """The seller has to act. The sentence is one to show to the seller."""


class NotAnOffer(SellerFault):
    """What answers at this address is no payfirst, or makes an offer that cannot be read. Nothing was signed."""


class DeliveryOwed(SellerFault):
    """Paid, and units could not be minted: the seller owes them or their price."""


class StillUnderWay(RetriedError):
    """The end was not seen in the time given. What was signed is kept, and `resume` goes on with the same payment."""


class NoOfferNow(RetriedError):
    """No offer was made in the time given. Nothing was signed."""


class FolderUnusable(OperatorError):
    """The folder for purchases cannot be written, or a file in it cannot be read."""
