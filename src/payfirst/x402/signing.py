"""What a buyer does: sign an authorization and build the header. For the demo and the tests. Pure.

Nothing here draws randomness: the authorization's nonce is the caller's, and that of ECDSA follows from
key and digest (RFC 6979).
"""

from __future__ import annotations

import binascii

import msgspec
from coincurve import PrivateKey

from payfirst.units import Address, checksum_address, hex_text
from payfirst.x402.eip712 import Asset, address_from_public_key, transfer_digest
from payfirst.x402.networks import Network
from payfirst.x402.payload import Authorization
from payfirst.x402.requirements import SCHEME, PaymentRequirements, accepts_v2
from payfirst.x402.wire import AuthorizationWire, ExactWire, PayloadV1, SignedPayloadV2

PRIVATE_KEY_BYTES = 32

_ENCODER = msgspec.json.Encoder()


def address_of(private_key: bytes) -> Address:
    """The account of a 32-byte key. Raises ValueError when it is no key."""
    return address_from_public_key(_key(private_key).public_key)


def sign_authorization(asset: Asset, authorization: Authorization, private_key: bytes) -> bytes:
    """The 65 bytes r, s, v (27 or 28) over the authorization. Raises ValueError when the key is none."""
    digest = transfer_digest(asset.domain_separator, authorization)
    signature = _key(private_key).sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes((27 + signature[64],))


def header_v1(authorization: Authorization, signature: bytes, *, network: Network) -> str:
    """The X-PAYMENT value. Raises ValueError where v1 has no name for the network."""
    if network.name is None:
        raise ValueError(f"x402 version 1 has no name for {network.caip2}: use header_v2")
    return _base64(
        PayloadV1(x402_version=1, scheme=SCHEME, network=network.name, payload=_exact(authorization, signature))
    )


def header_v2(authorization: Authorization, signature: bytes, *, requirements: PaymentRequirements) -> str:
    """The PAYMENT-SIGNATURE value; `requirements` is what the buyer says it accepted."""
    return _base64(
        SignedPayloadV2(x402_version=2, accepted=accepts_v2(requirements), payload=_exact(authorization, signature))
    )


def _key(private_key: bytes) -> PrivateKey:
    # coincurve would pad a shorter key with zeros: a typing error would become another account.
    if len(private_key) != PRIVATE_KEY_BYTES:
        raise ValueError(f"expected a private key of {PRIVATE_KEY_BYTES} bytes, got {len(private_key)}")
    return PrivateKey(private_key)


def _exact(authorization: Authorization, signature: bytes) -> ExactWire:
    return ExactWire(
        signature=hex_text(signature),
        authorization=AuthorizationWire(
            from_=checksum_address(authorization.payer),
            to=checksum_address(authorization.pay_to),
            value=str(authorization.value),
            valid_after=str(authorization.valid_after),
            valid_before=str(authorization.valid_before),
            nonce=hex_text(authorization.nonce),
        ),
    )


def _base64(document: msgspec.Struct) -> str:
    return binascii.b2a_base64(_ENCODER.encode(document), newline=False).decode("ascii")
