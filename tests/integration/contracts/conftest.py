"""A chain of its own for each test: it starts in a tenth of a second, and nothing leaks from test to test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from payfirst.local.chain import LocalChain

from .coin import Coin
from .token import Token


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """A local chain that mines only what is sent."""
    async with LocalChain(block_time_s=None) as running:
        yield running


@pytest.fixture
def coin(chain: LocalChain) -> Coin:
    """The development stablecoin at the address of USDC."""
    return Coin(chain)


@pytest.fixture
async def token(chain: LocalChain) -> Token:
    """A fresh MintToken: 10 units of 5 tokens; the chain's owner is admin and minter."""
    return await Token.deploy(chain, "MintToken", max_mint_count=10)
