"""The digest that payers sign, and the recovery of who signed it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from msgspec import structs

from payfirst.units import UINT256_MAX, AtomicAmount, UnixTime, checksum_address, keccak
from payfirst.x402.eip712 import Asset, recover_signer, transfer_digest
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import Authorization

from .samples import AUTHORIZATION, PAYER, PAYER_KEY, SIGNATURE, USDC

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = transfer_digest(USDC.domain_separator, AUTHORIZATION)
USD_COIN = Asset(network=network_from_text("base"), address=USDC.address, name="USD Coin", version="2", decimals=6)


def domain(asset: Asset) -> dict[str, object]:
    return {
        "name": asset.name,
        "version": asset.version,
        "chainId": asset.network.chain_id,
        "verifyingContract": checksum_address(asset.address),
    }


def encoded(asset: Asset, authorization: Authorization) -> SignableMessage:
    """The same typed data by eth-account's generic encoder."""
    fields = [
        ("from", "address", authorization.payer),
        ("to", "address", authorization.pay_to),
        ("value", "uint256", authorization.value),
        ("validAfter", "uint256", authorization.valid_after),
        ("validBefore", "uint256", authorization.valid_before),
        ("nonce", "bytes32", authorization.nonce),
    ]
    return encode_typed_data(
        domain_data=domain(asset),
        message_types={"TransferWithAuthorization": [{"name": n, "type": t} for n, t, _ in fields]},
        message_data={name: value for name, _, value in fields},
    )


@pytest.mark.parametrize("asset", [USDC, USD_COIN], ids=lambda asset: str(asset.name))
def test_the_domain_separator_is_eth_accounts(asset: Asset) -> None:
    """Name, version, chain and contract are hashed as EIP-712 demands."""
    assert asset.domain_separator == bytes(encoded(asset, AUTHORIZATION).header)


def test_domains_differ_by_name() -> None:
    """Two assets that differ only in the domain's name have different separators."""
    assert replace(USDC, name="USD Coin").domain_separator != USDC.domain_separator


def test_an_asset_is_compared_by_what_it_is() -> None:
    """Two assets of the same fields are equal and hash alike."""
    assert replace(USDC) == USDC
    assert hash(replace(USDC)) == hash(USDC)


def test_a_domain_name_without_end_is_refused() -> None:
    """A domain text that would not fit a header is refused when the asset is made."""
    with pytest.raises(ValueError, match="EIP-712 name is longer"):
        replace(USDC, name="x" * 129)


@pytest.mark.parametrize(
    "authorization",
    [
        AUTHORIZATION,
        structs.replace(AUTHORIZATION, value=AtomicAmount(0), valid_before=UnixTime(0)),
        structs.replace(AUTHORIZATION, value=AtomicAmount(UINT256_MAX), valid_after=UnixTime(2**63 - 1)),
    ],
    ids=["usual", "zeros", "largest"],
)
def test_the_digest_is_eth_accounts(authorization: Authorization) -> None:
    """The digest made by hand equals the one of a generic EIP-712 encoder."""
    message = encoded(USDC, authorization)
    expected = keccak(b"\x19" + message.version + message.header + message.body)
    assert transfer_digest(USDC.domain_separator, authorization) == expected


def test_the_digest_depends_on_the_domain() -> None:
    """The same authorization under another asset is another digest."""
    assert transfer_digest(USD_COIN.domain_separator, AUTHORIZATION) != DIGEST


def test_a_signature_by_eth_account_is_recovered() -> None:
    """A signature made elsewhere recovers to its signer."""
    signed = Account.unsafe_sign_hash(DIGEST, PAYER_KEY)
    assert recover_signer(DIGEST, bytes(signed.signature)) == PAYER


def test_another_digest_recovers_to_somebody_else() -> None:
    """A signature over something else is not the payer's."""
    assert recover_signer(keccak(DIGEST), SIGNATURE) != PAYER


@pytest.mark.parametrize("length", [0, 1, 64, 66, 130])
def test_other_lengths_are_refused(length: int) -> None:
    """A signature has 65 bytes."""
    with pytest.raises(ValueError, match="instead of 65"):
        recover_signer(DIGEST, (SIGNATURE * 2)[:length])


@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_other_recovery_bytes_are_refused(v: int) -> None:
    """v is 27 or 28, because the asset takes nothing else."""
    with pytest.raises(ValueError, match="instead of 27 or 28"):
        recover_signer(DIGEST, SIGNATURE[:64] + bytes([v]))


@pytest.mark.parametrize("number", [0, CURVE_ORDER, CURVE_ORDER + 1, UINT256_MAX])
@pytest.mark.parametrize("place", ["r", "s"])
def test_numbers_outside_the_curve_are_refused(place: str, number: int) -> None:
    """r and s are above zero and below the order of the curve."""
    r, s, v = SIGNATURE[:32], SIGNATURE[32:64], SIGNATURE[64:]
    wrong = number.to_bytes(32)
    signature = wrong + s + v if place == "r" else r + wrong + v
    with pytest.raises(ValueError, match="order of the curve"):
        recover_signer(DIGEST, signature)


def test_the_high_twin_of_a_signature_is_refused() -> None:
    """Order minus s with the other v is the same signer's, and refused as the asset refuses it."""
    s = CURVE_ORDER - int.from_bytes(SIGNATURE[32:64])
    twin = SIGNATURE[:32] + s.to_bytes(32) + bytes([55 - SIGNATURE[64]])
    with pytest.raises(ValueError, match="upper half"):
        recover_signer(DIGEST, twin)


@pytest.mark.parametrize(("s", "refused"), [(CURVE_ORDER // 2, False), (CURVE_ORDER // 2 + 1, True)])
def test_the_lower_half_ends_at_half_the_order(s: int, refused: bool) -> None:
    """Half the order, rounded down, is the largest s that is taken."""
    signature = SIGNATURE[:32] + s.to_bytes(32) + SIGNATURE[64:]
    if refused:
        with pytest.raises(ValueError, match="upper half"):
            recover_signer(DIGEST, signature)
    else:
        assert len(recover_signer(DIGEST, signature)) == 20


def test_an_r_that_is_no_point_is_refused() -> None:
    """An r without a point on the curve has no public key."""
    # 5 is the smallest x without a point on secp256k1.
    signature = (5).to_bytes(32) + SIGNATURE[32:]
    with pytest.raises(ValueError, match="no public key"):
        recover_signer(DIGEST, signature)
