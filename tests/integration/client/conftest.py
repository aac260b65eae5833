"""A seller's processes for each module, and a funded buyer for each test: purchases do not disturb each other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from conformance.shop import Shop, serving
from flow.rig import Buyer as Account
from flow.rig import open_rig
from postgres import Cluster

from payfirst.store import database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(postgres_18: Cluster) -> AsyncIterator[Shop]:
    """A chain, a token on offer at 0.01, an API and a worker."""
    with postgres_18.database(template=postgres_18.migrated_template) as url:
        pool = await database.connect(url, name="test", size=4)
        async with pool, open_rig(url, pool) as rig, serving(rig) as opened:
            yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def account(shop: Shop) -> Account:
    """A buyer's account with money."""
    (one,) = await shop.rig.buyers(1)
    return one
