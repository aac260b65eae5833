"""Keys that sign transactions, and the signed transactions they make. Only workers import this."""

from __future__ import annotations

from dataclasses import dataclass

from coincurve import PrivateKey

from payfirst.chain import raw
from payfirst.chain.fees import Fees
from payfirst.units import AccountNonce, Address, Gas, TxHash, checksum_address, keccak

KEY_BYTES = 32
# What an EIP-1559 transaction is a list of, signature included, and which of it is the calldata.
_FIELDS, _DATA = 12, 7


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """Bytes ready to be broadcast, and the hash by which the chain will know them."""

    hash: TxHash
    signed: bytes
    nonce: AccountNonce
    to: Address
    gas_limit: Gas
    fees: Fees


class Signer:
    """One key. Its repr shows the address only."""

    def __init__(self, private_key: bytes) -> None:
        """Raises ValueError when the bytes are no key."""
        if len(private_key) != KEY_BYTES:  # shorter ones would be filled up
            raise ValueError(f"a private key has {KEY_BYTES} bytes, not {len(private_key)}")
        self._key = PrivateKey(private_key)
        self.address = _address_of(self._key)

    def __repr__(self) -> str:
        return f"Signer({checksum_address(self.address)})"

    def sign(
        self, *, chain_id: int, nonce: AccountNonce, to: Address, data: bytes, gas_limit: Gas, fees: Fees
    ) -> SignedTransaction:
        """A transaction without value and without access list, by EIP-1559.

        Deterministic (RFC 6979): the same input gives the same bytes.
        """
        numbers = (chain_id, nonce, fees.max_priority_fee, fees.max_fee, gas_limit)
        call: list[raw.Item] = [*map(raw.minimal, numbers), to, b"", data, []]
        signature = self._key.sign_recoverable(keccak(raw.DYNAMIC_FEE + raw.encode(call)), hasher=None)
        parity, r, s = (int.from_bytes(part) for part in (signature[64:], signature[:32], signature[32:64]))
        signed = raw.DYNAMIC_FEE + raw.encode([*call, *map(raw.minimal, (parity, r, s))])
        return SignedTransaction(
            hash=TxHash(keccak(signed)),
            signed=signed,
            nonce=nonce,
            to=to,
            gas_limit=gas_limit,
            fees=fees,
        )


class Treasury:
    """The key of the account that refunds are paid from. It signs authorizations, never transactions, and needs no gas.

    Its repr shows the address only.
    """

    def __init__(self, private_key: bytes) -> None:
        self._key = PrivateKey(private_key)
        self.address = _address_of(self._key)

    def __repr__(self) -> str:
        return f"Treasury({checksum_address(self.address)})"

    def authorize(self, digest: bytes) -> bytes:
        """The 65 bytes r, s, v (27 or 28) over the EIP-712 digest of a transfer. Deterministic (RFC 6979)."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes((27 + signature[64],))


def _address_of(key: PrivateKey) -> Address:
    return Address(keccak(key.public_key.format(compressed=False)[1:])[-20:])


def call_data(signed: bytes) -> bytes:
    """The calldata of a transaction that `Signer.sign` made. Raises ValueError where it did not."""
    call = raw.decode(signed[1:]) if signed[:1] == raw.DYNAMIC_FEE else b""
    data = call[_DATA] if isinstance(call, list) and len(call) == _FIELDS else None
    if not isinstance(data, bytes):
        raise ValueError("these are not the bytes of an EIP-1559 transaction")
    return data
