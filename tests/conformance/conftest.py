"""A shop for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from flow.rig import open_rig

from payfirst.store.database import Pool

from .shop import Shop, serving


@pytest.fixture
async def shop(database_url: str, pool: Pool) -> AsyncIterator[Shop]:
    """A chain, a token on offer, and the seller's processes."""
    async with open_rig(database_url, pool) as rig, serving(rig) as opened:
        yield opened
