"""Both READMEs are one document in two languages, and what they tell people to type works, in the order printed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from commands import environment
from flow.rig import MINT_AMOUNT, NETWORK, PAY_TO
from flow.rig import Buyer as Account
from postgres import free_port

from payfirst.chain import keystores
from payfirst.chain.abi import encode_call
from payfirst.chain.token_check import MINTER_ROLE
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import Address, AtomicAmount, Wei, checksum_address, hex_text
from payfirst.x402.eip712 import Asset

from . import readme
from .readme import CHINESE, ENGLISH, ROOT, Block, Readme

PASSPHRASE = "correct horse battery staple"
COMMAND_TIMEOUT_S = 60
# Started and left running; everything after it meets what it serves.
KEEPS_RUNNING = ("payfirst up",)
YES = b"y\n" * 3  # to whatever a command asks


def test_both_are_the_same_document() -> None:
    """Headings, code blocks, tables and links; what differs is named, with its place in each."""
    found = readme.differences(readme.read(ENGLISH), readme.read(CHINESE))
    assert not found, "\n\n".join(["The READMEs differ:", *found])


def test_they_lead_to_each_other() -> None:
    """Near the top."""
    for path, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        assert f"]({other.name})" in "".join(path.read_text(encoding="utf-8").splitlines()[:4])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("payfirst db upgrade\n", "payfirst db update\n", r"code block \d+: README.md line \d+ \(sh\)"),
        ("```sql", "```psql", "code block"),
        ("| `payfirst work` |", "| `payfirst worker` |", "table 1, row 5"),
        ("402 the price", "403 the price", "table 2, row 3"),
        ("## Operate it", "### Operate it", "headings"),
        ("(docs/signers.md)", "(docs/keys.md)", "links"),
    ],
)
def test_a_difference_is_found_and_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    """So that the comparison above means something."""
    text = ENGLISH.read_text(encoding="utf-8")
    assert old in text
    changed = tmp_path / "CHANGED.md"
    changed.write_text(text.replace(old, new, 1), encoding="utf-8")
    (found,) = readme.differences(readme.read(ENGLISH), readme.read(changed))
    assert re.search(said, found), found


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_every_make_command_exists(path: Path) -> None:
    """In shell blocks; the tests themselves are run by them."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [line.split()[1] for line in readme.read(path).commands if line.startswith("make ")]
    assert named
    assert set(named) <= targets


@pytest.mark.timeout(240)
async def test_the_commands_work_in_their_order(open_folder: Path) -> None:
    """From an empty folder to a price on offer and a purchase: embedded database, local chain, nothing else."""
    await run_all(readme.read(ENGLISH), open_folder)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_commands_of_the_chinese_readme_work_too(open_folder: Path) -> None:
    """The same, as printed there."""
    await run_all(readme.read(CHINESE), open_folder)


