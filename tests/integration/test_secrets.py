"""Secrets are planted everywhere they may stand, good and bad things are done, and nowhere else may they be found.

Looked through: what every process prints at the most talkative level, every HTTP answer, the metrics, the database as a
dump, every command line, and the environment of the processes that need no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest
from aiohttp import web
from api.shop import until
from commands import answers, environment, run
from flow.rig import MINT_AMOUNT, NETWORK, PAY_TO, PRICE, Buyer
from postgres import Cluster, free_port

from payfirst.local.chain import LocalChain, dev_address
from payfirst.store.database import Pool
from payfirst.units import AtomicAmount, Wei, checksum_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.signing import address_of, sign_authorization


@dataclass
class Planted:
    """What must not be found; each is told apart in a failure."""

    passphrase: str = field(default_factory=lambda: f"phrase {secrets.token_hex(12)}")
    settle_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    mint_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    password: str = field(default_factory=lambda: f"pw{secrets.token_hex(12)}")
    rpc_path: str = field(default_factory=lambda: f"path{secrets.token_hex(12)}")
    rpc_query: str = field(default_factory=lambda: f"query{secrets.token_hex(12)}")
    rpc_password: str = field(default_factory=lambda: f"user{secrets.token_hex(12)}")
    signatures: list[str] = field(default_factory=list)

    def everywhere(self) -> dict[str, str]:
        """What may stand nowhere at all, the database included."""
        return {
            "passphrase": self.passphrase,
            # Most of a key is too much of it.
            "settle key": self.settle_key.hex()[:40],
            "mint key": self.mint_key.hex()[:40],
            "database password": self.password,
            "RPC key in the path": self.rpc_path,
            "RPC key in the query": self.rpc_query,
            "RPC password": self.rpc_password,
        }

    def found_in(self, text: str, *, and_signatures: bool = True) -> list[str]:
        """The names of the secrets that `text` holds."""
        told = self.everywhere() | (
            {f"signature {n}": s for n, s in enumerate(self.signatures)} if and_signatures else {}
        )
        return [name for name, secret in told.items() if secret.lower() in text.lower()]


@pytest.fixture
def planted() -> Planted:
    """Fresh ones for each test, so that none is found by chance."""
    return Planted()


# ---- one command that goes wrong -------------------------------------------------------------------


def mistakes(planted: Planted, port: int, folder: Path) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """What operators do at three in the morning: a name, the command, its environment."""
    good = {"PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO)}
    key, pw = "0x" + planted.settle_key.hex(), planted.password
    here = "127.0.0.1:1/x"
    for name, url in (
        ("no server", f"postgresql://payfirst:{pw}@127.0.0.1:1/x"),
        ("no such database", f"postgresql://payfirst:{pw}@127.0.0.1:{port}/nowhere"),
        ("password with a slash", f"postgresql://payfirst:a/{pw}@{here}"),
        ("password with a colon", f"postgresql://payfirst:1:{pw}@{here}"),
        ("password in the query", f"postgresql://payfirst@127.0.0.1:1/x?password={pw}"),
        ("password where the port belongs", f"postgresql://payfirst@127.0.0.1:{pw}/x"),
        ("another scheme", f"mysql://payfirst:{pw}@{here}"),
    ):
        yield f"status: {name}", ["db", "status"], {"DATABASE_URL": url}
    yield "roles: no server", ["db", "roles"], {"DATABASE_URL": f"postgresql://payfirst:{pw}@127.0.0.1:1/x"}
    yield "serve: a key for the API", ["serve"], {**good, "PAYFIRST_SIGNERS__SETTLE_KEY": key}
    yield "work: a misspelled name", ["work"], {**good, "PAYFIRST_SIGNERS__SETLE_KEY": key}
    yield (
        "work: a digit lost",
        ["work"],
        {**good, "PAYFIRST_SIGNERS__SETTLE_KEY": key[:-1], "PAYFIRST_SIGNERS__MINT_KEY": key},
    )
    yield "work: one key twice", ["work"], {
        **good, "PAYFIRST_SIGNERS__SETTLE_KEY": key, "PAYFIRST_SIGNERS__MINT_KEY": key,
    }  # fmt: skip
    yield "work: a key for an address", ["work"], {"PAYFIRST_PAYMENTS__PAY_TO": key}
    yield "work: a faulty RPC URL", ["work"], {**good, "PAYFIRST_NETWORK__RPC_URLS": f"htp://x/{planted.rpc_path}"}
    (folder / "payfirst.toml").write_text(f'[signers]\nsettle_key = "{key}"\n[sigers]\nmint = "{key}"\n', "utf-8")
    yield "work: keys in the file", ["work"], dict(good)
    open_file = folder / "open.key"
    open_file.write_text(key, encoding="utf-8")
    open_file.chmod(0o644)
    yield "work: a key file open to all", ["work"], {**good, "PAYFIRST_SIGNERS__SETTLE_KEY_FILE": str(open_file)}


@pytest.mark.slow
def test_mistakes_are_told_without_the_secret(
    planted: Planted, postgres_18: Cluster, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Each is refused with exit code 2 in words, none with a traceback, and none of them repeats what was typed."""
    for name, words, more in mistakes(planted, postgres_18.port, tmp_path):
        with subtests.test(name):
            refused = run(*words, cwd=tmp_path, **more)
            assert refused.returncode == 2, refused.stderr
            assert refused.stderr.startswith("payfirst: ")
            assert planted.found_in(refused.stdout + refused.stderr) == []


