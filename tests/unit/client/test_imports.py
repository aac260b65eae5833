"""What a program that only buys must not need to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys, payfirst.client; print(*sorted(sys.modules))"


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """The modules of a fresh interpreter that has imported the client."""
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.split()


@pytest.mark.parametrize(
    "name", ["asyncpg", "sqlalchemy", "alembic", "eth_account", "httptools", "starlette", "pydantic", "payfirst.store"]
)
def test_buying_loads_no_sellers_library(loaded: list[str], name: str) -> None:
    """No database, no server, no settings."""
    assert not [module for module in loaded if module == name or module.startswith(f"{name}.")]


def test_the_look_finds_what_is_loaded(loaded: list[str]) -> None:
    """The list is one of modules, so that its emptiness above means something."""
    assert {"payfirst.client.pursuit", "payfirst.x402.signing", "aiohttp"} <= set(loaded)
