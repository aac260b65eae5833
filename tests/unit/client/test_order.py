"""Orders: what is bought, where, and what makes two of them the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from payfirst.client.errors import OfferRefused
from payfirst.client.order import Order
from payfirst.units import Address

TOKEN = "0x" + "11" * 20
PAYER = Address(b"\x01" * 20)
ORDER = Order.at(f"https://shop.example/pay/api/mint/{TOKEN}", quantity=2)


def test_an_order_is_read_from_the_address_of_its_route() -> None:
    """Also behind a proxy that gives it a path; the status stands beside it."""
    assert ORDER.url == f"https://shop.example/pay/api/mint/{TOKEN}"
    assert ORDER.payment_url("ID") == "https://shop.example/pay/api/payment/ID"
    assert ORDER.body == b'{"quantity":2}'
    assert replace(ORDER, recipient=PAYER).body == b'{"quantity":2,"recipient":"0x' + b"01" * 20 + b'"}'


def test_the_same_order_has_the_same_digest() -> None:
    """Whatever the letter case of its address; another quantity, recipient, payer or seller is another order."""
    mixed = Order.at("https://shop.example/pay/api/mint/0x" + "aB" * 20)
    lower = Order.at("https://shop.example/pay/api/mint/0x" + "ab" * 20)
    assert mixed.digest(PAYER) == lower.digest(PAYER)
    others = [
        replace(ORDER, quantity=3),
        replace(ORDER, recipient=PAYER),
        replace(ORDER, base_url="https://other.example"),
        replace(ORDER, token=PAYER),
    ]
    digests = {ORDER.digest(PAYER), ORDER.digest(Address(b"\x02" * 20)), *(other.digest(PAYER) for other in others)}
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("base_url", "private"),
    [
        ("https://shop.example", True),
        ("http://127.0.0.1:4021", True),
        ("http://[::1]:4021", True),
        ("http://localhost:4021", True),
        ("http://shop.example", False),
        ("http://192.168.1.4:4021", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost.example", False),
    ],
)
def test_plain_http_is_private_on_this_machine_only(base_url: str, private: bool) -> None:
    """Elsewhere somebody in between could put in another payee."""
    assert replace(ORDER, base_url=base_url).is_private_on_the_way is private


@pytest.mark.parametrize(
    "base_url",
    ["", "shop.example", "ftp://shop.example", "https://", "https://shop.example:port", "https://a b", "https://[::1",
     "https://shop.example?x=1", "https://shop.example#x", "https://me@shop.example", "https://s\r\nX: 1"],
)  # fmt: skip
def test_what_is_no_sellers_address_is_refused(base_url: str) -> None:
    """Nothing of it reaches a request line."""
    with pytest.raises(OfferRefused):
        replace(ORDER, base_url=base_url)


@pytest.mark.parametrize("quantity", [0, -1, 1_000_001])
def test_an_impossible_quantity_is_refused(quantity: int) -> None:
    """Before a seller is asked."""
    with pytest.raises(OfferRefused, match="quantity"):
        replace(ORDER, quantity=quantity)
