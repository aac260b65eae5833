"""The offer in its two spellings, and the 402 that carries both."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from payfirst.units import AtomicAmount
from payfirst.x402.networks import network_from_text
from payfirst.x402.responses import PaymentRequired, payment_required

from .samples import REQUIREMENTS, USDC

USDC_TEXT = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PAY_TO_TEXT = "0x" + "2" * 40


def header_of(response: PaymentRequired) -> Any:
    return json.loads(base64.b64decode(response.header, validate=True))


def test_the_body_is_the_v1_offer() -> None:
    """The v1 offer is spelled as v1 clients read it, with the EIP-712 domain in `extra`."""
    assert json.loads(payment_required(REQUIREMENTS, error="payment_required").body) == {
        "x402Version": 1,
        "error": "payment_required",
        "accepts": [
            {
                "scheme": "exact",
                "network": "base-sepolia",
                "maxAmountRequired": "10000",
                "asset": USDC_TEXT,
                "payTo": PAY_TO_TEXT,
                "resource": REQUIREMENTS.resource,
                "description": "1 unit",
                "mimeType": "application/json",
                "maxTimeoutSeconds": 900,
                "extra": {"name": "USDC", "version": "2"},
            }
        ],
    }


def test_the_header_is_the_v2_offer() -> None:
    """The v2 offer says that the payment is settled first."""
    assert header_of(payment_required(REQUIREMENTS, error="payment_required")) == {
        "x402Version": 2,
        "error": "payment_required",
        "resource": {
            "url": REQUIREMENTS.resource,
            "description": "1 unit",
            "mimeType": "application/json",
        },
        "accepts": [
            {
                "scheme": "exact",
                "network": "eip155:84532",
                "amount": "10000",
                "asset": USDC_TEXT,
                "payTo": PAY_TO_TEXT,
                "maxTimeoutSeconds": 900,
                "extra": {"name": "USDC", "version": "2", "paymentFlow": "upfront"},
            }
        ],
    }


@pytest.mark.parametrize("description", ["", "1 unit"])
def test_nothing_in_the_v1_offer_is_null(description: str) -> None:
    """x402-fetch 1.2 rejects nulls and a missing media type."""
    offer = json.loads(payment_required(replace(REQUIREMENTS, description=description), error="e").body)
    (entry,) = offer["accepts"]
    assert None not in entry.values()
    assert entry["mimeType"] == "application/json"
    assert "outputSchema" not in entry


def test_a_detail_is_in_the_body_only() -> None:
    """The sentence is for people, beside the code; the header does not grow by it."""
    plain = payment_required(REQUIREMENTS, error="invalid_network")
    detailed = payment_required(REQUIREMENTS, error="invalid_network", detail='Pay on "base" — 付款')
    assert json.loads(detailed.body) == json.loads(plain.body) | {"detail": 'Pay on "base" — 付款'}
    assert detailed.header == plain.header


def test_a_detail_is_not_kept_for_the_next_answer() -> None:
    """What is memoised does not hold one payer's sentence."""
    payment_required(REQUIREMENTS, error="invalid_network", detail="first")
    assert b"first" not in payment_required(REQUIREMENTS, error="invalid_network").body


def test_different_offers_and_errors_have_different_answers() -> None:
    """What is memoised is told apart by price and by code."""
    dearer = replace(REQUIREMENTS, amount=AtomicAmount(20_000))
    answers = {
        payment_required(requirements, error=error)
        for requirements in (REQUIREMENTS, dearer)
        for error in ("payment_required", "invalid_network")
    }
    assert len(answers) == 4


def test_a_network_without_a_v1_name_is_offered_through_v2_only() -> None:
    """v1 clients see an empty list, v2 clients the offer."""
    local = replace(REQUIREMENTS, asset=replace(USDC, network=network_from_text("eip155:31337")))
    response = payment_required(local, error="payment_required")
    assert json.loads(response.body)["accepts"] == []
    assert header_of(response)["accepts"][0]["network"] == "eip155:31337"


def test_a_long_description_is_left_out_of_the_header() -> None:
    """The header stays below 3,000 bytes; the body keeps the whole description."""
    wordy = replace(REQUIREMENTS, description="字" * 2_000)
    response = payment_required(wordy, error="payment_required")
    assert len(response.header) < 3_000
    assert "description" not in header_of(response)["resource"]
    assert json.loads(response.body)["accepts"][0]["description"] == "字" * 2_000


def test_the_largest_offer_fits_the_header() -> None:
    """All limits used up at once still fit."""
    asset = replace(USDC, network=network_from_text("eip155:" + "9" * 32), name="é" * 64, version="é" * 64)
    largest = replace(
        REQUIREMENTS,
        asset=asset,
        amount=AtomicAmount(2**256 - 1),
        resource="http://" + "x" * 1_017,
        description="d" * 1_000,
        mime_type="m" * 128,
    )
    response = payment_required(largest, error="invalid_exact_evm_payload_authorization_value_mismatch")
    assert len(response.header) < 3_000


def test_an_error_that_is_no_code_is_refused() -> None:
    """A whole text where a code belongs is the program's fault, and said so."""
    with pytest.raises(ValueError, match="shorten the error code"):
        payment_required(REQUIREMENTS, error="x" * 3_000)


@pytest.mark.parametrize("resource", ["", "http://a b", 'http://"', "http://\\", "http://é", "x" * 1_025, "http://a\n"])
def test_a_resource_unfit_for_a_header_is_refused(resource: str) -> None:
    """A resource is a URL in printable ASCII of at most 1,024 characters."""
    with pytest.raises(ValueError, match="resource: expected"):
        replace(REQUIREMENTS, resource=resource)


def test_an_empty_media_type_is_refused() -> None:
    """The v1 offer needs a media type."""
    with pytest.raises(ValueError, match="mime_type: expected"):
        replace(REQUIREMENTS, mime_type="")
