"""What a buyer makes."""

from __future__ import annotations

import pytest
from eth_account import Account

from payfirst.units import checksum_address
from payfirst.x402.eip712 import recover_signer, transfer_digest
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import PaymentPayload
from payfirst.x402.signing import address_of, header_v1, header_v2, sign_authorization

from .samples import AUTHORIZATION, BASE_SEPOLIA, OTHER_KEY, PAYER, PAYER_KEY, REQUIREMENTS, SIGNATURE, USDC


def test_the_address_is_eth_accounts() -> None:
    """A key's account is the one that Ethereum gives it."""
    assert checksum_address(address_of(OTHER_KEY)) == Account.from_key(OTHER_KEY).address


def test_the_signature_is_eth_accounts() -> None:
    """Both sign deterministically (RFC 6979), so the bytes are the same."""
    digest = transfer_digest(USDC.domain_separator, AUTHORIZATION)
    assert bytes(Account.unsafe_sign_hash(digest, PAYER_KEY).signature) == SIGNATURE


def test_the_signature_recovers_to_its_key() -> None:
    """What is signed here is recovered here, and only to its own key."""
    digest = transfer_digest(USDC.domain_separator, AUTHORIZATION)
    signature = sign_authorization(USDC, AUTHORIZATION, OTHER_KEY)
    assert recover_signer(digest, signature) == address_of(OTHER_KEY) != PAYER


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32), b"\xff" * 32, b"\x01" * 33])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    """A key has 32 bytes, is above zero and below the order of the curve."""
    with pytest.raises(ValueError):  # noqa: PT011 - the library's words differ by case
        address_of(key)


def test_header_v1_reads_back() -> None:
    """The X-PAYMENT header holds the authorization and the signature."""
    payload = PaymentPayload.from_header(header_v1(AUTHORIZATION, SIGNATURE, network=BASE_SEPOLIA), version=1)
    assert payload == PaymentPayload(
        x402_version=1,
        scheme="exact",
        network="base-sepolia",
        authorization=AUTHORIZATION,
        signature=SIGNATURE,
        accepted=None,
    )


def test_header_v2_reads_back() -> None:
    """The PAYMENT-SIGNATURE header also holds what was accepted."""
    payload = PaymentPayload.from_header(header_v2(AUTHORIZATION, SIGNATURE, requirements=REQUIREMENTS), version=2)
    assert (payload.x402_version, payload.network) == (2, "eip155:84532")
    assert (payload.authorization, payload.signature) == (AUTHORIZATION, SIGNATURE)
    assert payload.accepted is not None
    assert payload.accepted.amount == REQUIREMENTS.amount
    assert payload.accepted.payment_flow == "upfront"


def test_header_v1_needs_a_name() -> None:
    """Version 1 cannot pay on a chain it has no name for."""
    with pytest.raises(ValueError, match="use header_v2"):
        header_v1(AUTHORIZATION, SIGNATURE, network=network_from_text("eip155:31337"))
