"""Requests that are refused, each kind at another point of the way in."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.load import Shop

KINDS = ("no_base64", "no_json", "short_nonce", "wrong_amount", "bad_signature", "no_payment", "huge_header")
_ASSUMED_SIGNATURE = b'"signature":"0x'


def spoiled(shop: Shop, name: str, value: str, number: int) -> bytes:
    """A good request, made bad in the way `shop.kind` names."""
    from benchmarks.load import request

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
