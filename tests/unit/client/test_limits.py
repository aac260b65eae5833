"""What may be signed: the caller's limits against a seller's offer."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest

from payfirst.client.errors import NotAnOffer, OfferRefused
from payfirst.client.limits import KNOWN, AllowedAsset, Limits, choose
from payfirst.units import Address, AtomicAmount, checksum_address
from payfirst.x402.assets import USDC_ON_BASE, USDC_ON_BASE_SEPOLIA
from payfirst.x402.networks import network_from_text
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.responses import payment_required

SELLER = Address(b"\x22" * 20)
TERMS = PaymentRequirements(
    asset=USDC_ON_BASE_SEPOLIA,
    pay_to=SELLER,
    amount=AtomicAmount(1_000_000),
    max_timeout_s=900,
    resource="https://shop.example/api/mint/0x" + "11" * 20,
    description="1 unit",
)
OFFER: dict[str, Any] = json.loads(base64.b64decode(payment_required(TERMS, error="payment_required").header))


def offer(**changes: object) -> str:
    """The header with its one entry changed; None leaves a field out."""
    entry = {**OFFER["accepts"][0], **changes}
    return encoded({**OFFER, "accepts": [{n: v for n, v in entry.items() if v is not None}]})


def encoded(document: object) -> str:
    """A PAYMENT-REQUIRED header."""
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_payfirsts_own_offer_is_read_back() -> None:
    """Exactly at the cap it is within it."""
    assert choose(offer(), Limits(max_total="1.00", pay_to=SELLER)) == TERMS


@pytest.mark.parametrize(
    "cap", ["1", "1.0", "1.000000", Decimal(1), Decimal("1E+0"), 1_000_000, AtomicAmount(1_000_000)]
)
def test_a_cap_is_said_in_whole_units_or_in_atomic_ones(cap: Any) -> None:
    """Text and Decimal are whole units, an int is atomic ones; one atomic unit above it is refused."""
    limits = Limits(max_total=cap)
    assert choose(offer(), limits) == TERMS
    with pytest.raises(OfferRefused, match=r"Nothing was signed\. It asks for 1\.000001 'USDC'.*; the cap is 1\."):
        choose(offer(amount="1000001"), limits)


@pytest.mark.parametrize(
    "cap", ["", "-1", "1,00", "0.0000001", "NaN", Decimal("NaN"), Decimal(-1), -1, 1.0, True, None]
)
def test_what_is_no_cap_is_refused_at_once(cap: Any) -> None:
    """Before any seller is asked; a float never comes near money."""
    with pytest.raises(OfferRefused, match="the cap"):
        Limits(max_total=cap)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scheme": "upto"}, "scheme 'upto'"),
        ({"network": "eip155:1"}, "on ethereum is not allowed"),
        ({"network": "eip155:8453"}, "on base is not allowed"),  # USDC of the other chain
        ({"network": "base-sepolia"}, "on base-sepolia is not allowed"),  # the first generation's spelling
        ({"network": "solana"}, "network 'solana' is not allowed"),
        ({"asset": "0x" + "33" * 20}, "is not allowed"),
        ({"asset": "0x33"}, "asset is not an address"),
        ({"payTo": "0x" + "00" * 20}, "It pays 0x0000"),
        ({"payTo": "0x" + "44" * 20}, "not 0x2222"),
        ({"amount": "0"}, "no number of atomic units"),
        ({"amount": "1e3"}, "no number of atomic units"),
        ({"amount": "-5"}, "no number of atomic units"),
        ({"amount": str(2**256)}, "no number of atomic units"),
        ({"maxTimeoutSeconds": 86_401}, "for 86401 s"),
        ({"maxTimeoutSeconds": 0}, "for 0 s"),
        ({"extra": None}, "not settled first"),
        ({"extra": {"name": "USDC", "version": "2"}}, "not settled first"),
        ({"extra": {"name": "USDC", "version": "2", "paymentFlow": "escrow"}}, "not settled first"),
        ({"extra": {"name": "U" * 129, "version": "2", "paymentFlow": "upfront"}}, "cannot be read"),
    ],
)
def test_an_offer_outside_the_limits_is_refused(changes: dict[str, object], sentence: str) -> None:
    """With the reason, and the word that nothing was signed."""
    with pytest.raises(OfferRefused, match=sentence) as refused:
        choose(offer(**changes), Limits(pay_to=SELLER))
    assert str(refused.value).startswith("Nothing was signed.")


def test_the_first_offer_within_the_limits_is_taken() -> None:
    """Others are passed over; when none is, each says why."""
    other = {**OFFER["accepts"][0], "network": "eip155:8453", "asset": checksum_address(USDC_ON_BASE.address)}
    both = encoded({**OFFER, "accepts": [other, OFFER["accepts"][0]]})
    sepolia = Limits(assets=tuple(a for a in KNOWN if a.network == USDC_ON_BASE_SEPOLIA.network))
    assert choose(both, sepolia) == TERMS
    assert choose(both, Limits()).asset.network == USDC_ON_BASE.network
    with pytest.raises(OfferRefused, match=r"It asks for.*It asks for"):
        choose(both, Limits(max_total=1))
    with pytest.raises(OfferRefused, match="no way to pay"):
        choose(encoded({**OFFER, "accepts": []}), Limits())


def test_another_asset_is_paid_when_it_is_allowed() -> None:
    """Its cap is counted by its own decimals."""
    coin = AllowedAsset(network=network_from_text("eip155:31337"), address=Address(b"\x33" * 20), decimals=2)
    header = offer(network="eip155:31337", asset="0x" + "33" * 20, amount="150")
    assert choose(header, Limits(max_total="1.50", assets=(coin,))).amount == 150
    with pytest.raises(OfferRefused, match=r"asks for 1.5 .*the cap is 1.49"):
        choose(header, Limits(max_total="1.49", assets=(coin,)))
    with pytest.raises(OfferRefused, match="no asset is allowed"):
        Limits(assets=())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "%",
        "e30=",
        encoded([]),
        encoded({**OFFER, "x402Version": 1}),
        encoded({**OFFER, "accepts": None}),
        "A" * 16_388,
    ],
)
def test_what_is_no_offer_is_the_sellers_fault(header: str) -> None:
    """Nothing in it is guessed."""
    with pytest.raises(NotAnOffer):
        choose(header, Limits())
