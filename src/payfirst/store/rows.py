"""From the text in which PostgreSQL holds addresses and hashes to the bytes that payfirst works with."""

from __future__ import annotations

from payfirst.units import Address


def bytes_of(text: str) -> bytes:
    """The bytes of `0x` and hex digits."""
    return bytes.fromhex(text[2:])


def address_of(text: str) -> Address:
    """The address of `0x` and 40 hex digits."""
    return Address(bytes.fromhex(text[2:]))
