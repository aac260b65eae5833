"""What a smart wallet may send in place of 65 bytes of a key. Pure; whether it is good only the wallet's code can say.

Sources: EIP-1271 (a contract judges the bytes itself), ERC-6492 (they are wrapped while the wallet is not deployed).
"""

from __future__ import annotations

from typing import Final

# The last 32 bytes of a wrapped signature.
ERC6492_MAGIC: Final = bytes.fromhex("6492" * 16)
_WORD: Final = 32


def is_wrapped(signature: bytes) -> bool:
    """Whether it is wrapped as ERC-6492 says."""
    return signature.endswith(ERC6492_MAGIC)


def unwrap(signature: bytes) -> bytes:
    """The wallet's own signature; one that is not wrapped as it is.

    What is wrapped with it, a factory's address and a call that would deploy the wallet, is dropped: payfirst signs no
    call that a buyer chose. Raises ValueError when the wrapping cannot be read, or holds another one.
    """
    if not is_wrapped(signature):
        return signature
    wrapped = signature[: -len(ERC6492_MAGIC)]
    at = _number(wrapped, 2 * _WORD)  # (address factory, bytes call, bytes signature)
    length = _number(wrapped, at)
    inner = wrapped[at + _WORD : at + _WORD + length]
    if len(inner) != length:
        raise ValueError("its ERC-6492 wrapping is cut off")
    if is_wrapped(inner):
        raise ValueError("it is wrapped twice (ERC-6492)")
    return inner


def _number(data: bytes, at: int) -> int:
    word = data[at : at + _WORD]
    if len(word) != _WORD:
        raise ValueError("its ERC-6492 wrapping cannot be read")
    return int.from_bytes(word)
