"""What is taken for a smart wallet's signature, by its shape alone."""

from __future__ import annotations

import contextlib

import eth_abi.abi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payfirst.x402.verify import BadSignature, wallet_signature
from payfirst.x402.wallet_signature import ERC6492_MAGIC, unwrap

FACTORY = b"\xfa" * 20


def wrapped(signature: bytes) -> bytes:
    """As ERC-6492 says, by eth-abi."""
    return eth_abi.abi.encode(["address", "bytes", "bytes"], [FACTORY, b"deploy", signature]) + ERC6492_MAGIC


@given(st.binary(max_size=300).filter(lambda inner: not inner.endswith(ERC6492_MAGIC)))
def test_a_wrapped_signature_is_taken_out_and_a_bare_one_left(signature: bytes) -> None:
    """Factory and call are dropped."""
    assert unwrap(wrapped(signature)) == signature
    assert unwrap(signature) == signature


@given(st.binary(max_size=300))
def test_wrapping_that_is_none_is_refused_or_read_and_never_crashes(noise: bytes) -> None:
    """Whatever stands before the magic bytes."""
    with contextlib.suppress(ValueError):
        assert len(unwrap(noise + ERC6492_MAGIC)) <= len(noise)


@pytest.mark.parametrize("signature", [wrapped(b"\x01" * 64)[64:], wrapped(wrapped(b"\x01")), ERC6492_MAGIC])
def test_broken_and_doubled_wrapping_is_refused(signature: bytes) -> None:
    """A sentence of the payer's, not a fault of the program."""
    with pytest.raises(BadSignature, match="ERC-6492"):
        wallet_signature(signature, bytes_max=2_048)


def test_a_signature_is_bounded_without_its_wrapping() -> None:
    """At the limit, and one byte more."""
    assert wallet_signature(wrapped(b"\x01" * 100), bytes_max=100) == b"\x01" * 100
    with pytest.raises(BadSignature, match="101 bytes; at most 100"):
        wallet_signature(b"\x01" * 101, bytes_max=100)
