"""Each refusal of a well-formed payment, beside the payment that is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from payfirst.units import ZERO_ADDRESS, Address, AtomicAmount, AuthorizationNonce, UnixTime, keccak
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import AcceptedRequirements, Authorization, PaymentPayload
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.signing import sign_authorization
from payfirst.x402.verify import (
    AmountMismatch,
    AuthorizationExpired,
    AuthorizationNotYetValid,
    BadSignature,
    InvalidPayment,
    RecipientMismatch,
    RequirementsMismatch,
    WrongNetwork,
    WrongScheme,
    verify,
)

from .samples import AUTHORIZATION, HEADER_V1, HEADER_V2, NOW, OTHER_KEY, PAYER_KEY, REQUIREMENTS, SIGNATURE, USDC

PAYLOAD_V1 = PaymentPayload.from_header(HEADER_V1, version=1)
PAYLOAD_V2 = PaymentPayload.from_header(HEADER_V2, version=2)
SOMEBODY = Address(b"\x33" * 20)


def signed(authorization: Authorization) -> PaymentPayload:
    """A v1 payment whose payer really signed `authorization`."""
    signature = sign_authorization(USDC, authorization, PAYER_KEY)
    return structs.replace(PAYLOAD_V1, authorization=authorization, signature=signature)


def accepting(accepted: AcceptedRequirements) -> PaymentPayload:
    return structs.replace(PAYLOAD_V2, accepted=accepted)


def accepted_v2() -> AcceptedRequirements:
    assert PAYLOAD_V2.accepted is not None
    return PAYLOAD_V2.accepted


def refusal(
    payload: PaymentPayload, requirements: PaymentRequirements = REQUIREMENTS, *, now: int = NOW
) -> InvalidPayment:
    with pytest.raises(InvalidPayment) as caught:
        verify(payload, requirements, now=UnixTime(now))
    return caught.value


@pytest.mark.parametrize("payload", [PAYLOAD_V1, PAYLOAD_V2], ids=["v1", "v2"])
def test_a_good_payment_is_taken(payload: PaymentPayload) -> None:
    """The payment that the offer asks for is taken, in both versions."""
    verify(payload, REQUIREMENTS, now=NOW)


@pytest.mark.parametrize("payload", [PAYLOAD_V1, PAYLOAD_V2], ids=["v1", "v2"])
def test_another_scheme_is_refused(payload: PaymentPayload) -> None:
    """Only the exact scheme is taken."""
    error = refusal(structs.replace(payload, scheme="upto"))
    assert isinstance(error, WrongScheme)
    assert error.code == "unsupported_scheme"


@pytest.mark.parametrize(
    ("payload", "network"),
    [
        (PAYLOAD_V1, "base"),
        (PAYLOAD_V1, "eip155:84532"),
        (PAYLOAD_V1, "Base-Sepolia"),
        (PAYLOAD_V2, "eip155:8453"),
        (PAYLOAD_V2, "base-sepolia"),
        (PAYLOAD_V2, ""),
    ],
)
def test_another_network_or_spelling_is_refused(payload: PaymentPayload, network: str) -> None:
    """The network is the offer's, in the version's own spelling."""
    error = refusal(structs.replace(payload, network=network))
    assert isinstance(error, WrongNetwork)
    assert error.code == "invalid_network"


def test_a_chain_without_a_v1_name_is_paid_with_v2() -> None:
    """Where v1 has no name for the network, a v2 payment is taken and a v1 payment is told to become one."""
    local = network_from_text("eip155:31337")
    asset = replace(USDC, network=local)
    requirements = replace(REQUIREMENTS, asset=asset)
    signature = sign_authorization(asset, AUTHORIZATION, PAYER_KEY)
    verify(structs.replace(PAYLOAD_V2, network=local.caip2, signature=signature), requirements, now=NOW)
    error = refusal(structs.replace(PAYLOAD_V1, network=local.caip2, signature=signature), requirements)
    assert isinstance(error, WrongNetwork)
    assert "version 2" in str(error)


@pytest.mark.parametrize(
    ("accepted", "named"),
    [
        (structs.replace(accepted_v2(), asset=SOMEBODY), "accepted.asset"),
        (structs.replace(accepted_v2(), pay_to=SOMEBODY), "accepted.payTo"),
        (structs.replace(accepted_v2(), amount=AtomicAmount(9_999)), "accepted.amount"),
        (structs.replace(accepted_v2(), domain_name="USD Coin"), "accepted.extra.name"),
        (structs.replace(accepted_v2(), domain_version="1"), "accepted.extra.version"),
        (structs.replace(accepted_v2(), payment_flow="escrow"), "accepted.extra.paymentFlow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_accepting_something_else_is_refused(accepted: AcceptedRequirements, named: str) -> None:
    """A v2 payment for terms that are not offered is refused, even if the authorization itself fits."""
    error = refusal(accepting(accepted))
    assert isinstance(error, RequirementsMismatch)
    assert error.code == "invalid_payment_requirements"
    assert named in str(error)


def test_saying_nothing_about_the_domain_is_taken() -> None:
    """A v2 client that does not repeat `extra` contradicts nothing."""
    accepted = structs.replace(accepted_v2(), domain_name=None, domain_version=None, payment_flow=None)
    verify(accepting(accepted), REQUIREMENTS, now=NOW)


def test_another_recipient_is_refused() -> None:
    """An authorization to somebody else pays nothing here."""
    error = refusal(signed(structs.replace(AUTHORIZATION, pay_to=SOMEBODY)))
    assert isinstance(error, RecipientMismatch)
    assert error.code == "invalid_exact_evm_payload_recipient_mismatch"


@pytest.mark.parametrize("value", [0, 9_999, 10_001])
def test_another_amount_is_refused(value: int) -> None:
    """The value is exactly the price: less and more are refused."""
    error = refusal(signed(structs.replace(AUTHORIZATION, value=AtomicAmount(value))))
    assert isinstance(error, AmountMismatch)
    assert error.code == "invalid_exact_evm_payload_authorization_value_mismatch"
    assert "exactly 10000" in str(error)


def test_an_authorization_is_taken_once_valid_after_has_passed() -> None:
    """As EIP-3009 has it, validAfter itself is still too early."""
    verify(signed(structs.replace(AUTHORIZATION, valid_after=UnixTime(NOW - 1))), REQUIREMENTS, now=NOW)
    for valid_after in (NOW, NOW + 1, 2**63 - 1):
        error = refusal(signed(structs.replace(AUTHORIZATION, valid_after=UnixTime(valid_after))))
        assert isinstance(error, AuthorizationNotYetValid)
        assert error.code == "invalid_exact_evm_payload_authorization_valid_after"


@pytest.mark.parametrize("left", [60, 900, 2**63 - 1 - NOW])
def test_enough_time_is_taken(left: int) -> None:
    """Sixty seconds are enough, and no time is too long."""
    verify(signed(structs.replace(AUTHORIZATION, valid_before=UnixTime(NOW + left))), REQUIREMENTS, now=NOW)


@pytest.mark.parametrize("left", [59, 1, 0, -1, -NOW])
def test_too_little_time_is_refused(left: int) -> None:
    """What would expire in the queue is refused before anything is taken."""
    error = refusal(signed(structs.replace(AUTHORIZATION, valid_before=UnixTime(NOW + left))))
    assert isinstance(error, AuthorizationExpired)
    assert error.code == "invalid_exact_evm_payload_authorization_valid_before"


def test_the_time_demanded_can_be_set() -> None:
    """The margin is the caller's."""
    payload = signed(structs.replace(AUTHORIZATION, valid_before=UnixTime(NOW + 10)))
    verify(payload, REQUIREMENTS, now=NOW, seconds_left_min=10)
    with pytest.raises(AuthorizationExpired):
        verify(payload, REQUIREMENTS, now=NOW, seconds_left_min=11)


