"""The nonce of a refund: one for each thing that can be refunded, the same wherever and whenever it is derived."""

from __future__ import annotations

from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from payfirst.units import Address, AuthorizationNonce, keccak
from payfirst.x402.mint_id import mint_id
from payfirst.x402.refund_nonce import refund_nonce

ASSET, PAYER, NONCE = Address(b"\x01" * 20), Address(b"\x02" * 20), AuthorizationNonce(b"\x03" * 32)


@given(
    chain_id=st.integers(1, 2**63),
    asset=st.binary(min_size=20, max_size=20),
    payer=st.binary(min_size=20, max_size=20),
    nonce=st.binary(min_size=32, max_size=32),
    unit=st.none() | st.integers(0, 249),
)
def test_it_is_what_the_abi_encoding_hashes_to(
    chain_id: int, asset: bytes, payer: bytes, nonce: bytes, unit: int | None
) -> None:
    """Anyone can derive it again with any ABI library."""
    types = ["bytes32", "uint256", "address", "address", "bytes32", "uint256"]
    index = 2**256 - 1 if unit is None else unit
    encoded = encode(types, [keccak(b"payfirst refund"), chain_id, asset, payer, nonce, index])
    found = refund_nonce(
        chain_id=chain_id, asset=Address(asset), payer=Address(payer), nonce=AuthorizationNonce(nonce), unit=unit
    )
    assert found == keccak(encoded)


def test_units_and_the_whole_have_nonces_of_their_own() -> None:
    """Each unit is refunded under its own nonce, and none is a mint id."""
    found = [refund_nonce(chain_id=1, asset=ASSET, payer=PAYER, nonce=NONCE, unit=unit) for unit in (None, *range(250))]
    assert len(set(found)) == 251
    ids = {mint_id(chain_id=1, token=ASSET, asset=ASSET, payer=PAYER, nonce=NONCE, unit=unit) for unit in range(250)}
    assert not ids & set(found)
