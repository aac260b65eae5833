"""OPERATIONS.md: a seller is deployed, watched, upgraded and rolled back by its commands, as printed, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from commands import environment
from deploy.units import UNITS, Unit
from deploy.units import read as read_unit
from flow.rig import MINT_AMOUNT, NETWORK, PAY_TO
from flow.rig import Buyer as Account
from postgres import DEBIAN_POSTGRES_15, Cluster, cluster, free_port

from payfirst.chain import keystores
from payfirst.chain.abi import encode_call
from payfirst.chain.token_check import MINTER_ROLE
from payfirst.local.chain import LocalChain, dev_address
from payfirst.local.postgres_host import binaries
from payfirst.units import Address, AtomicAmount, Wei, checksum_address, hex_text
from payfirst.x402.eip712 import Asset

from . import readme
from .readme import ROOT

ENGLISH, CHINESE = ROOT / "OPERATIONS.md", ROOT / "OPERATIONS.zh-CN.md"
SEED_COMMANDS = (
    "apply-async-payment-migration.sh", "npm run build", "pm2 restart", "pm2 logs", "pm2 stop", "psql $DATABASE_URL",
    "curl -X POST", "test-async-payment.sh", "reset-payment-stuck.cjs", "git checkout HEAD~1", "UPDATE payment_queue",
)  # fmt: skip
SIX_LINES = (
    "✅ X402 payment queued: ", "📤 Sent payment tx: ", "✅ Batch complete: ", "🔍 Checking ", " confirmed",
    "✅ Created 10x mint queue items after x402 payment confirmation",
)  # fmt: skip
DEPLOYED_WITHIN_S = 300
COMMAND_TIMEOUT_S = 240
STOP_TIMEOUT_S = 40
# Only a machine's own administrator may do these, and a test is not one.
PLAYED = ("useradd ", "chown ", "systemctl ")
# 1 is a warning, such as that the machine of a test lets a process open few files.
EXIT_CODES = {"payfirst doctor": (0, 1)}


def test_both_are_the_same_document() -> None:
    """The same commands, blocks, tables and links in both languages."""
    found = readme.differences(readme.read(ENGLISH), readme.read(CHINESE))
    assert not found, "\n\n".join(["The guides differ:", *found])


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_every_command_of_the_guide_is_mapped(path: Path) -> None:
    """Each in the first table's first column, beside one of ours."""
    rows = re.findall(r"^\| (`.*) \| (.+) \|$", path.read_text(encoding="utf-8").split("\n## ")[0], re.MULTILINE)
    theirs = " ".join(row[0] for row in rows)
    for command in SEED_COMMANDS:
        assert command in theirs, command


def commands_of(block: str) -> list[str]:
    """The commands of a shell block; a quoted text may go over several lines."""
    found, pending = [], ""
    for line in block.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        with contextlib.suppress(ValueError):  # an open quote
            shlex.split(pending)
            found.append(pending)
            pending = ""
    assert not pending
    return found


