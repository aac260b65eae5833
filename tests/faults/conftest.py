"""The rig of the flow tests, for faults."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from flow.conftest import log_lines
from flow.rig import Rig, open_rig

from payfirst.store.database import Pool

__all__ = ["log_lines"]


@pytest.fixture
async def rig(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """Chain, token and API."""
    async with open_rig(database_url, pool) as opened:
        yield opened
