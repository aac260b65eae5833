"""Requests that are refused, each kind at another point of the way in."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from msgspec import structs

from payfirst.local.demo.accounts import Person
from payfirst.local.demo.wallet import Header, Terms, authorize, header
from payfirst.units import AtomicAmount, UnixTime

if TYPE_CHECKING:
    from benchmarks.load import Shop

# Spoiled after they were signed, or without any payment: nobody needs a key for them.
UNSIGNED_KINDS = (
    "no_base64", "no_json", "short_nonce", "wrong_amount", "bad_signature", "no_payment", "huge_header", "no_body",
    "no_token",
)  # fmt: skip
# By somebody who signs what is refused, so that it must be looked up; or sends one payment again and again.
SIGNED_KINDS = ("signed_wrong_amount", "signed_expired", "replayed", "reused")
KINDS = (*UNSIGNED_KINDS, *SIGNED_KINDS)


def signed_badly(terms: Terms, payer: Person, number: int, kind: str) -> Header:
    """What a buyer with a key of its own can send that is worth nothing."""
    role, used = ("bench", number) if kind not in ("replayed", "reused") else ("bench replayed", 0)
    authorization = authorize(terms, payer, role=role, number=used)
    if kind == "signed_wrong_amount":
        authorization = structs.replace(authorization, value=AtomicAmount(authorization.value + 1))
    elif kind == "signed_expired":
        authorization = structs.replace(authorization, valid_before=UnixTime(terms.now - 1))
    return header(terms, authorization, payer.key, version=1 + number % 2)


def spoiled(shop: Shop, name: str, value: str, number: int) -> bytes:
    """A good request, made bad in the way `shop.kind` names."""
    from benchmarks.load import request

    if shop.kind == "no_body":
        return request(shop, name, value, b"")
    if shop.kind == "no_token":
        return request(structs.replace(shop, path="/api/mint/0x" + f"{number:040x}"), name, value)
    if shop.kind == "reused":
        return request(shop, name, value, b'{"quantity":1,"recipient":"0x' + b"%040x" % (number + 1) + b'"}')
    if shop.kind in SIGNED_KINDS:
        return request(shop, name, value)
    if shop.kind == "no_payment":
        return request(shop, "x-other", "nothing")
    if shop.kind == "no_base64":
        return request(shop, name, "*" + value[1:])
    if shop.kind == "huge_header":
        return request(shop, name, value + "A" * 8_000)
    document = base64.b64decode(value)
    if shop.kind == "no_json":
        document = document[: len(document) // 2]
    elif shop.kind == "short_nonce":
        document = document.replace(b'"nonce":"0x', b'"nonce":"0x0', 1)
    elif shop.kind == "wrong_amount":
        document = document.replace(b'"value":"', b'"value":"1', 1)
    elif shop.kind == "bad_signature":
        # Another payment's time: the recovered signer is somebody else.
        document = document.replace(b'"validAfter":"0"', b'"validAfter":"%d"' % (1 + number % 1_000_000), 1)
    else:
        raise ValueError(f"no such kind: {shop.kind}")
    return request(shop, name, base64.b64encode(document).decode())
