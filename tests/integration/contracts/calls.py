"""Short forms of what these tests do all the time."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from payfirst.chain.contracts import RevertReason, decode_result, encode_call, revert_reason
from payfirst.chain.rpc import RpcRefused
from payfirst.local.chain import LocalChain
from payfirst.units import Address, keccak


async def view(chain: LocalChain, to: Address, signature: str, returns: str, *args: object) -> Any:
    """The one value that a view returns. Any, because `returns` names the type at run time."""
    (value,) = decode_result([returns], await chain.call(to, encode_call(signature, *args)))
    return value


async def refusal(attempt: Awaitable[object]) -> RevertReason:
    """Why `attempt` is refused by the contract; it is a failure when it is not."""
    with pytest.raises(RpcRefused) as caught:
        await attempt
    return revert_reason(caught.value.data)


def account(name: str) -> Address:
    """An address that nobody has a key of."""
    return Address(keccak(name.encode())[:20])


def word(data: bytes) -> bytes:
    """An address as an event's topic: padded to 32 bytes."""
    return data.rjust(32, b"\0")
