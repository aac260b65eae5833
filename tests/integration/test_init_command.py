"""`payfirst init`: what it asks, what it refuses, and that what it writes can be started with."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from commands import environment, free_port, run
from typer.testing import CliRunner

from payfirst.cli.main import app
from payfirst.config import load
from payfirst.errors import OperatorError
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import checksum_address

PAY_TO = checksum_address(dev_address("seller"))


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """Serves chain 84532."""
    async with LocalChain(block_time_s=None) as running:
        yield running


def refused(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence, exit code 2, and nothing written."""
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr
    for word in words:
        assert word in ended.stderr


async def test_options_make_a_file_that_loads_without_a_question(chain: LocalChain, tmp_path: Path) -> None:
    """Piped, as a script does it; the file is its owner's, and what comes next is said."""
    words = ("init", "--network", "eip155:84532", "--pay-to", PAY_TO.lower(), "--rpc-url", chain.url)
    ended = run(*words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    path = tmp_path / "payfirst.toml"
    config = load(path, role="api", environ={})
    assert (config.network.name, config.payments.pay_to) == ("base-sepolia", PAY_TO)
    assert config.network.rpc_urls == (chain.url,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for step in ("db upgrade", "signers new --purpose settle", "signers new --purpose mint", "tokens add", "up"):
        assert f"payfirst {step}" in ended.stdout
    assert "does not answer" not in ended.stdout
    before = path.read_text()
    refused(run(*words, cwd=tmp_path), "payfirst.toml is there already", "--force")
    assert path.read_text() == before
    changed = run("init", "--minimal", "--force", cwd=tmp_path)
    assert changed.returncode == 0, changed.stderr
    assert path.read_text() != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["payfirst.toml"]


def test_minimal_asks_nothing_and_says_what_is_missing(tmp_path: Path) -> None:
    """It loads, with the local defaults; an API still wants to know where it is paid to."""
    ended = run("init", "--minimal", "--config", "shop.toml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Fill in there: network.rpc_urls, payments.pay_to" in ended.stdout
    assert "payfirst up --config shop.toml" in ended.stdout
    text = (tmp_path / "shop.toml").read_text()
    assert "# STILL TO FILL IN below: network.rpc_urls, payments.pay_to" in text
    assert load(tmp_path / "shop.toml", role="tool", environ={}).network.rpc_urls == ("http://127.0.0.1:8545",)
    filled = text.replace('#pay_to = ""', f'pay_to = "{PAY_TO}"')
    (tmp_path / "shop.toml").write_text(filled)
    assert load(tmp_path / "shop.toml", role="api", environ={}).payments.pay_to == PAY_TO


async def test_an_answer_that_cannot_be_used_is_refused_before_anything_is_written(
    chain: LocalChain, tmp_path: Path
) -> None:
    """Nobody to ask, no address, no URL, a network that is not known by name, another chain's endpoint."""
    refused(run("init", "--network", "base", cwd=tmp_path), "nobody to ask", "--pay-to, --rpc-url", "--minimal")
    given = {
        "--network": "base-sepolia",
        "--pay-to": PAY_TO,
        "--rpc-url": chain.url,
        "--config": str(tmp_path / "payfirst.toml"),
    }
    for changes, words in (
        ({"--pay-to": "0x12"}, "an address: 0x and 40 hex digits"),
        ({"--pay-to": ""}, "an address: 0x and 40 hex digits"),
        ({"--pay-to": "0x" + "00" * 20}, "other than the zero address"),
        ({"--rpc-url": "localhost:8545"}, "http:// or https://"),
        ({"--network": "polygon"}, "docs/networks.md"),
        ({"--network": "base"}, "serves chain 84532, base is 8453"),
        ({"--config": str(tmp_path / "no/such/folder.toml")}, "cannot be written"),
    ):
        words_typed = ["init", *(word for pair in (given | changes).items() for word in pair)]
        ended = await asyncio.to_thread(CliRunner().invoke, app, words_typed)
        assert isinstance(ended.exception, OperatorError), ended.output
        assert words in str(ended.exception)
    structlog.reset_defaults()  # the command logs to the stream it was given
    assert list(tmp_path.iterdir()) == []


def test_an_endpoint_that_is_away_and_an_odd_checksum_are_warned_of(tmp_path: Path) -> None:
    """Both may be right: the file is written. The URL's path, which may be a key, is not shown."""
    url = f"http://127.0.0.1:{free_port()}/v3/s3cret"
    odd = PAY_TO[:2] + PAY_TO[2:].swapcase()
    ended = run("init", "--network", "base", "--pay-to", odd, "--rpc-url", url, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "127.0.0.1 does not answer now" in ended.stdout
    assert "does not fit its checksum" in ended.stdout
    assert "s3cret" not in ended.stdout + ended.stderr
    text = (tmp_path / "payfirst.toml").read_text()
    assert "#confirmations = 2" in text
    assert "One sequencer orders the blocks" in text
    config = load(tmp_path / "payfirst.toml", role="api", environ={})
    assert (config.asset.name, config.payments.pay_to) == ("USD Coin", PAY_TO)


class Terminal:
    """A command at a terminal, answered as a person would."""

    def __init__(self, *words: str, cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "payfirst", *words],
            cwd=cwd,
            env=environment(TERM="dumb"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._said = ""

    def until(self, words: str) -> str:
        """All that was said, once `words` were among what is new."""
        start, deadline = len(self._said), time.monotonic() + 30
        while words not in self._said[start:]:
            assert time.monotonic() < deadline, self._said
            ready, _, _ = select.select([self._master], [], [], 1.0)
            if ready:
                self._said += os.read(self._master, 4096).decode()
        return self._said

    def answer(self, text: str) -> None:
        """One line."""
        os.write(self._master, text.encode() + b"\n")

    def end(self) -> int:
        """The exit code."""
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            os.close(self._master)


async def test_a_person_is_asked_three_questions_and_again_where_an_answer_is_none(
    chain: LocalChain, tmp_path: Path
) -> None:
    """Return takes what is proposed."""
    terminal = Terminal("init", cwd=tmp_path)
    for question, answer in (
        ("Network", "mainnet"),
        ("Network", ""),
        ("Where buyers pay to", "0x12"),
        ("Where buyers pay to", PAY_TO),
        ("RPC URLs", "nowhere"),
        ("RPC URLs", f"{chain.url}, {chain.url}/second"),
    ):
        terminal.until(f"{question}")
        terminal.answer(answer)
    said = terminal.until("payfirst up")
    assert terminal.end() == 0, said
    assert len(re.findall("expected", said)) == 2
    config = load(tmp_path / "payfirst.toml", role="api", environ={})
    assert config.network.name == "base-sepolia"
    assert config.network.rpc_urls == (chain.url, f"{chain.url}/second")
