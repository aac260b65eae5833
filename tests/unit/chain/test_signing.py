"""Transactions are signed as eth-account signs them, byte for byte."""

from __future__ import annotations

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from payfirst.chain.fees import Fees
from payfirst.chain.signers import Signer, Treasury, call_data
from payfirst.units import AccountNonce, Address, Gas, Wei, checksum_address

# The order of secp256k1: no key is as large.
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

keys = st.integers(1, ORDER - 1).map(lambda n: n.to_bytes(32))
sizes = st.integers(0, 2**63)


@settings(max_examples=50)
@given(
    key=keys,
    chain_id=st.integers(1, 2**31),
    nonce=sizes,
    to=st.binary(min_size=20, max_size=20),
    # RLP writes shorter and longer strings than 55 bytes, and single bytes, each in another way.
    data=st.one_of(
        st.binary(max_size=3), st.binary(min_size=50, max_size=60), st.binary(min_size=250, max_size=70_000)
    ),
    gas_limit=sizes,
    max_fee=sizes,
    tip=sizes,
)
def test_the_bytes_are_those_of_another_implementation(
    key: bytes, chain_id: int, nonce: int, to: bytes, data: bytes, gas_limit: int, max_fee: int, tip: int
) -> None:
    """Whatever the sizes of the numbers, of the data, and of r and s."""
    signed = Signer(key).sign(
        chain_id=chain_id,
        nonce=AccountNonce(nonce),
        to=Address(to),
        data=data,
        gas_limit=Gas(gas_limit),
        fees=Fees(Wei(max_fee), Wei(tip)),
    )
    expected = Account.from_key(key).sign_transaction(
        {
            "type": 2, "chainId": chain_id, "nonce": nonce, "to": checksum_address(Address(to)), "value": 0,
            "data": data, "gas": gas_limit, "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip,
        }
    )  # fmt: skip
    assert signed.signed == bytes(expected.raw_transaction)
    assert signed.hash == bytes(expected.hash)
    assert call_data(signed.signed) == data


@given(key=keys)
def test_the_address_is_that_of_another_implementation(key: bytes) -> None:
    """Of a signer and of a treasury."""
    expected = Account.from_key(key).address
    assert checksum_address(Signer(key).address) == checksum_address(Treasury(key).address) == expected


@pytest.mark.parametrize(
    "no_key", [bytes(32), ORDER.to_bytes(32), b"\x01" * 31, b"\x01" * 33], ids=["zero", "the order", "short", "long"]
)
def test_what_is_no_key_is_refused(no_key: bytes) -> None:
    """Before anything is signed with it."""
    with pytest.raises(ValueError, match=r"[Ss]ecret|32 bytes"):
        Signer(no_key)


def test_bytes_that_are_no_transaction_are_refused() -> None:
    """Cut off anywhere, longer than they say, or of another kind: never read as a call to something else."""
    to, fees = Address(b"\x02" * 20), Fees(Wei(2), Wei(1))
    good = Signer(b"\x01" * 32).sign(
        chain_id=1, nonce=AccountNonce(0), to=to, data=b"\x03" * 70, gas_limit=Gas(21_000), fees=fees
    )
    for broken in (*(good.signed[:end] for end in range(len(good.signed))), good.signed + b"\x00", good.signed[1:]):
        with pytest.raises(ValueError, match=r"RLP|EIP-1559"):
            call_data(broken)