def test_a_wrong_passphrase_is_not_repeated(planted: Planted, database_url: str, tmp_path: Path) -> None:
    """Neither the right one nor the wrong one, nor the key."""
    made = run("signers", "new", "--purpose", "settle", cwd=tmp_path, PAYFIRST_SIGNERS__PASSPHRASE=planted.passphrase)
    assert made.returncode == 0, made.stderr
    refused = run(
        "work",
        cwd=tmp_path,
        DATABASE_URL=database_url,
        PAYFIRST_PAYMENTS__PAY_TO=checksum_address(PAY_TO),
        PAYFIRST_SIGNERS__PASSPHRASE=f"{planted.password}, not the right one",
        PAYFIRST_SIGNERS__MINT_KEY="0x" + planted.mint_key.hex(),
    )
    assert refused.returncode == 2, refused.stdout
    assert planted.found_in(made.stdout + made.stderr + refused.stdout + refused.stderr) == []


# ---- everything at once ----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def telltale(secret: str) -> AsyncIterator[str]:
    """The URL of an RPC endpoint that quotes the key it was asked with: as an error, in both forms."""

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        calls = asked if isinstance(asked, list) else [asked]
        said = {"code": -32005, "message": f"rate limit exceeded for project id {secret}, upgrade at /{secret}"}
        refusals = [{"jsonrpc": "2.0", "id": call["id"], "error": said} for call in calls]
        return web.json_response(refusals if isinstance(asked, list) else refusals[0])

    app = web.Application()
    app.router.add_post(f"/v3/{secret}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v3/{secret}"
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def started(words: str, folder: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`payfirst …` until the end of the block; what it prints goes to `<word>.log`."""
    with (folder / f"{words.split()[0]}.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "payfirst", *words.split()],
            cwd=folder,
            env=environment(**env),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Said:
    """Every answer of every request."""

    def __init__(self) -> None:
        self.text = ""

    async def hear(self, response: httpx.Response) -> None:
        """An httpx hook."""
        await response.aread()
        self.text += f"{response.status_code} {response.headers} {response.text}\n"


def remember(planted: Planted, buyer: Buyer, headers: Mapping[str, str], signature: bytes) -> Mapping[str, str]:
    """Take a signature among the secrets: as hex and as it travels."""
    assert buyer.address
    planted.signatures += [signature.hex(), headers["X-PAYMENT"]]
    return headers


def pay(planted: Planted, buyer: Buyer, quantity: int = 1) -> Mapping[str, str]:
    """The header of a payment whose signature is remembered."""
    authorization = buyer.authorize(quantity)
    signature = sign_authorization(buyer.asset, authorization, buyer.key)
    return remember(planted, buyer, buyer.header(authorization), signature)


async def buy_well_and_badly(client: httpx.AsyncClient, planted: Planted, path: str, buyer: Buyer, poor: Buyer) -> None:
    """Payments that are minted, that fail on chain, that are refused, and that are no payments at all."""
    good = pay(planted, buyer, 2)
    accepted = await client.post(path, headers=good, json={"quantity": 2})
    assert accepted.status_code == 202, accepted.text
    assert (await client.post(path, headers=good, json={"quantity": 2})).status_code in (200, 202)
    assert (await client.post(path, headers=good, json={"quantity": 1})).status_code == 409
    assert (await client.post(path, headers=pay(planted, poor), json={"quantity": 1})).status_code == 202
    wrong = pay(planted, buyer, 3)
    assert (await client.post(path, headers=wrong, json={"quantity": 1})).status_code == 402
    for raw in (wrong["X-PAYMENT"][:-9], wrong["X-PAYMENT"] + "AAAA", planted.signatures[0]):
        assert 400 <= (await client.post(path, headers={"X-PAYMENT": raw}, json={"quantity": 1})).status_code < 500
    body = await client.post(path, json={"quantity": 1, "payment": wrong["X-PAYMENT"]})
    assert body.status_code == 402
    status = accepted.json()["statusUrl"]

    async def minted() -> bool:
        document = (await client.get(status)).json()
        assert document["status"] != "failed", document
        return [mint["status"] for mint in document["mints"]] == ["completed"] * 2

    async def failed() -> bool:
        return bool((await client.get("/api/payment/stats")).json()["byStatus"].get("failed"))

    await until(minted)
    await until(failed)


def family(roots: list[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    """The processes and all their children."""
    found = [psutil.Process(root.pid) for root in roots]
    return [*found, *(child for process in found for child in process.children(recursive=True))]


def look_at_processes(planted: Planted, members: list[psutil.Process]) -> None:
    """No command line holds a secret; no environment but the worker's holds a key."""
    assert len(members) >= 4
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(member.cmdline())
            assert planted.found_in(line) == [], line
            if "payfirst work" not in line:
                held = Path(f"/proc/{member.pid}/environ").read_bytes().decode("utf-8", "replace")
                assert not {"passphrase", "settle key", "mint key"} & set(planted.found_in(held)), line


async def dump(url: str) -> str:
    """Every row of every table as text, without the column in which buyers' signatures belong."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [await connection.fetch(f'SELECT t::text FROM "{table["tablename"]}" t') for table in tables]
        return "\n".join(row[0] for table in rows for row in table)
    finally:
        await connection.close()


async def shut_out(url: str, client: httpx.AsyncClient, path: str, header: Mapping[str, str]) -> None:
    """The database goes away under everybody, a payment is tried, and it comes back."""
    name = url.rsplit("/", 1)[1]
    admin = await asyncpg.connect(url.replace(name, "postgres"))
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        assert (await client.post(path, headers=header, json={"quantity": 1})).status_code == 503
        await answers(client, "/ready", 503)
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
    await answers(client, "/ready", 200)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_secrets_are_found_nowhere(planted: Planted, database_url: str, pool: Pool, tmp_path: Path) -> None:
    """API, worker and exporter as processes, in good and in bad times."""
    said, api_port, metrics_port = Said(), free_port(), free_port()
    with_password = database_url.replace("payfirst@", f"payfirst:{planted.password}@", 1)
    async with LocalChain(block_time_s=0.25) as chain, telltale(planted.rpc_path) as quoting:
        settle, mint = address_of(planted.settle_key), address_of(planted.mint_key)
        await chain.fund_gas([settle, mint], Wei(10**20))
        contract = await chain.deploy("MintToken", "S", "S", MINT_AMOUNT, 1_000, dev_address("seller"), mint)
        asset = Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6)
        buyer, poor = Buyer(asset), Buyer(asset)
        await chain.fund_usdc([buyer.address], AtomicAmount(PRICE * 100))
        token = checksum_address(contract)
        good = chain.url.replace("://", f"://user:{planted.rpc_password}@") + f"/?apikey={planted.rpc_query}"
        common = {
            "DATABASE_URL": with_password,
            "PAYFIRST_LOG__LEVEL": "debug",
            "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
            "PAYFIRST_SERVER__PORT": str(api_port),
            "PAYFIRST_METRICS__PORT": str(metrics_port),
            # One that quotes its key, one that is not there, and one that works, by two names: on faults two agree.
            "PAYFIRST_NETWORK__RPC_URLS": f"{quoting},http://127.0.0.1:1/v2/{planted.rpc_path},{good},"
            + good.replace("127.0.0.1", "localhost"),
            "PAYFIRST_NETWORK__POLL_INTERVAL_MS": "50",
        }
        keys = {
            "PAYFIRST_SIGNERS__SETTLE_KEY": "0x" + planted.settle_key.hex(),
            "PAYFIRST_SIGNERS__MINT_KEY": "0x" + planted.mint_key.hex(),
            "PAYFIRST_SIGNERS__PASSPHRASE": planted.passphrase,
        }
        offered = await asyncio.to_thread(
            run,
            *("tokens", "add", token, "--price", "0.01", "--minter", checksum_address(mint)),
            cwd=tmp_path,
            **common,
        )
        assert offered.returncode == 0, offered.stderr
        path = f"/api/mint/{token}"
        hooks = {"response": [said.hear]}
        with (
            started("serve", tmp_path, common) as api,
            started("work", tmp_path, common | keys) as worker,
            started("metrics", tmp_path, common) as exporter,
        ):
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{api_port}", timeout=20, event_hooks=hooks
            ) as client, httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{metrics_port}", timeout=20, event_hooks=hooks
            ) as scraper:  # fmt: skip
                await answers(client, "/ready", 200, within_s=60)
                await buy_well_and_badly(client, planted, path, buyer, poor)
                look_at_processes(planted, family([api, worker, exporter]))
                await shut_out(database_url, client, path, pay(planted, buyer))
                for page in ("/api/payment/stats", "/api/tokens", "/openapi.json", "/health", "/nowhere"):
                    await client.get(page)
                scraped = (await scraper.get("/metrics")).text
        printed = "".join(log.read_text() for log in sorted(tmp_path.glob("*.log")))
        commands = [
            ["signers", "list"],
            ["signers", "balance"],
            ["tokens", "list"],
            ["db", "status"],
            ["db", "roles", "--sql"],
        ]
        for words in commands:
            done = await asyncio.to_thread(run, *words, cwd=tmp_path, **common)
            printed += done.stdout + done.stderr
    # What was looked through is what it should be: the bad times have left their words.
    for word in ("X402 payment queued", "rate limit exceeded for project id ***", "payment_failed", "mints confirmed"):
        assert word in printed, word
    assert 'kind="limited"' in scraped
    assert planted.found_in(printed) == []
    assert planted.found_in(said.text) == []
    assert planted.found_in(scraped) == []
    assert planted.found_in(await dump(database_url), and_signatures=False) == []
    assert os.environ.get("PAYFIRST_SIGNERS__SETTLE_KEY") is None
