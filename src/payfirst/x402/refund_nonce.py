"""The authorization nonce of a refund, derived only from what is refunded. Pure."""

from __future__ import annotations

from payfirst.units import UINT256_MAX, Address, AuthorizationNonce, keccak

_ADDRESS_PADDING = bytes(12)
_TAG = keccak(b"payfirst refund")


def refund_nonce(
    *, chain_id: int, asset: Address, payer: Address, nonce: AuthorizationNonce, unit: int | None
) -> AuthorizationNonce:
    """keccak256(abi.encode(keccak256("payfirst refund"), chainId, asset, payer, authorization nonce, unit)).

    `nonce` is the payment's own; `unit` counts from 0 within the payment, None for the whole of it (2**256 - 1). The
    same refund has the same nonce even if its row is lost, and EIP-3009 lets a treasury use a nonce once.
    """
    index = UINT256_MAX if unit is None else unit
    return AuthorizationNonce(
        keccak(
            b"".join(
                (
                    _TAG,
                    chain_id.to_bytes(32),
                    _ADDRESS_PADDING,
                    asset,
                    _ADDRESS_PADDING,
                    payer,
                    nonce,
                    index.to_bytes(32),
                )
            )
        )
    )
