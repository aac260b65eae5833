"""docs/http-api.md: its table is the code's, its commands work as printed, its settings load."""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
from pathlib import Path

import pytest
from api.shop import TOKEN, open_shop
from api.test_server import serving

from payfirst.api import refusals
from payfirst.api.headers import EXPOSED_HEADERS
from payfirst.config import load
from payfirst.store.database import Pool
from payfirst.units import checksum_address

GUIDE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def test_the_table_is_the_codes() -> None:
    """`python -m payfirst.api.refusals` prints what stands there."""
    printed = re.search(r"<!-- refusals:[^>]*-->\n(.*)<!-- /refusals -->", GUIDE, re.DOTALL)
    assert printed is not None
    assert printed.group(1).strip() == refusals.markdown().strip()


@pytest.mark.parametrize("block", blocks("toml"))
def test_the_settings_load(block: str, tmp_path: Path) -> None:
    """Each example is a configuration."""
    path = tmp_path / "payfirst.toml"
    path.write_text(block)
    server = tomllib.loads(block)["server"]
    loaded = load(path, role="tool", environ={}).server
    assert {name: list(v) if isinstance(v := getattr(loaded, name), tuple) else v for name in server} == server


def test_every_exposed_header_is_named() -> None:
    """What a page may read is said."""
    for name in EXPOSED_HEADERS.decode().split(", "):
        assert f"`{name}`" in GUIDE


async def test_the_commands_work(database_url: str, pool: Pool, tmp_path: Path) -> None:
    """Each curl line, against a server of this test's own, gives JSON; the purchase gives the offer."""
    await open_shop(pool)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 7
    environment = {"PATH": os.environ["PATH"], "TOKEN": checksum_address(TOKEN)}
    async with serving(database_url, tmp_path) as server:
        for line in lines:
            assert line.startswith("curl ")
            process = await asyncio.create_subprocess_shell(
                line.replace("http://127.0.0.1:4021", server.url) + " --fail-early -w ' HTTP %{http_code}'",
                env=environment,
                stdout=asyncio.subprocess.PIPE,
            )
            printed = (await process.communicate())[0].decode()
            assert process.returncode == 0, line
            assert printed.endswith(" HTTP 402" if "-X POST" in line else " HTTP 200"), (line, printed)
            if "-X POST" in line:
                assert "payment-required: " in printed.lower()
