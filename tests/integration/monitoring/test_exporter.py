"""The exporter over a real database: what operators scrape, and who may."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from api.shop import NETWORK, TOKEN, Buyer, configure, open_shop, running
from commands import environment, run
from postgres import free_port
from typer.testing import CliRunner

from payfirst.cli.main import app
from payfirst.cli.metrics import shipped
from payfirst.errors import OperatorError
from payfirst.store import monitoring, processes, roles
from payfirst.store.database import Pool
from payfirst.store.processes import Identity
from payfirst.units import uuid7

from .conftest import Prometheus


def value(text: str, series: str) -> float:
    """The value of a series as it is printed."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


@contextlib.asynccontextmanager
async def exporter(url: str, folder: Path, **more: str) -> AsyncIterator[httpx.AsyncClient]:
    """`payfirst metrics`, ended by SIGTERM, and a client of it."""
    port = free_port()
    with (folder / "metrics.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "payfirst", "metrics"],
            cwd=folder,
            env=environment(DATABASE_URL=url, PAYFIRST_METRICS__PORT=str(port), **more),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            async with asyncio.timeout(20):
                while True:
                    assert process.poll() is None, (folder / "metrics.log").read_text()
                    with contextlib.suppress(httpx.TransportError):
                        await client.get("/")
                        break
                    await asyncio.sleep(0.05)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0


async def scraped_once(client: httpx.AsyncClient, wanted: str) -> str:
    """The first scrape that shows `wanted`: processes publish once a second."""
    async with asyncio.timeout(15):
        while True:
            text = (await client.get("/metrics")).text
            if wanted in text:
                return text
            await asyncio.sleep(0.1)


async def test_one_scrape_shows_queues_and_processes(
    database_url: str, pool: Pool, tmp_path: Path, prometheus: Prometheus
) -> None:
    """As the onlooker's role: a payment that was accepted is in the API's figures and in the queue's depth."""
    await open_shop(pool)
    treasury = "INSERT INTO treasuries (network, asset, address, balance, held_reason) VALUES ('n', $1, $1, 7, 'short')"
    await pool.execute(treasury, "0x" + "44" * 20)
    await roles.apply(database_url)
    readonly = database_url.replace("payfirst@", f"{roles.READONLY}@", 1)
    async with running(configure(database_url), pool) as shop, exporter(readonly, tmp_path) as client:
        assert (await shop.mint()).status_code == 402
        assert (await shop.mint(Buyer().header())).status_code == 202
        assert (await shop.client.get("/health")).status_code == 200
        process = f'pid="{os.getpid()}",role="api"'
        text = await scraped_once(client, 'route="/health"')
        assert value(text, "payfirst_up") == 1
        assert value(text, 'payfirst_queue_depth{queue="payment",status="pending"}') == 1
        assert value(text, 'payfirst_queue_depth{queue="mint",status="sent"}') == 0
        assert 0 < value(text, 'payfirst_queue_oldest_age_seconds{queue="payment",status="pending"}') < 60
        assert value(text, 'payfirst_owed{asset="",direction="to_buyer",reason=""}') == 0
        labels = f'asset="0x{"44" * 20}",network="n",treasury="0x{"44" * 20}"'
        assert value(text, f"payfirst_treasury_balance{{{labels}}}") == 7
        assert value(text, f"payfirst_treasury_short{{{labels}}}") == 1
        assert value(text, 'payfirst_processes{role="api"}') == 1
        token = f'network="{NETWORK.caip2}",symbol="TT",token="0x{TOKEN.hex()}"'
        assert value(text, f"payfirst_token_units_left{{{token}}}") == 1_000_000
        accepted = [line for line in text.splitlines() if f'{process},route="/api/mint/{{token}}",status="202"' in line]
        assert len(accepted) == 1
        assert float(accepted[0].rpartition(" ")[2]) >= 1
        assert "payfirst_accept_duration_seconds_count" in text
        checked = subprocess.run(
            [prometheus.promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_a_database_that_goes_away_and_comes_back(
    database_url: str, pool: Pool, tmp_path: Path
) -> None:  # fmt: skip
    """`payfirst_up` says so; the exporter lives on and needs no restart."""
    name = database_url.rsplit("/", 1)[1]
    admin = await asyncpg.connect(database_url.replace(name, "postgres"))
    async with exporter(database_url, tmp_path) as client:
        await scraped_once(client, "payfirst_up 1.0")
        await pool.close()
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        text = await scraped_once(client, "payfirst_up 0.0")
        assert "payfirst_queue_depth" not in text
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await scraped_once(client, "payfirst_up 1.0")
    await admin.close()
    assert "Traceback" not in (tmp_path / "metrics.log").read_text()


async def test_of_two_with_one_name_the_later_is_shown(pool: Pool) -> None:
    """A container that is killed and started again has the same host and pid; Prometheus wants each series once."""
    async with pool.acquire() as connection:
        for number in (1, 2):
            identity = Identity(uuid7(now_ms=number, random_bits=number), "worker", "n", "host", 1)
            await processes.beat(connection, identity, stats_json=f'{{"metrics": {{"version": "{number}"}}}}')
            await connection.execute(
                "UPDATE processes SET started_at = started_at - interval '1 s' WHERE id <> $1", identity.id
            )
        (found,) = (await monitoring.read(connection)).processes
        assert '"2"' in found["metrics"]
        await connection.execute("UPDATE processes SET heartbeat_at = now() - interval '11 s'")
        assert (await monitoring.read(connection)).processes == []


async def test_the_public_port_has_no_metrics(database_url: str, pool: Pool) -> None:
    """Turnover and balances are not the internet's to read: the API has no such path, whatever is set."""
    await open_shop(pool)
    async with running(configure(database_url, metrics__port="9464"), pool) as shop:
        assert (await shop.client.get("/metrics")).status_code == 404


def test_the_exporter_listens_on_this_machine_only_unless_it_is_told_otherwise() -> None:
    """The default address is the loopback's, and by default no exporter is started."""
    config = configure("")
    assert (config.metrics.host, config.metrics.port) == ("127.0.0.1", 0)


async def test_an_open_exporter_is_said_aloud(database_url: str, tmp_path: Path) -> None:
    """Bound to every address it warns; bound to the loopback it does not."""
    async with exporter(database_url, tmp_path, PAYFIRST_METRICS__HOST="0.0.0.0"):  # noqa: S104 - what is warned of
        pass
    assert "let only Prometheus in" in (tmp_path / "metrics.log").read_text()
    async with exporter(database_url, tmp_path):
        pass
    assert "let only Prometheus in" not in (tmp_path / "metrics.log").read_text()


ELSEWHERE = {"PAYFIRST_METRICS__HOST": "192.0.2.1", "PAYFIRST_METRICS__PORT": "9464"}


@pytest.mark.parametrize(
    ("more", "said"),
    [({}, "metrics.port is not set"), (ELSEWHERE, "Cannot listen")],
    ids=["no port", "an address of another machine"],
)
def test_what_the_operator_can_mend_is_one_sentence(
    database_url: str, tmp_path: Path, more: dict[str, str], said: str
) -> None:
    """Exit code 2, and the settings by name."""
    refused = run("metrics", cwd=tmp_path, DATABASE_URL=database_url, **more)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_ships_is_printed() -> None:
    """Alerts, dashboard and scrape configuration; another name is refused by name."""
    for name, word in (("alerts", "PayfirstOwed"), ("dashboard", '"panels"'), ("scrape", "9464")):
        assert word in CliRunner().invoke(app, ["metrics", "--print", name]).output
    with pytest.raises(OperatorError, match="alerts, dashboard and scrape"):
        shipped("everything")
