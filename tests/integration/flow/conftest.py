"""A rig for each test."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator

import pytest

from payfirst.ops import log
from payfirst.store.database import Pool

from .rig import Rig, open_rig


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[io.StringIO]:
    """What API and worker of this test log, as JSON lines; shown when the test fails."""
    lines = io.StringIO()
    log.configure("json", "debug", stream=lines)
    yield lines
    print(lines.getvalue()[-20_000:])


@pytest.fixture
async def rig(database_url: str, pool: Pool) -> AsyncIterator[Rig]:
    """Chain, token and API."""
    async with open_rig(database_url, pool) as opened:
        yield opened
