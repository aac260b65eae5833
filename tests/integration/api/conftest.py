"""A shop that is open, for each test."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest

from payfirst.ops import log
from payfirst.store.database import Pool

from .shop import Buyer, Shop, configure, open_shop, running


@pytest.fixture(autouse=True)
def log_lines() -> io.StringIO:
    """What the application logs in this test, as JSON lines."""
    lines = io.StringIO()
    log.configure("json", "info", stream=lines)
    return lines


@pytest.fixture
async def shop(database_url: str, pool: Pool) -> AsyncIterator[Shop]:
    """An application over a database that looks as if workers lived."""
    await open_shop(pool)
    async with running(configure(database_url), pool) as opened:
        yield opened


@pytest.fixture
def buyer() -> Buyer:
    """Somebody who can sign."""
    return Buyer()
