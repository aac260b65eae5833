"""The id of one unit to be minted, derived only from what the chain knows. Pure."""

from __future__ import annotations

from payfirst.units import Address, AuthorizationNonce, MintId, keccak

_ADDRESS_PADDING = bytes(12)


def mint_id(
    *, chain_id: int, token: Address, asset: Address, payer: Address, nonce: AuthorizationNonce, unit: int
) -> MintId:
    """keccak256(abi.encode(chainId, token, asset, payer, authorization nonce, index)).

    `unit` counts from 0 within a payment. The same payment gives the same ids even if its row is lost,
    and the token refuses a used id.
    """
    return MintId(
        keccak(
            b"".join(
                (
                    chain_id.to_bytes(32),
                    _ADDRESS_PADDING,
                    token,
                    _ADDRESS_PADDING,
                    asset,
                    _ADDRESS_PADDING,
                    payer,
                    nonce,
                    unit.to_bytes(32),
                )
            )
        )
    )