class Machine:
    """The seller's machine: its folders are in one of the test's, its systemd is the test."""

    def __init__(self, folder: Path, database_url: str, psql: Path, chain: LocalChain, account: Account) -> None:
        self.folder, self.chain, self.port = folder, chain, free_port()
        self.token = Address(b"")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.units = folder / "etc" / "systemd" / "system"
        for made in (self.units, folder / "opt" / "payfirst", folder / "var" / "lib", folder / "log", folder / "bin"):
            made.mkdir(parents=True)
        (folder / "opt" / "payfirst" / "0.0.9").symlink_to("0.1.0")
        journal = folder / "bin" / "journalctl"
        journal.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(folder / 'log'))}/*\n", encoding="utf-8")
        journal.chmod(0o755)
        self._own = {
            f"postgresql://{role}:…@127.0.0.1/payfirst": database_url.replace("//payfirst@", f"//{role}@")
            for role in ("payfirst", "payfirst_api", "payfirst_worker")
        } | {
            "0xYourKey": hex_text(account.key),
            "0xYourAddress": checksum_address(PAY_TO),
            "https://…": chain.url,
            "127.0.0.1:4021": f"127.0.0.1:{self.port}",
            **{place: f"{folder}{place}" for place in ("/opt/payfirst", "/etc/", "/var/lib/payfirst")},
        }
        self.variables = environment(
            PATH=f"{folder / 'bin'}{os.pathsep}{psql}{os.pathsep}{os.environ['PATH']}",
            XDG_STATE_HOME=str(folder / "state"),
        )

    def in_own_places(self, text: str) -> str:
        """The text with what is the reader's own."""
        own = self._own | {"0xYourToken": checksum_address(self.token)}
        return re.sub("|".join(re.escape(printed) for printed in own), lambda found: own[found[0]], text)

    @property
    def log(self) -> str:
        """All that was logged."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted((self.folder / "log").iterdir()))

    async def type(self, printed: str) -> None:
        """One command as it stands in the guide."""
        command = self.in_own_places(printed)
        assert "…" not in command, f"a placeholder that this test does not know: {command}"
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.variables[name] = string.Template(value).substitute(self.variables)
        elif command.startswith("systemctl "):
            await self._systemctl(*shlex.split(command)[1:])
        elif not command.startswith(PLAYED):
            await self._run(printed, command)
        if "payfirst signers new" in command:
            await self._care_for_signers()
        if command.startswith("payfirst init"):
            settings = self.folder / "etc" / "payfirst" / "payfirst.toml"
            text = settings.read_text(encoding="utf-8")
            settings.write_text(text.replace("#port = 4021", f"port = {self.port}", 1), encoding="utf-8")

    async def _run(self, printed: str, command: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", f"umask 077; {command}", cwd=ROOT, env=self.variables,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            said = (await process.communicate())[0].decode()
        allowed = next((codes for begin, codes in EXIT_CODES.items() if printed.startswith(begin)), (0,))
        assert process.returncode in allowed, f"{printed} ended with {process.returncode}:\n{said}\n{self.log[-3000:]}"

    async def _care_for_signers(self) -> None:
        """What the guide says in words: gas money for each, and the role for the one that mints."""
        signers = keystores.find(self.folder / "var" / "lib" / "payfirst" / "signers")
        await self.chain.fund_gas([s.address for s in signers], Wei(10**20))
        for minter in (s.address for s in signers if s.purpose == "mint"):
            await self.chain.send(self.token, encode_call("grantRole(bytes32,address)", MINTER_ROLE, minter))

    # ---- systemd -----------------------------------------------------------------------------------

    async def _systemctl(self, *words: str) -> None:
        verb, *names = (word for word in words if word != "--now")
        assert verb in ("daemon-reload", "enable", "start", "stop", "restart"), words
        for name in (unit for given in names for unit in self._meant_by(given)):
            if verb in ("stop", "restart"):
                await asyncio.to_thread(self._stop, name)
            if verb in ("enable", "start", "restart"):
                self._start(name)
        if verb in ("enable", "start", "restart"):
            await self.answers("/health" if verb == "start" else "/ready")

    def _meant_by(self, name: str) -> list[str]:
        if not name.endswith(".target"):
            return [f"{name.removesuffix('.service')}.service"]
        return read_unit(self.units / name).one("Wants").split()

    def _unit(self, name: str) -> Unit:
        path = self.units / re.sub(r"@[^.]+", "@", name)
        assert path.read_bytes() == (UNITS / path.name).read_bytes()
        return read_unit(path, in_own_places=self.in_own_places)

    def _start(self, name: str) -> None:
        """ExecStart as it stands, in the service's own environment, with its credentials and no more."""
        unit = self._unit(name)
        credentials = self.folder / "run" / "credentials" / name
        credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
        for credential, source in unit.credentials().items():
            shutil.copyfile(source, credentials / credential)
            (credentials / credential).chmod(0o440)
        given = {"PATH": os.defpath, "LANG": "C.UTF-8"}
        with (self.folder / "log" / name).open("ab") as output:
            self._running[name] = subprocess.Popen(
                shlex.split(unit.one("ExecStart")), cwd="/", env=unit.environment(given, credentials=credentials),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _stop(self, name: str) -> None:
        process = self._running.pop(name)
        assert process.poll() is None, f"{name} had ended:\n{self.log[-3000:]}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) in (0, -signal.SIGTERM), self.log[-3000:]

    def environment_of(self, name: str) -> bytes:
        """What a service was given."""
        return Path(f"/proc/{self._running[name].pid}/environ").read_bytes()

    async def answers(self, path: str) -> None:
        """Return once the API answers `path` with 200."""
        end = time.monotonic() + 30
        async with httpx.AsyncClient() as client:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"http://127.0.0.1:{self.port}{path}")).status_code == 200:
                        return
                for name, process in self._running.items():
                    assert process.poll() is None, f"{name} ended:\n{self.log[-3000:]}"
                await asyncio.sleep(0.1)
        raise AssertionError(f"{path} is not 200:\n{self.log[-3000:]}")

    def end(self) -> None:
        """Whatever still runs."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(STOP_TIMEOUT_S)


@pytest.fixture
def postgres() -> Iterator[Cluster]:
    """PostgreSQL 15 where Debian's is, as a seller would have it; else the one that payfirst carries.

    One of its own, because roles belong to the whole server, and one that loses nothing, because doctor asks.
    """
    has_debians = (DEBIAN_POSTGRES_15 / "postgres").exists()
    kept = {"fsync": "on", "full_page_writes": "on"}
    with cluster(DEBIAN_POSTGRES_15 if has_debians else binaries(), settings=kept) as running:
        yield running


@contextlib.asynccontextmanager
async def machine(folder: Path, server: Cluster) -> AsyncIterator[Machine]:
    """An empty one, with a database without tables, a chain, a token that stands on it, and money to buy with."""
    with server.database() as url:
        async with LocalChain(block_time_s=0.5) as chain:
            owner = dev_address("owner")
            account = Account(Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6))
            await chain.fund_usdc([account.address], AtomicAmount(10**6))
            made = Machine(folder, url, server.binaries, chain, account)
            made.token = await chain.deploy("MintToken", "Guide", "GUIDE", MINT_AMOUNT, 1_000, owner, owner)
            try:
                yield made
            finally:
                await asyncio.to_thread(made.end)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_guide_deploys_within_five_minutes_and_runs_to_its_end(postgres: Cluster, tmp_path: Path) -> None:
    """From the wheel to the six lines in the log, timed; then checks, repairs, upgrade and roll back."""
    blocks = [block.text for block in readme.read(ENGLISH).blocks if block.language == "sh"]
    began, deployed_s, typed = time.monotonic(), None, 0
    async with machine(tmp_path, postgres) as made:
        for block in blocks:
            for command in commands_of(block):
                await made.type(command)
                typed += 1
            if deployed_s is None and all(line in made.log for line in SIX_LINES):
                deployed_s = time.monotonic() - began
        assert deployed_s is not None, made.log
        assert deployed_s < DEPLOYED_WITHIN_S
        await made.answers("/ready")
        passphrase = (tmp_path / "etc" / "payfirst" / "passphrase").read_bytes().strip()
        held = made.environment_of("payfirst-api.service")
        assert b"SIGNERS" not in held
        assert passphrase not in held + made.environment_of("payfirst-worker@1.service")
        assert passphrase.decode() not in made.log
    print(f"\ndeployed in {deployed_s:.0f} s; {typed} commands were typed, in {time.monotonic() - began:.0f} s")