def test_the_zero_address_pays_nothing() -> None:
    """Nobody can sign for the zero address."""
    error = refusal(signed(structs.replace(AUTHORIZATION, payer=ZERO_ADDRESS)))
    assert isinstance(error, BadSignature)
    assert "zero address" in str(error)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        SIGNATURE[:64],
        SIGNATURE + b"\x00",
        SIGNATURE[:64] + b"\x00",
        SIGNATURE[:64] + bytes([55 - SIGNATURE[64]]),
        bytes(64) + b"\x1b",
        SIGNATURE[:32] + b"\xff" * 32 + SIGNATURE[64:],
        b"\xff" * 32 + SIGNATURE[32:],
        sign_authorization(USDC, AUTHORIZATION, OTHER_KEY),
        sign_authorization(replace(USDC, name="USD Coin"), AUTHORIZATION, PAYER_KEY),
        sign_authorization(replace(USDC, network=network_from_text("base")), AUTHORIZATION, PAYER_KEY),
    ],
    ids=["empty", "short", "long", "v-0", "other-v", "zeros", "s-range", "r-range", "other-key", "name", "chain"],
)
def test_a_bad_signature_is_refused(signature: bytes) -> None:
    """A signature of another form, by another key or for another domain is refused with one code."""
    error = refusal(structs.replace(PAYLOAD_V1, signature=signature))
    assert isinstance(error, BadSignature)
    assert error.code == "invalid_exact_evm_payload_signature"


def test_a_wrong_signer_is_told_the_domain() -> None:
    """The usual cause is another EIP-712 domain, so the sentence names the right one."""
    sentence = str(refusal(structs.replace(PAYLOAD_V1, signature=sign_authorization(USDC, AUTHORIZATION, OTHER_KEY))))
    assert "'USDC'" in sentence
    assert "84532" in sentence


@pytest.mark.parametrize(
    "authorization",
    [
        structs.replace(AUTHORIZATION, nonce=AuthorizationNonce(keccak(b"another"))),
        structs.replace(AUTHORIZATION, valid_before=UnixTime(NOW + 901)),
        structs.replace(AUTHORIZATION, valid_after=UnixTime(1)),
        structs.replace(AUTHORIZATION, payer=SOMEBODY),
    ],
    ids=["nonce", "valid-before", "valid-after", "payer"],
)
def test_a_field_changed_after_signing_is_refused(authorization: Authorization) -> None:
    """The signature covers every field of the authorization."""
    assert isinstance(refusal(structs.replace(PAYLOAD_V1, authorization=authorization)), BadSignature)


def test_cheap_refusals_come_before_the_recovery() -> None:
    """A payment that is wrong in two ways is refused for the one that costs nothing to see."""
    both = structs.replace(
        PAYLOAD_V1, signature=b"", authorization=structs.replace(AUTHORIZATION, value=AtomicAmount(1))
    )
    assert isinstance(refusal(both), AmountMismatch)
