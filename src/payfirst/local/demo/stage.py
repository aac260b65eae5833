"""Set the stage: database, chain, contracts, configuration, and the two processes that do the work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from payfirst import config as configuration
from payfirst.chain.rpc import RpcClient
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.local import children
from payfirst.local.chain import LocalChain
from payfirst.local.demo.accounts import (
    BURST_FUNDS,
    BURST_PAYERS,
    BUYER_FUNDS,
    GAS_FUNDS,
    OFFICIAL_BUYERS,
    PRICE,
    Person,
    people,
    person,
)
from payfirst.local.demo.folder import LOG, POSTGRES
from payfirst.local.demo.programs import Running, running, while_running
from payfirst.local.postgres import EmbeddedPostgres
from payfirst.store import database, migrate, tokens
from payfirst.store.database import Pool
from payfirst.units import Address, BlockNumber, checksum_address, hex_text
from payfirst.x402.eip712 import Asset

HOST = "127.0.0.1"
PORTS_TRIED = 20
READY_TIMEOUT_S = 30.0
LOOK_S = 0.05
POOL_SIZE = 4

QUANTITY_MAX = 10
MINT_AMOUNT = 10**18
MAX_MINT_COUNT = 1_000_000
TOKEN_NAME, TOKEN_SYMBOL = "Payfirst Demo", "DEMO"

Say = Callable[[str], None]


class NotReady(OperatorError):
    """The API did not become ready."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs, and what it is called."""

    folder: Path
    config: Config
    database_url: str
    base_url: str
    asset: Asset
    token: Address
    settle_signer: Person
    mint_signer: Person
    first_block: BlockNumber
    pool: Pool
    rpc: RpcClient
    http: aiohttp.ClientSession
    programs: tuple[Running, ...]

    @property
    def pay_to(self) -> Address:
        """Where buyers pay to."""
        return self.config.payments.pay_to_bytes

    @property
    def network(self) -> str:
        """CAIP-2."""
        return self.config.network.network.caip2

    @property
    def mint_path(self) -> str:
        """Where the token is bought."""
        return f"/api/mint/{checksum_address(self.token)}"


@contextlib.asynccontextmanager
async def open_stage(folder: Path, *, port: int, say: Say) -> AsyncIterator[Stage]:
    """Run everything in `folder`, from the database to a ready API; everything is stopped when the block ends.

    Raises OperatorError where something cannot run here.
    """
    async with contextlib.AsyncExitStack() as stack:
        say("PostgreSQL")
        url = await _database(stack, folder)
        say("migrations")
        await asyncio.to_thread(migrate.upgrade, url)
        say("anvil, the local chain")
        chain = await stack.enter_async_context(LocalChain())
        say("contracts and accounts")
        settle_signer, mint_signer = person("settle signer"), person("mint signer")
        await _fund(chain, settle_signer, mint_signer)
        token = await chain.deploy(
            "MintToken",
            TOKEN_NAME,
            TOKEN_SYMBOL,
            MINT_AMOUNT,
            MAX_MINT_COUNT,
            person("token admin").address,
            mint_signer.address,
        )
        path = folder / "payfirst.toml"
        path.write_text(settings_text(folder, port=port, rpc_url=chain.url), encoding="utf-8")
        config = configuration.load(path, role="tool", environ={"DATABASE_URL": url})
        pool = await database.connect(url, name="demo", size=POOL_SIZE)
        stack.push_async_callback(pool.close)
        async with database.session(pool, "offer the token") as connection:
            await tokens.add(connection, config.network.network.caip2, token, price=PRICE)
        first_block = (await chain.rpc.head()).number
        say("API and worker")
        programs = await stack.enter_async_context(
            running(_programs(path, url, settle_signer, mint_signer), folder / LOG)
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        base_url = config.server.base_url
        await while_running(programs, _ready(http, base_url))
        yield Stage(
            folder=folder,
            config=config,
            database_url=url,
            base_url=base_url,
            asset=asset_of(config),
            token=token,
            settle_signer=settle_signer,
            mint_signer=mint_signer,
            first_block=first_block,
            pool=pool,
            rpc=chain.rpc,
            http=http,
            programs=tuple(programs),
        )


def asset_of(config: Config) -> Asset:
    """The asset that buyers pay with, and sign for."""
    return Asset(
        network=config.network.network,
        address=config.asset.address_bytes,
        name=config.asset.name,
        version=config.asset.version,
        decimals=config.asset.decimals,
    )


def free_port(preferred: int) -> int:
    """`preferred`, or the next free port of the following ones, or any. Raises OperatorError when there is none."""
    for port in [*range(preferred, min(preferred + PORTS_TRIED, 65_536)), 0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen()
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OperatorError(f"no port is free on {HOST}")


def settings_text(folder: Path, *, port: int, rpc_url: str) -> str:
    """payfirst.toml of the demo, as a user would write it. No key stands in it."""
    return f"""# Written by `payfirst demo`. While it runs, this file serves the tools too:
#   payfirst tokens list --config {folder / "payfirst.toml"}
# The keys are not here: only the worker has them, from its environment.
data_dir = {_toml_text(str(folder))}

[server]
host = "{HOST}"
port = {port}

[network]
name = "base-sepolia"
rpc_urls = [{_toml_text(rpc_url)}]
poll_interval_ms = 100
final_depth = 64

[payments]
pay_to = "{checksum_address(person("seller").address)}"
quantity_max = {QUANTITY_MAX}

[log]
format = "console"
"""


def _toml_text(text: str) -> str:
    # TOML's basic strings escape as JSON does.
    return json.dumps(text, ensure_ascii=False)


async def _database(stack: contextlib.AsyncExitStack, folder: Path) -> str:
    server = EmbeddedPostgres(folder / POSTGRES)
    # Before the start: a demo that is stopped while the server starts stops it all the same.
    stack.push_async_callback(asyncio.to_thread, server.stop)
    return await asyncio.to_thread(server.start)


async def _fund(chain: LocalChain, settle_signer: Person, mint_signer: Person) -> None:
    await chain.fund_gas([settle_signer.address, mint_signer.address], GAS_FUNDS)
    buyers = [*people("buyer", OFFICIAL_BUYERS), person("bad buyer")]
    await chain.fund_usdc([buyer.address for buyer in buyers], BUYER_FUNDS)
    await chain.fund_usdc([payer.address for payer in people("burst payer", BURST_PAYERS)], BURST_FUNDS)


def _programs(path: Path, url: str, settle_signer: Person, mint_signer: Person) -> list[children.Program]:
    """The worker with its keys; the API, which faces the internet, without."""
    # Only what this folder's file says: the user's own settings are for the user's own server.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PAYFIRST_")}
    environment = {**ours, "DATABASE_URL": url, "PAYFIRST_CONFIG": str(path)}
    settle_variable, mint_variable = configuration.KEY_VARIABLES
    keys = {settle_variable: hex_text(settle_signer.key), mint_variable: hex_text(mint_signer.key)}
    return [
        children.worker(env={**environment, **keys}),
        children.api(env=configuration.without_keys(environment)),
    ]


async def _ready(http: aiohttp.ClientSession, base_url: str) -> None:
    """Return when GET /ready is 200."""
    said = "it does not answer"
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            async with http.get(f"{base_url}/ready") as response:
                if response.status == 200:
                    return
                said = await response.text()
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(LOOK_S)
    raise NotReady(f"the API was not ready within {READY_TIMEOUT_S:.0f} s: {said}")
