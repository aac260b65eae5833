"""What the caller allows, and the one of a seller's offers that is within it. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from payfirst.client.errors import NotAnOffer, OfferRefused
from payfirst.units import (
    UINT256_MAX,
    ZERO_ADDRESS,
    Address,
    AtomicAmount,
    checksum_address,
    format_units,
    parse_address,
    parse_units,
)
from payfirst.x402.assets import WELL_KNOWN
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import Network, network_from_text
from payfirst.x402.requirements import PAYMENT_FLOW, SCHEME, PaymentRequirements

OFFER_BYTES_MAX = 16_384
OFFERS_READ_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedAsset:
    """An ERC-20 that may be paid with. Its EIP-712 domain is the offer's to say: a wrong one signs nothing of worth."""

    network: Network
    address: Address
    decimals: int  # of one whole unit; the cap is counted by them


KNOWN = tuple(AllowedAsset(network=a.network, address=a.address, decimals=a.decimals) for a in WELL_KNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be signed. A cap that is an int is in atomic units; text or a Decimal is in whole units of the asset."""

    max_total: str | Decimal | int = "1.00"
    assets: tuple[AllowedAsset, ...] = KNOWN
    pay_to: Address | None = None  # the only one to be paid, where it is known
    authorization_s_max: int = 86_400  # for how long an authorization may be usable
    plain_http: bool = False  # offers over http from other machines: whoever is between may put in another payTo

    def __post_init__(self) -> None:
        if not self.assets:
            raise OfferRefused("no asset is allowed: allow one, or leave the well-known ones.")
        for asset in self.assets:
            self.cap(asset)

    def cap(self, asset: AllowedAsset) -> AtomicAmount:
        """The cap in atomic units of an asset. Raises OfferRefused where it is none."""
        most = self.max_total
        if isinstance(most, int) and not isinstance(most, bool):
            if most < 0:
                raise OfferRefused("the cap is below zero.")
            return AtomicAmount(most)
        if not isinstance(most, str | Decimal):
            raise OfferRefused(f"the cap is a whole number of atomic units, or text or a Decimal, not {most!r}.")
        try:
            return parse_units(f"{most:f}" if isinstance(most, Decimal) else most, decimals=asset.decimals)
        except ValueError as error:
            raise OfferRefused(f"the cap cannot be read: {error}") from None


class _Extra(msgspec.Struct, rename="camel", kw_only=True):
    name: str | None = None
    version: str | None = None
    payment_flow: str | None = None


class _Accepts(msgspec.Struct, rename="camel", kw_only=True):
    scheme: str
    network: str
    amount: str
    asset: str
    pay_to: str
    max_timeout_seconds: int
    extra: _Extra | None = None


class _Resource(msgspec.Struct, kw_only=True):
    url: str
    description: str = ""


class _Offer(msgspec.Struct, rename="camel", kw_only=True):
    x402_version: int
    resource: _Resource
    accepts: list[_Accepts]


_DECODER = msgspec.json.Decoder(_Offer)


def choose(header: str, limits: Limits) -> PaymentRequirements:
    """The first offer of a PAYMENT-REQUIRED header that is within the limits.

    Raises NotAnOffer where it cannot be read, OfferRefused with the reason for each offer where none is allowed.
    """
    offer = _read(header)
    refusals = []
    for entry in offer.accepts[:OFFERS_READ_MAX]:
        try:
            return _within(entry, offer.resource, limits)
        except OfferRefused as refusal:
            refusals.append(str(refusal))
    raise OfferRefused("Nothing was signed. " + " ".join(refusals or ["The seller offers no way to pay."]))


def _read(header: str) -> _Offer:
    if len(header) > OFFER_BYTES_MAX:
        raise NotAnOffer(f"PAYMENT-REQUIRED has {len(header)} bytes; at most {OFFER_BYTES_MAX} are read.")
    try:
        offer = _DECODER.decode(binascii.a2b_base64(header, strict_mode=True))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotAnOffer(f"PAYMENT-REQUIRED is not an x402 offer: {error}") from None
    if offer.x402_version != 2:
        raise NotAnOffer(f"PAYMENT-REQUIRED carries x402 version 2, not {offer.x402_version}.")
    return offer


def _within(entry: _Accepts, resource: _Resource, limits: Limits) -> PaymentRequirements:
    """The terms of one offer. Raises OfferRefused with a sentence that names what is outside the limits."""
    extra = entry.extra
    if entry.scheme != SCHEME:
        raise OfferRefused(f"The scheme {entry.scheme[:32]!r} is none that can be paid here.")
    if extra is None or extra.payment_flow != PAYMENT_FLOW or extra.name is None or extra.version is None:
        raise OfferRefused(f"It is not settled first ({PAYMENT_FLOW}) under a stated EIP-712 domain.")
    allowed = _allowed(entry, limits.assets)
    pay_to = _address(entry.pay_to, "payTo")
    if pay_to == ZERO_ADDRESS or limits.pay_to not in (None, pay_to):
        wanted = "" if limits.pay_to is None else f", not {checksum_address(limits.pay_to)}"
        raise OfferRefused(f"It pays {checksum_address(pay_to)}{wanted}.")
    amount = _amount(entry.amount)
    cap = limits.cap(allowed)
    if amount > cap:
        raise OfferRefused(
            f"It asks for {format_units(amount, decimals=allowed.decimals)} {extra.name[:32]!r}"
            f" ({amount} atomic units); the cap is {format_units(cap, decimals=allowed.decimals)}."
        )
    if not 0 < entry.max_timeout_seconds <= limits.authorization_s_max:
        raise OfferRefused(
            f"It wants an authorization for {entry.max_timeout_seconds} s;"
            f" at most {limits.authorization_s_max} s are allowed."
        )
    try:
        asset = Asset(
            network=allowed.network,
            address=allowed.address,
            name=extra.name,
            version=extra.version,
            decimals=allowed.decimals,
        )
        return PaymentRequirements(
            asset=asset,
            pay_to=pay_to,
            amount=amount,
            max_timeout_s=entry.max_timeout_seconds,
            resource=resource.url,
            description=resource.description,
        )
    except ValueError as error:
        raise OfferRefused(f"It cannot be read: {error}.") from None


def _allowed(entry: _Accepts, assets: Iterable[AllowedAsset]) -> AllowedAsset:
    address = _address(entry.asset, "asset")
    for allowed in assets:
        if allowed.address == address and allowed.network.caip2 == entry.network:
            return allowed
    try:
        network = network_from_text(entry.network)
    except ValueError:
        raise OfferRefused(f"The network {entry.network[:32]!r} is not allowed.") from None
    raise OfferRefused(f"The asset {checksum_address(address)} on {network.name or network.caip2} is not allowed.")


def _address(text: str, name: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise OfferRefused(f"{name} is {error}.") from None


def _amount(text: str) -> AtomicAmount:
    if not text.isascii() or not text.isdigit() or len(text) > 78 or not 0 < int(text) <= UINT256_MAX:
        raise OfferRefused(f"The amount {text[:80]!r} is no number of atomic units.")
    return AtomicAmount(int(text))
