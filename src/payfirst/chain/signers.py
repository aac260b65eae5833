"""Keys that sign transactions, and the signed transactions they make. Only workers import this."""

from __future__ import annotations

from dataclasses import dataclass

from coincurve import PrivateKey

from payfirst.chain.fees import Fees
from payfirst.units import AccountNonce, Address, Gas, TxHash, checksum_address, keccak


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
        # Loaded with the first key: it takes most of a second, which commands without one need not spend.
        from eth_account import Account

        self._account = Account.from_key(private_key)
        self.address = Address(bytes.fromhex(self._account.address[2:]))

    def __repr__(self) -> str:
        return f"Signer({checksum_address(self.address)})"

    def sign(
        self, *, chain_id: int, nonce: AccountNonce, to: Address, data: bytes, gas_limit: Gas, fees: Fees
    ) -> SignedTransaction:
        """An EIP-1559 transaction without value. Deterministic: the same input gives the same bytes."""
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": chain_id,
                "nonce": nonce,
                "to": checksum_address(to),
                "value": 0,
                "data": data,
                "gas": gas_limit,
                "maxFeePerGas": fees.max_fee,
                "maxPriorityFeePerGas": fees.max_priority_fee,
            }
        )
        return SignedTransaction(
            hash=TxHash(bytes(signed.hash)),
            signed=bytes(signed.raw_transaction),
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
        self.address = Address(keccak(self._key.public_key.format(compressed=False)[1:])[-20:])

    def __repr__(self) -> str:
        return f"Treasury({checksum_address(self.address)})"

    def authorize(self, digest: bytes) -> bytes:
        """The 65 bytes r, s, v (27 or 28) over the EIP-712 digest of a transfer. Deterministic (RFC 6979)."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes((27 + signature[64],))


def call_data(signed: bytes) -> bytes:
    """The calldata of a transaction that `Signer.sign` made."""
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    transaction = TypedTransaction.from_bytes(HexBytes(signed)).as_dict()
    return bytes(transaction["data"])
