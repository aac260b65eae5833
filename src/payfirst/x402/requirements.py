"""What is asked for a resource, and how v1 and v2 spell it. Pure.

Source: x402 specification v1 and v2, PaymentRequirements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from payfirst.units import Address, AtomicAmount, checksum_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.wire import AcceptsV1, AcceptsV2, DomainExtra, OfferExtra

SCHEME = "exact"
# Settled first, delivered afterwards. Official clients take this value and refuse unknown ones.
PAYMENT_FLOW = "upfront"

RESOURCE_BYTES_MAX = 1_024
MIME_TYPE_BYTES_MAX = 128

# Printable ASCII without what JSON would escape: the offer's size is then known beforehand.
_PLAIN_TEXT = re.compile(r"[!#-\[\]-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequirements:
    """The price of one resource: exactly `amount` of `asset` to `pay_to`.

    Raises ValueError on a resource or media type too long or too odd for a response header.
    """

    asset: Asset
    pay_to: Address
    amount: AtomicAmount
    max_timeout_s: int  # how long a payer's authorization lasts, and with it the queue's time to settle
    resource: str  # URL
    description: str
    mime_type: str = "application/json"

    def __post_init__(self) -> None:
        for label, text, most in (
            ("resource", self.resource, RESOURCE_BYTES_MAX),
            ("mime_type", self.mime_type, MIME_TYPE_BYTES_MAX),
        ):
            if len(text) > most or not _PLAIN_TEXT.fullmatch(text):
                raise ValueError(
                    f"{label}: expected 1 to {most} printable ASCII characters without quote, backslash or"
                    f" space, got {text[:80]!r}"
                )


def accepts_v1(requirements: PaymentRequirements) -> AcceptsV1 | None:
    """The v1 `accepts` entry; None where v1 has no name for the network."""
    asset = requirements.asset
    if asset.network.name is None:
        return None
    return AcceptsV1(
        scheme=SCHEME,
        network=asset.network.name,
        max_amount_required=str(requirements.amount),
        resource=requirements.resource,
        description=requirements.description,
        mime_type=requirements.mime_type,
        pay_to=checksum_address(requirements.pay_to),
        max_timeout_seconds=requirements.max_timeout_s,
        asset=checksum_address(asset.address),
        extra=DomainExtra(name=asset.name, version=asset.version),
    )


def accepts_v2(requirements: PaymentRequirements) -> AcceptsV2:
    """The v2 `accepts` entry."""
    asset = requirements.asset
    return AcceptsV2(
        scheme=SCHEME,
        network=asset.network.caip2,
        amount=str(requirements.amount),
        asset=checksum_address(asset.address),
        pay_to=checksum_address(requirements.pay_to),
        max_timeout_seconds=requirements.max_timeout_s,
        extra=OfferExtra(name=asset.name, version=asset.version, payment_flow=PAYMENT_FLOW),
    )
