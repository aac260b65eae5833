"""Debian's Prometheus scrapes a running payfirst: every expression of the dashboard returns a series."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from commands import answers, run, up
from flow.rig import MINT_AMOUNT, NETWORK, Buyer
from postgres import free_port

from payfirst.cli.metrics import shipped
from payfirst.local.chain import LocalChain, dev_address
from payfirst.units import AtomicAmount, Wei, checksum_address
from payfirst.x402.eip712 import Asset

from .conftest import Prometheus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PAYMENTS = 5


@contextlib.asynccontextmanager
async def scraping(prometheus: Prometheus, folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """Prometheus with the configuration and the alerts that ship, on another target and at a faster pace."""
    config = shipped("scrape").replace("127.0.0.1:9464", target).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    (folder / "payfirst-alerts.yml").write_text(shipped("alerts"), encoding="utf-8")
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                prometheus.server, "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
            ],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            await answers(client, "/-/ready", 200)
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


async def ask(client: httpx.AsyncClient, expression: str) -> list[object]:
    """The series that an expression returns now."""
    answer = await client.get("/api/v1/query", params={"query": expression})
    assert answer.status_code == 200, (expression, answer.text)
    found: list[object] = answer.json()["data"]["result"]
    return found


def expressions() -> list[str]:
    """What the dashboard asks, with its variables filled in."""
    panels = json.loads(shipped("dashboard"))["panels"]
    return [
        target["expr"].replace("$__rate_interval", "30s") for panel in panels for target in panel.get("targets", [])
    ]


async def buy(client: httpx.AsyncClient, token: str, asset: Asset, chain: LocalChain) -> None:
    """Some payments, minted to the end."""
    for _ in range(PAYMENTS):
        buyer = Buyer(asset)
        await chain.fund_usdc([buyer.address], AtomicAmount(10**6))
        response = await client.post(
            f"/api/mint/{token}", headers=buyer.header(buyer.authorize(2)), json={"quantity": 2}
        )
        assert response.status_code == 202, response.text


async def test_every_expression_of_the_dashboard_returns_a_series(prometheus: Prometheus, open_folder: Path) -> None:
    """`payfirst up` starts the exporter beside API and worker; Prometheus sees all that was bought, and no alert."""
    api_port, metrics_port = free_port(), free_port()
    async with LocalChain(block_time_s=0.25) as chain:
        await chain.fund_gas([dev_address("settle"), dev_address("mint")], Wei(10**20))
        contract = await chain.deploy(
            "MintToken", "Up", "UP", MINT_AMOUNT, 10_000, dev_address("seller"), dev_address("mint")
        )
        token = checksum_address(contract)
        asset = Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6)
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", timeout=20) as client,
            up(open_folder, chain, api_port, PAYFIRST_METRICS__PORT=str(metrics_port)),
        ):
            await answers(client, "/health", 200)
            offered = await asyncio.to_thread(
                run,
                *("tokens", "add", token, "--price", "0.01", "--minter", checksum_address(dev_address("mint"))),
                cwd=open_folder,
                PAYFIRST_NETWORK__RPC_URLS=chain.url,
            )
            assert offered.returncode == 0, offered.stderr
            await answers(client, "/ready", 200)
            target = f"127.0.0.1:{metrics_port}"
            async with scraping(prometheus, open_folder, target) as server:
                # A rate needs two samples of a series; a histogram's first observation makes some of them.
                await buy(client, token, asset, chain)
                minted = f"sum(payfirst_units_minted_total) == {2 * PAYMENTS}"
                async with asyncio.timeout(60):
                    empty = [minted, *expressions()]
                    while empty:
                        await asyncio.sleep(1)
                        empty = [e for e in empty if not await ask(server, e)]
                assert not await ask(server, 'ALERTS{alertstate="firing"}')
                for name in re.findall(r"alert: (\w+)", shipped("alerts")):
                    rules = (await server.get("/api/v1/rules")).text
                    assert name in rules
                assert '"health":"err"' not in rules