class Reader:
    """Somebody who follows a README word by word, with addresses of their own."""

    def __init__(self, folder: Path, chain: LocalChain, account: Account, token: Address) -> None:
        self.folder, self.chain, self.token = folder, chain, token
        self.port = free_port()
        self.running: list[subprocess.Popen[bytes]] = []
        # What stands for the reader's own, in the order in which it is looked for.
        self.own = {
            "0xYourToken": checksum_address(token),
            "0xYourAccount": checksum_address(dev_address("owner")),
            "0xYourKey": hex_text(account.key),
            '"https://…"': json.dumps(chain.url),
            '"0x…"': json.dumps(checksum_address(PAY_TO)),
            "PASSPHRASE=…": f"PASSPHRASE={PASSPHRASE}",
            "localhost:4021": f"localhost:{self.port}",
            "127.0.0.1:4021": f"127.0.0.1:{self.port}",
        }
        anvil = next(ROOT.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"), None)
        self.variables = environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            XDG_STATE_HOME=str(folder / "state"),
            PAYFIRST_SERVER__PORT=str(self.port),
            PAYFIRST_SIGNERS__PASSPHRASE=PASSPHRASE,  # asked for where none is set, and nobody answers here
            PAYFIRST_BUYER_KEY=hex_text(account.key),
            **({} if anvil is None else {"PAYFIRST_ANVIL": str(anvil)}),
        )

    def in_own_words(self, text: str, where: str) -> str:
        """The text with the reader's own in it; nothing may be left to guess."""
        # All at once: what is put in for one may look like another.
        text = re.sub("|".join(map(re.escape, self.own)), lambda found: self.own[found[0]], text)
        assert "…" not in text, f"{where}: a placeholder that this test does not know: {text}"
        return text

    async def type(self, line: str, where: str) -> str:
        """One line of a shell block; what it printed."""
        assert line.startswith(("payfirst ", "curl ", "export ")), f"{where}: what kind of command is this? {line}"
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.variables[name] = value
            return ""
        if line.startswith(KEEPS_RUNNING):
            self.running.append(await asyncio.to_thread(self._start, line))
            await self._ready()
            return ""
        process = await asyncio.create_subprocess_shell(
            line, cwd=self.folder, env=self.variables, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            printed = (await process.communicate(YES))[0].decode()
        assert process.returncode == 0, f"{where}: {line} ended with {process.returncode}:\n{printed}"
        if line.startswith("payfirst signers new"):
            await self._care_for_signers()
        if line.startswith("payfirst tokens deploy"):
            self.own["0xYourToken"] = re.findall(r"0x[0-9a-fA-F]{40}", printed)[0]
        return printed

    async def _care_for_signers(self) -> None:
        """What a README says in words: gas money for each, and the role for the one that mints."""
        signers = keystores.find(self.folder / "payfirst-data" / "signers")
        await self.chain.fund_gas([s.address for s in signers], Wei(10**20))
        for minter in (s.address for s in signers if s.purpose == "mint"):
            grant = encode_call("grantRole(bytes32,address)", MINTER_ROLE, minter)
            await self.chain.send(self.token, grant)

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        with (self.folder / "up.log").open("wb") as output:
            return subprocess.Popen(
                shlex.split(line), cwd=self.folder, env=self.variables, stdout=output, stderr=output
            )

    async def _ready(self) -> None:
        end = time.monotonic() + COMMAND_TIMEOUT_S
        async with httpx.AsyncClient() as client:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"http://127.0.0.1:{self.port}/ready")).status_code == 200:
                        return
                assert self.running[-1].poll() is None, (self.folder / "up.log").read_text()
                await asyncio.sleep(0.1)
        raise AssertionError((self.folder / "up.log").read_text()[-3000:])

    def stop(self) -> None:
        """End what keeps running, as Ctrl-C would."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0, (self.folder / "up.log").read_text()[-3000:]


@contextlib.asynccontextmanager
async def reading(folder: Path) -> AsyncIterator[Reader]:
    """A reader with a chain, a token that stands on it, and money to buy with."""
    async with LocalChain(block_time_s=0.25) as chain:
        owner = dev_address("owner")
        token = await chain.deploy("MintToken", "Readme", "READ", MINT_AMOUNT, 100, owner, owner)
        account = Account(Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6))
        await chain.fund_usdc([account.address], AtomicAmount(10**6))
        reader = Reader(folder, chain, account, token)
        try:
            yield reader
        finally:
            await asyncio.to_thread(reader.stop)


async def run_all(document: Readme, folder: Path) -> None:
    """Each block in its order: settings are written, commands are run, and the price is asked for."""
    async with reading(folder) as reader:
        for block in document.blocks:
            where = f"{document.name}, code block {block.number} (line {block.line})"
            if block.language == "toml":
                with (folder / "payfirst.toml").open("a", encoding="utf-8") as settings:
                    settings.write(reader.in_own_words(block.text, where))
            elif block.language == "sh":
                await type_all(reader, block, where)
        assert reader.running, "the README starts payfirst"


async def type_all(reader: Reader, block: Block, where: str) -> None:
    """The lines of one shell block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("make "):
            continue  # it exists: another test says so
        printed = await reader.type(reader.in_own_words(line, where), where)
        if line.startswith("curl ") and "/api/mint/" in line:
            assert "HTTP/1.1 402" in printed, f"{where}: {printed}"
            assert '"x402Version":1' in printed
