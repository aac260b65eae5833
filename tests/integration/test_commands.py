"""The command line, as a seller types it: every command in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from commands import PASSPHRASE, answers, free_port, run, up
from flow.rig import MINT_AMOUNT, NETWORK, PAY_TO, Buyer
from postgres import Cluster

from payfirst.local.chain import LocalChain, dev_address, dev_key
from payfirst.store import migrate
from payfirst.units import AtomicAmount, Wei, checksum_address, hex_text
from payfirst.x402.eip712 import Asset


def test_the_tables_go_up_and_down_by_command(any_empty_database_url: str, tmp_path: Path) -> None:
    """`payfirst db status|upgrade|downgrade` with DATABASE_URL."""
    url = any_empty_database_url
    assert run("db", "status", cwd=tmp_path, DATABASE_URL=url).returncode == 1
    upgraded = run("db", "upgrade", cwd=tmp_path, DATABASE_URL=url)
    assert (upgraded.returncode, f"empty → {migrate.status(url).head}" in upgraded.stdout) == (0, True), upgraded.stderr
    assert run("db", "status", cwd=tmp_path, DATABASE_URL=url).returncode == 0
    assert run("db", "downgrade", "base", "--yes", cwd=tmp_path, DATABASE_URL=url).returncode == 0
    assert run("db", "status", cwd=tmp_path, DATABASE_URL=url).returncode == 1


def test_a_faulty_configuration_is_refused_with_every_fault(tmp_path: Path) -> None:
    """The file, the environment and what is missing, all in one answer."""
    (tmp_path / "payfirst.toml").write_text("[server]\nport = 0\n[networks]\nname = 'x'\n", encoding="utf-8")
    refused = run("work", cwd=tmp_path, PAYFIRST_SETTLE__MODE="sometimes")
    assert refused.returncode == 2
    for setting in ("server.port", "networks", "settle.mode", "payments.pay_to", "signers.settle_key"):
        assert setting in refused.stderr, setting


def test_the_api_refuses_to_hold_a_key(database_url: str, tmp_path: Path) -> None:
    """A key in its environment is a fault, not a convenience."""
    refused = run(
        "serve",
        cwd=tmp_path,
        DATABASE_URL=database_url,
        PAYFIRST_PAYMENTS__PAY_TO=checksum_address(PAY_TO),
        PAYFIRST_SIGNERS__SETTLE_KEY=hex_text(dev_key("settle")),
    )
    assert refused.returncode == 2
    assert "holds no key" in refused.stderr
    assert dev_key("settle").hex() not in refused.stderr


def test_tables_of_another_release_are_refused(empty_database_url: str, tmp_path: Path) -> None:
    """The sentence names the command that mends it."""
    refused = run(
        "serve",
        cwd=tmp_path,
        DATABASE_URL=empty_database_url,
        PAYFIRST_PAYMENTS__PAY_TO=checksum_address(PAY_TO),
    )
    assert refused.returncode == 2
    assert "payfirst db upgrade" in refused.stderr


@pytest.mark.parametrize("there", [True, False], ids=["no such database", "no such server"])
def test_an_unreachable_database_is_one_sentence(postgres_18: Cluster, tmp_path: Path, *, there: bool) -> None:
    """No traceback at three in the morning, and no password in what is said."""
    port = postgres_18.port if there else free_port()
    url = f"postgresql://payfirst:hunter2@127.0.0.1:{port}/nowhere"
    refused = run("db", "status", cwd=tmp_path, DATABASE_URL=url)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "hunter2" not in refused.stderr


def living(pids: Iterator[psutil.Process] | list[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that still run."""
    return [p for p in pids if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


async def test_one_command_sells_and_leaves_nothing_running(open_folder: Path) -> None:
    """`payfirst up` alone: embedded database, API without keys, worker; a payment goes in, tokens come out."""
    port = free_port()
    async with LocalChain(block_time_s=0.25) as chain:
        await chain.fund_gas([dev_address("settle"), dev_address("mint")], Wei(10**20))
        token = await chain.deploy(
            "MintToken", "Up", "UP", MINT_AMOUNT, 100, dev_address("seller"), dev_address("mint")
        )
        asset = Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6)
        buyer = Buyer(asset)
        await chain.fund_usdc([buyer.address], AtomicAmount(10**6))
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
            up(open_folder, chain, port) as process,
        ):
            await answers(client, "/health", 200)
            offered = await asyncio.to_thread(
                run,
                *("tokens", "add", checksum_address(token), "--price", "0.01"),
                *("--minter", checksum_address(dev_address("mint"))),
                cwd=open_folder,
                PAYFIRST_NETWORK__RPC_URLS=chain.url,
            )
            assert offered.returncode == 0, offered.stderr
            await answers(client, "/ready", 200)
            family = psutil.Process(process.pid).children(recursive=True)
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    words = " ".join(member.cmdline())
                    if "payfirst work" not in words:
                        held = Path(f"/proc/{member.pid}/environ").read_bytes()
                        for secret in (dev_key("settle").hex(), dev_key("mint").hex(), PASSPHRASE):
                            assert secret.encode() not in held, words
            response = await client.post(
                f"/api/mint/{checksum_address(token)}", headers=buyer.header(buyer.authorize(2)), json={"quantity": 2}
            )
            assert response.status_code == 202, response.text
            end = time.monotonic() + 20
            while time.monotonic() < end:
                document = (await client.get(response.json()["statusUrl"])).json()
                if [m["status"] for m in document["mints"]] == ["completed"] * 2:
                    break
                await asyncio.sleep(0.1)
            assert document["status"] == "completed", document
        assert process.returncode == 0, (open_folder / "up.log").read_text()
        assert living(family) == []
        for said in ("X402 payment queued", "Sent payment tx", "Batch complete", "confirmed", "Created 2x mint"):
            assert said in (open_folder / "up.log").read_text(), said
