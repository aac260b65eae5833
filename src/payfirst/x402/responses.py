"""The 402 answer that serves v1 and v2 clients at once, and the settlement header. Pure; what stays is memoised.

Source: x402 specification v1 (JSON body) and v2 (PAYMENT-REQUIRED header).
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec

from payfirst.units import Address, TxHash, checksum_address, hex_text
from payfirst.x402.networks import Network
from payfirst.x402.requirements import PaymentRequirements, accepts_v1, accepts_v2
from payfirst.x402.wire import OfferV2, ResourceV2, SettlementWire

HEADER_BYTES_MAX = 2_999  # below 3,000: proxies and clients limit response headers
OFFERS_MEMOISED_MAX = 1_024
SETTLEMENT_HEADER_NAMES: dict[Literal[1, 2], str] = {1: "X-PAYMENT-RESPONSE", 2: "PAYMENT-RESPONSE"}

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequired:
    """A 402: the JSON body that v1 clients read, and the PAYMENT-REQUIRED header that v2 clients read."""

    body: bytes
    header: str


def payment_required(requirements: PaymentRequirements, *, error: str, detail: str | None = None) -> PaymentRequired:
    """The 402 that asks for `requirements`.

    `error` is a short code, `detail` a sentence for people; the sentence is in the body only.
    Raises ValueError when `error` is too long for the header.
    """
    plain, before, after = _offer(requirements, error)
    if detail is None:
        return plain
    return PaymentRequired(body=b"".join((before, b',"detail":', _ENCODER.encode(detail), after)), header=plain.header)


def settlement(
    *,
    version: Literal[1, 2],
    network: Network,
    payer: Address,
    transaction: TxHash | None,
    error_reason: str | None = None,
) -> str:
    """The value of the header that tells how a payment ended: settled in `transaction`, or why it was not.

    Raises ValueError for a settled payment without its transaction: clients would take it for settled all the same.
    """
    if error_reason is None and transaction is None:
        raise ValueError("a settled payment has a transaction")
    outcome = SettlementWire(
        success=error_reason is None,
        error_reason=error_reason,
        payer=checksum_address(payer),
        transaction="" if transaction is None else hex_text(transaction),
        network=network.name if version == 1 and network.name is not None else network.caip2,
    )
    return binascii.b2a_base64(_ENCODER.encode(outcome), newline=False).decode("ascii")


@lru_cache(maxsize=OFFERS_MEMOISED_MAX)
def _offer(requirements: PaymentRequirements, error: str) -> tuple[PaymentRequired, bytes, bytes]:
    """The answer without a detail, and its body cut where the detail goes."""
    entry = accepts_v1(requirements)
    before = b'{"x402Version":1,"error":' + _ENCODER.encode(error)
    after = b',"accepts":' + _ENCODER.encode([] if entry is None else [entry]) + b"}"
    return PaymentRequired(body=before + after, header=_header_v2(requirements, error)), before, after


def _header_v2(requirements: PaymentRequirements, error: str) -> str:
    # The description is the one part that is optional and has no limit of its own.
    for description in (requirements.description, ""):
        offer = OfferV2(
            x402_version=2,
            error=error,
            resource=ResourceV2(url=requirements.resource, description=description, mime_type=requirements.mime_type),
            accepts=[accepts_v2(requirements)],
        )
        header = binascii.b2a_base64(_ENCODER.encode(offer), newline=False).decode("ascii")
        if len(header) <= HEADER_BYTES_MAX:
            return header
    raise ValueError(f"the offer does not fit {HEADER_BYTES_MAX} header bytes: shorten the error code")
