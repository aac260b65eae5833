"""Types that keep one word to one meaning, and the few conversions between them. Pure.

Addresses and hashes travel as bytes inside payfirst; text exists only at the edges (JSON, SQL, logs).
"""

from __future__ import annotations

import binascii
import datetime as dt
import re
import uuid
from typing import Literal, NewType, TypeAlias

import sha3

Address = NewType("Address", bytes)  # 20 bytes
TxHash = NewType("TxHash", bytes)  # 32 bytes
BlockHash = NewType("BlockHash", bytes)  # 32 bytes
MintId = NewType("MintId", bytes)  # 32 bytes
AuthorizationNonce = NewType("AuthorizationNonce", bytes)  # 32 bytes, chosen by the payer (EIP-3009)
AccountNonce = NewType("AccountNonce", int)  # a signer's transaction count
BlockNumber = NewType("BlockNumber", int)
AtomicAmount = NewType("AtomicAmount", int)  # of an asset, in its smallest unit
UnixTime = NewType("UnixTime", int)  # seconds
Gas = NewType("Gas", int)
Wei = NewType("Wei", int)
# What nodes call a block that the chain's consensus has settled, in part or for good.
Tag = Literal["safe", "finalized"]
# How deep a block must lie: a number of blocks, or at or below what nodes call so.
Depth: TypeAlias = int | Tag

UINT256_MAX = 2**256 - 1
ZERO_ADDRESS = Address(bytes(20))

_HEX_PREFIXES = ("0x", "0X")


def keccak(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (not NIST SHA3-256); 32 bytes."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def parse_address(text: str) -> Address:
    """An address from `0x` and 40 hex digits in any letter case; the EIP-55 checksum is not demanded.

    Raises ValueError on anything else.
    """
    if len(text) == 42:
        try:
            return Address(parse_hex(text))
        except ValueError:
            pass
    raise ValueError(f"not an address: expected 0x and 40 hex digits, got {text[:64]!r}")


def parse_bytes32(text: str) -> bytes:
    """32 bytes from `0x` and 64 hex digits. Raises ValueError on anything else."""
    if len(text) == 66:
        try:
            return parse_hex(text)
        except ValueError:
            pass
    raise ValueError(f"expected 0x and 64 hex digits, got {text[:80]!r}")


def parse_hex(text: str) -> bytes:
    """The bytes of `0x` and an even number of hex digits. Raises ValueError on anything else."""
    if text[:2] not in _HEX_PREFIXES:
        raise ValueError("expected 0x")
    # It takes hex digits and nothing else, where bytes.fromhex skips white space; both are a third of a pattern's cost.
    return binascii.unhexlify(text[2:])


def hex_text(data: bytes) -> str:
    """`0x` and lower-case hex: the form in which the database and the logs hold addresses and hashes."""
    return "0x" + data.hex()


def checksum_address(address: Address) -> str:
    """EIP-55 mixed-case form: the form in which an address is put on the wire."""
    digits = address.hex()
    digest = keccak(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(h, 16) >= 8 else d for d, h in zip(digits, digest, strict=False))


def uuid7(*, now_ms: int, random_bits: int) -> uuid.UUID:
    """A version 7 UUID (RFC 9562): 48 bits of Unix milliseconds, 74 random bits.

    `random_bits` is the caller's, because this module is pure; only its low 74 bits are used.
    """
    return uuid.UUID(bytes=uuid7_bytes(now_ms=now_ms, random_bits=random_bits))


def uuid7_bytes(*, now_ms: int, random_bits: int) -> bytes:
    """The 16 bytes of `uuid7`."""
    rand_a = (random_bits >> 62) & 0xFFF
    rand_b = random_bits & ((1 << 62) - 1)
    value = (now_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    return value.to_bytes(16)


def format_units(amount: AtomicAmount, *, decimals: int) -> str:
    """An atomic amount as a decimal number for people: 12345678 with 6 decimals is `12.345678`."""
    whole, fraction = divmod(amount, 10**decimals)
    digits = f"{fraction:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_units(text: str, *, decimals: int) -> AtomicAmount:
    """A decimal number for people as an atomic amount: `0.01` with 6 decimals is 10000.

    Raises ValueError when the text is no plain non-negative decimal number or finer than the asset.
    """
    match = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?", text.strip())
    if match is None:
        raise ValueError(f"expected a number such as 0.01, got {text!r}")
    whole, fraction = match.group(1), (match.group(2) or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{text} is finer than the asset's {decimals} decimals")
    return AtomicAmount(int(whole) * 10**decimals + int(fraction.ljust(decimals, "0") or "0"))


def utc_text(moment: dt.datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as the JSON answers hold times. Demands an aware datetime."""
    if moment.tzinfo is None:
        raise ValueError("times are UTC and aware")
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
