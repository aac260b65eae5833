"""Fixtures for all tests. A database fixture costs a copy of a template, not a migration."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from postgres import DEBIAN_POSTGRES_15, Cluster, cluster, temporary_folder

from payfirst.local.postgres_host import binaries


@pytest.fixture(scope="session")
def postgres_18() -> Iterator[Cluster]:
    """The PostgreSQL that payfirst carries."""
    with cluster(binaries()) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[Cluster]:
    """The oldest PostgreSQL that payfirst supports, from Debian's package."""
    if not (DEBIAN_POSTGRES_15 / "postgres").exists():
        reason = f"no PostgreSQL 15 in {DEBIAN_POSTGRES_15}"
        if os.environ.get("PAYFIRST_TEST_REQUIRE_PG15") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with cluster(DEBIAN_POSTGRES_15) as running:
        yield running


@pytest.fixture
def database_url(postgres_18: Cluster) -> Iterator[str]:
    """A fresh database with payfirst's tables on PostgreSQL 18."""
    with postgres_18.database(template=postgres_18.migrated_template) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_18: Cluster) -> Iterator[str]:
    """A fresh database without tables on PostgreSQL 18."""
    with postgres_18.database() as url:
        yield url


@pytest.fixture(params=["15", "18"])
def any_postgres(request: pytest.FixtureRequest) -> Cluster:
    """Each supported PostgreSQL in turn."""
    found = request.getfixturevalue(f"postgres_{request.param}")
    assert isinstance(found, Cluster)
    return found


@pytest.fixture
def any_database_url(any_postgres: Cluster) -> Iterator[str]:
    """A fresh database with payfirst's tables, on PostgreSQL 15 and on 18."""
    with any_postgres.database(template=any_postgres.migrated_template) as url:
        yield url


@pytest.fixture
def any_empty_database_url(any_postgres: Cluster) -> Iterator[str]:
    """A fresh database without tables, on PostgreSQL 15 and on 18."""
    with any_postgres.database() as url:
        yield url


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool of connections to `database_url`."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=8) as connected:
        yield connected


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that the account of PostgreSQL may enter, for when the tests run as root."""
    with temporary_folder() as folder:
        yield folder
