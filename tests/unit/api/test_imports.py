"""What the API must not even load."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys, payfirst.api.app; print(*sorted(sys.modules))"


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """The modules of a fresh interpreter that has imported the application."""
    result = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.split()


@pytest.mark.parametrize("name", ["payfirst.chain", "payfirst.local", "eth_account", "web3", "aiohttp", "alembic"])
def test_the_api_loads_neither_signers_nor_rpc(loaded: list[str], name: str) -> None:
    """The process that faces the internet has no code to sign or to call a node with."""
    assert not [module for module in loaded if module == name or module.startswith(f"{name}.")]


def test_the_look_finds_what_is_loaded(loaded: list[str]) -> None:
    """The list is one of modules, so that its emptiness above means something."""
    assert {"payfirst.api.mint", "payfirst.pipeline.accept", "payfirst.x402.verify"} <= set(loaded)
