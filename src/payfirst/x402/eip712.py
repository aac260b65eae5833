"""EIP-712 by hand for EIP-3009 transfers, and secp256k1 recovery. Pure, and on the hot path.

Sources: EIP-712 (typed data), EIP-3009 (TransferWithAuthorization), EIP-2 (low s).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coincurve import PublicKey

from payfirst.units import Address, keccak
from payfirst.x402.networks import Network
from payfirst.x402.payload import Authorization

SIGNATURE_BYTES = 65
DOMAIN_TEXT_BYTES_MAX = 128

_DOMAIN_TYPE_HASH = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_TRANSFER_TYPE_HASH = keccak(
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_ADDRESS_PADDING = bytes(12)

# As bytes of one length, numbers compare like numbers: no conversion is needed.
_ZERO = bytes(32)
_CURVE_ORDER_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_CURVE_ORDER = _CURVE_ORDER_N.to_bytes(32)
_HALF_CURVE_ORDER = (_CURVE_ORDER_N // 2).to_bytes(32)

_RECOVERY_IDS = {27: b"\x00", 28: b"\x01"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """An ERC-20 with EIP-3009, and the EIP-712 domain its payers sign for."""

    network: Network
    address: Address
    name: str  # of the EIP-712 domain: "USDC" on Base Sepolia, "USD Coin" on Base
    version: str
    decimals: int
    domain_separator: bytes = field(init=False, repr=False, compare=False)  # 32 bytes

    def __post_init__(self) -> None:
        for label, text in (("name", self.name), ("version", self.version)):
            if len(text.encode()) > DOMAIN_TEXT_BYTES_MAX:
                raise ValueError(f"the asset's EIP-712 {label} is longer than {DOMAIN_TEXT_BYTES_MAX} bytes")
        separator = domain_separator(
            name=self.name, version=self.version, chain_id=self.network.chain_id, contract=self.address
        )
        object.__setattr__(self, "domain_separator", separator)


def domain_separator(*, name: str, version: str, chain_id: int, contract: Address) -> bytes:
    """The 32 bytes of an EIP-712 domain with these four fields."""
    return keccak(
        _DOMAIN_TYPE_HASH
        + keccak(name.encode())
        + keccak(version.encode())
        + chain_id.to_bytes(32)
        + _ADDRESS_PADDING
        + contract
    )


def transfer_digest(domain_separator: bytes, authorization: Authorization) -> bytes:
    """The 32 bytes that a payer of `authorization` signs under the asset's domain separator."""
    struct_hash = keccak(
        b"".join(
            (
                _TRANSFER_TYPE_HASH,
                _ADDRESS_PADDING,
                authorization.payer,
                _ADDRESS_PADDING,
                authorization.pay_to,
                authorization.value.to_bytes(32),
                authorization.valid_after.to_bytes(32),
                authorization.valid_before.to_bytes(32),
                authorization.nonce,
            )
        )
    )
    return keccak(b"\x19\x01" + domain_separator + struct_hash)


def address_from_public_key(public_key: PublicKey) -> Address:
    """The account of a public key: the last 20 bytes of its keccak."""
    return Address(keccak(public_key.format(compressed=False)[1:])[-20:])


def recover_signer(digest: bytes, signature: bytes) -> Address:
    """Who signed `digest`; the signature is r, s, v in 65 bytes, with v 27 or 28 and s in the lower half.

    Those are the asset's own demands: what passes here does not fail on chain for its form.
    Raises ValueError with a clause that says what is wrong.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(
            f"it has {len(signature)} bytes instead of 65 (r, s, v); smart-wallet signatures are not taken"
        )
    recovery_id = _RECOVERY_IDS.get(signature[64])
    if recovery_id is None:
        raise ValueError(f"its last byte v is {signature[64]} instead of 27 or 28")
    r, s = signature[:32], signature[32:64]
    if not _ZERO < r < _CURVE_ORDER or not _ZERO < s < _CURVE_ORDER:
        raise ValueError("its r or s is zero or not below the order of the curve")
    if s > _HALF_CURVE_ORDER:
        raise ValueError("its s is in the upper half of the curve's order, which the asset refuses (EIP-2)")
    try:
        public_key = PublicKey.from_signature_and_message(signature[:64] + recovery_id, digest, hasher=None)
    except ValueError:
        raise ValueError("no public key can have made it") from None
    return address_from_public_key(public_key)
