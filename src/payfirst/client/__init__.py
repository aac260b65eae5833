"""For programs that buy: an x402 client for payfirst's sellers that pays at most once, whatever crashes.

The signed payment is on the disk before it is sent. After a lost answer the same header goes out again, never a second
signature for the same purchase; a program that was killed goes on with `resume`.

    limits = Limits(max_total="1.00")
    async with Buyer(key, folder=Path("purchases"), limits=limits) as buyer:
        async for step in buyer.buy(Order.at("https://shop.example/api/mint/0x…", quantity=2)):
            print(step)

Nothing here knows a database, a node or a setting, and nothing writes a log.
"""

from payfirst.client.answers import Payment, Unit
from payfirst.client.buyer import Buyer
from payfirst.client.errors import (
    AlreadyUnderWay,
    DeliveryOwed,
    FolderUnusable,
    NotAnOffer,
    OfferRefused,
    PaymentFailed,
    PaymentRefused,
    StillUnderWay,
)
from payfirst.client.limits import AllowedAsset, Limits
from payfirst.client.order import Order
from payfirst.client.purchases import Folder, Outcome, Purchase
from payfirst.client.steps import Accepted, Ended, Offered, Progress, Signed, Step, Stopped, Waiting

__all__ = [
    "Accepted",
    "AllowedAsset",
    "AlreadyUnderWay",
    "Buyer",
    "DeliveryOwed",
    "Ended",
    "Folder",
    "FolderUnusable",
    "Limits",
    "NotAnOffer",
    "OfferRefused",
    "Offered",
    "Order",
    "Outcome",
    "Payment",
    "PaymentFailed",
    "PaymentRefused",
    "Progress",
    "Purchase",
    "Signed",
    "Step",
    "StillUnderWay",
    "Stopped",
    "Unit",
    "Waiting",
]
