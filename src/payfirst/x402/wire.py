"""The JSON shapes of x402 that payfirst reads and writes; text only, parsed where they are read. Pure.

Source: x402 specification v1 and v2, exact scheme on EVM. Fields that are not listed are ignored when read.
"""

from __future__ import annotations

import msgspec


class AuthorizationWire(msgspec.Struct, rename="camel", kw_only=True):
    """EIP-3009's parameters; integers are decimal strings, times Unix seconds."""

    from_: str = msgspec.field(name="from")
    to: str
    value: str
    valid_after: str
    valid_before: str
    nonce: str


class ExactWire(msgspec.Struct, kw_only=True):
    """`payload` of the exact scheme."""

    signature: str
    authorization: AuthorizationWire


class VersionWire(msgspec.Struct, rename="camel", kw_only=True):
    """What every payload states, whatever its version."""

    x402_version: int


class PayloadV1(VersionWire, kw_only=True):
    """What X-PAYMENT carries."""

    scheme: str
    network: str
    payload: ExactWire


class AcceptedExtra(msgspec.Struct, rename="camel", kw_only=True):
    """The parts of `accepted.extra` that could contradict the offer."""

    name: str | None = None
    version: str | None = None
    payment_flow: str | None = None


class AcceptedWire(msgspec.Struct, rename="camel", kw_only=True):
    """The parts of `accepted` that could contradict the offer."""

    scheme: str
    network: str
    asset: str
    pay_to: str
    amount: str
    extra: AcceptedExtra | None = None


class PayloadV2(VersionWire, kw_only=True):
    """What PAYMENT-SIGNATURE carries, as far as it is read."""

    accepted: AcceptedWire
    payload: ExactWire


class DomainExtra(msgspec.Struct, kw_only=True):
    """v1 `extra`: the asset's EIP-712 domain."""

    name: str
    version: str


class OfferExtra(msgspec.Struct, rename="camel", kw_only=True):
    """v2 `extra`: the asset's EIP-712 domain, and when it is settled."""

    name: str
    version: str
    payment_flow: str


class AcceptsV1(msgspec.Struct, rename="camel", kw_only=True):
    """An entry of a v1 offer's `accepts`. No field is ever null: x402-fetch 1.2 rejects that."""

    scheme: str
    network: str
    max_amount_required: str
    resource: str
    description: str
    mime_type: str
    pay_to: str
    max_timeout_seconds: int
    asset: str
    extra: DomainExtra


class AcceptsV2(msgspec.Struct, rename="camel", kw_only=True):
    """An entry of a v2 offer's `accepts`; what a client sends back as `accepted`."""

    scheme: str
    network: str
    amount: str
    asset: str
    pay_to: str
    max_timeout_seconds: int
    extra: OfferExtra


class ResourceV2(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """v2 `resource`: what is being sold."""

    url: str
    description: str = ""
    mime_type: str = ""


class OfferV1(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """The body of a 402: a v1 offer and a sentence for people; `accepts` is empty where v1 cannot name the network."""

    x402_version: int
    error: str
    detail: str = ""
    accepts: list[AcceptsV1]


class OfferV2(msgspec.Struct, rename="camel", kw_only=True):
    """What PAYMENT-REQUIRED carries."""

    x402_version: int
    error: str
    resource: ResourceV2
    accepts: list[AcceptsV2]


class SettlementWire(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """SettleResponse, the same in v1 and v2 but for the spelling of the network."""

    success: bool
    error_reason: str | None = None
    payer: str
    transaction: str
    network: str


class SignedPayloadV2(msgspec.Struct, rename="camel", kw_only=True):
    """What a v2 buyer writes: `accepted` is the offer's entry, whole."""

    x402_version: int
    accepted: AcceptsV2
    payload: ExactWire
