"""Payments signed by ourselves: one unit each, for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

from payfirst.local.demo.accounts import PRICE, Person, nonce
from payfirst.units import Address, UnixTime
from payfirst.x402.eip712 import Asset
from payfirst.x402.payload import Authorization
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.signing import header_v1, header_v2, sign_authorization

VALID_S = 900

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a payment to this shop has to say. `resource` is the mint route's URL, `now` Unix seconds."""

    asset: Asset
    pay_to: Address
    resource: str
    now: int


def authorize(terms: Terms, payer: Person, *, role: str, number: int) -> Authorization:
    """An authorization that pays for one unit; role and number make its nonce."""
    return Authorization(
        payer=payer.address,
        pay_to=terms.pay_to,
        value=PRICE,
        valid_after=UnixTime(0),
        valid_before=UnixTime(terms.now + VALID_S),
        nonce=nonce(role, number),
    )


def header(terms: Terms, authorization: Authorization, key: bytes, *, version: int) -> Header:
    """Name and value of the payment header, signed with `key`. Version 2 accepts what the shop offers for one unit."""
    signature = sign_authorization(terms.asset, authorization, key)
    if version == 1:
        return "X-PAYMENT", header_v1(authorization, signature, network=terms.asset.network)
    offered = PaymentRequirements(
        asset=terms.asset,
        pay_to=terms.pay_to,
        amount=PRICE,
        max_timeout_s=VALID_S,
        resource=terms.resource,
        description="",
    )
    return "PAYMENT-SIGNATURE", header_v2(authorization, signature, requirements=offered)


def good_header(terms: Terms, payer: Person, *, role: str, number: int) -> Header:
    """A payment as it should be; both generations take turns."""
    return header(terms, authorize(terms, payer, role=role, number=number), payer.key, version=1 + number % 2)
