"""The mint id, against eth-abi."""

from __future__ import annotations

from eth_abi.abi import encode

from payfirst.units import Address, AuthorizationNonce, keccak
from payfirst.x402.mint_id import mint_id

TOKEN, ASSET, PAYER = Address(b"\x01" * 20), Address(b"\x02" * 20), Address(b"\x03" * 20)
NONCE = AuthorizationNonce(keccak(b"nonce"))


def test_the_mint_id_is_the_hash_of_the_abi_encoding() -> None:
    """The id equals keccak256(abi.encode(chainId, token, asset, payer, nonce, index))."""
    types = ["uint256", "address", "address", "address", "bytes32", "uint256"]
    expected = keccak(encode(types, [84532, TOKEN, ASSET, PAYER, NONCE, 7]))
    assert mint_id(chain_id=84532, token=TOKEN, asset=ASSET, payer=PAYER, nonce=NONCE, unit=7) == expected


def test_each_part_makes_another_id() -> None:
    """No two of the parts can be changed or exchanged without changing the id."""
    ids = {
        mint_id(chain_id=84532, token=TOKEN, asset=ASSET, payer=PAYER, nonce=NONCE, unit=0),
        mint_id(chain_id=84532, token=TOKEN, asset=ASSET, payer=PAYER, nonce=NONCE, unit=1),
        mint_id(chain_id=8453, token=TOKEN, asset=ASSET, payer=PAYER, nonce=NONCE, unit=0),
        mint_id(chain_id=84532, token=ASSET, asset=TOKEN, payer=PAYER, nonce=NONCE, unit=0),
        mint_id(chain_id=84532, token=TOKEN, asset=PAYER, payer=ASSET, nonce=NONCE, unit=0),
        mint_id(
            chain_id=84532,
            token=TOKEN,
            asset=ASSET,
            payer=PAYER,
            nonce=AuthorizationNonce(keccak(NONCE)),
            unit=0,
        ),
    }
    assert len(ids) == 6
