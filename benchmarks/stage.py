"""What a measurement runs on: PostgreSQL, anvil, API processes and workers, each a process whose CPU is counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import asyncpg
import msgspec

from benchmarks import cpu, growth_fill
from benchmarks.growth_fill import History
from benchmarks.load import Order, Result, Shop
from payfirst import config as configuration
from payfirst.chain.abi import encode_call
from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.local import children
from payfirst.local.chain import LocalChain
from payfirst.local.demo.accounts import GAS_FUNDS, PRICE, people, person
from payfirst.local.demo.programs import Running, running, while_running
from payfirst.local.demo.stage import READY_TIMEOUT_S, asset_of, free_port, settings_text
from payfirst.local.postgres import EmbeddedPostgres
from payfirst.store import database, heads, migrate, tokens
from payfirst.store.database import Pool
from payfirst.store.heads import ReadBlock
from payfirst.units import (
    Address,
    AtomicAmount,
    BlockHash,
    BlockNumber,
    UnixTime,
    checksum_address,
    hex_text,
    keccak,
)

# anvil keeps each transaction with its trace (twice the depth of finality stays), and a copy of the whole state for
# each block: gigabytes after 100,000 payments, but workers may ask for that of 100 blocks ago (`scan.STATES_KEPT`). It
# begins at the head of another chain, as otherwise a block costs anvil more the more storage there is.
BLOCKS_KEPT, STATES_KEPT = 128, 104
PAYER_FUNDS = AtomicAmount(10**12)
MAX_MINT_COUNT = 10**9
ANOTHER_NETWORK = "eip155:1"
SIGN_S_MAX = 300.0
RUN_S_MAX = 400.0

# Payment first; no authorization twice; one Transfer log, one payment; exactly the units that were paid for.
SAFETY_RULES = ("payment_first", "authorizations_once", "payment_queue_evidence", "payment_queue_units_complete")

# Limits that a benchmark would run into, set as an operator of such a load sets them. None of them is a safety rule.
LIMITS = {
    "PAYFIRST_PAYMENTS__QUEUE_DEPTH_MAX": "10000000",
    "PAYFIRST_PAYMENTS__TOKEN_OUTSTANDING_MAX": "10000000",
    "PAYFIRST_PAYMENTS__PAYER_OUTSTANDING_MAX": "10000000",
    "PAYFIRST_PAYMENTS__DRAIN_RATE_FLOOR_PER_S": "1000000",
}

# How the local stablecoin describes itself: here it is not where Base Sepolia has USDC, which is known by its address.
ASSET = {"PAYFIRST_ASSET__NAME": "USDC", "PAYFIRST_ASSET__VERSION": "2", "PAYFIRST_ASSET__DECIMALS": "6"}


@dataclass(frozen=True, slots=True)
class Shape:
    """How many of what; `variables` are further settings, by environment variable."""

    apis: int = 1
    workers: int = 1
    signers: int = 1  # of each purpose, for each worker
    settling: bool = True  # False: the signers are paused, so that accepting is alone
    bare: bool = False  # True: benchmarks.skeleton in payfirst's place, with one worker at most
    block_s: float = 1.0
    payers: int = 1_000  # they take turns
    sold: int = 0  # payments settled and minted earlier, after which the tables were analyzed
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Stage:
    """Everything that runs."""

    shape: Shape
    folder: Path
    config: Config
    environment: dict[str, str]  # of the API: without keys
    database_url: str
    token: Address
    pool: Pool
    chain: LocalChain
    roots: dict[str, list[int]]
    programs: list[Running]
    next_number: int = 0

    def shop(self, kind: str = "good") -> Shop:
        """For the load generator."""
        server, asset = self.config.server, asset_of(self.config)
        path = f"/api/mint/{checksum_address(self.token)}"
        return Shop(
            host=server.host,
            port=server.port,
            path=path,
            resource=server.base_url + path,
            network=asset.network.caip2,
            asset=hex_text(asset.address),
            asset_name=asset.name,
            asset_version=asset.version,
            asset_decimals=asset.decimals,
            pay_to=hex_text(self.config.payments.pay_to_bytes),
            payers=self.shape.payers,
            kind=kind,
        )

    def order(self, count: int, *, connections: int, rate: float = 0.0, kind: str = "good") -> Order:
        """The next `count` payments, none of them sent before."""
        first, self.next_number = self.next_number, self.next_number + count
        return Order(self.shop(kind), first, count, connections, rate)


@contextlib.asynccontextmanager
async def open_stage(shape: Shape) -> AsyncIterator[Stage]:
    """Run everything in a temporary folder until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="payfirst-bench-")))
        os.chmod(folder, 0o711)  # noqa: PTH101, S103 - as root, the database is another user's
        server = EmbeddedPostgres(folder / "postgres")
        stack.push_async_callback(asyncio.to_thread, server.stop)
        url = await asyncio.to_thread(server.start)
        await asyncio.to_thread(migrate.upgrade, url)
        if shape.sold:
            await _sell(url, shape.sold)
        origin = await stack.enter_async_context(LocalChain(block_time_s=None))
        chain = await stack.enter_async_context(
            LocalChain(
                block_time_s=shape.block_s, blocks_kept=BLOCKS_KEPT, states_kept=STATES_KEPT, fork_url=origin.url
            )
        )
        count = shape.workers * shape.signers
        settlers, minters = people("settle signer", count), people("mint signer", count)
        await chain.fund_gas([s.address for s in (*settlers, *minters)], GAS_FUNDS)
        await chain.fund_usdc([p.address for p in people("burst payer", shape.payers)], PAYER_FUNDS)
        admin = person("token admin")
        token = await chain.deploy(
            "MintToken", "Bench", "BENCH", 10**18, MAX_MINT_COUNT, admin.address, minters[0].address
        )
        await chain.fund_gas([admin.address], GAS_FUNDS)
        for other in minters[1:]:
            grant = encode_call("grantRole(bytes32,address)", keccak(b"MINTER_ROLE"), other.address)
            await chain.send(token, grant, admin.key)
        path = folder / "payfirst.toml"
        # Any port: two servers that start at the same time on one port would share it, and each other's payments.
        path.write_text(settings_text(folder, port=free_port(0), rpc_url=chain.url), encoding="utf-8")
        ours = {n: v for n, v in os.environ.items() if not n.startswith("PAYFIRST_")}
        environment = {**ours, **LIMITS, **ASSET, **shape.variables, "DATABASE_URL": url, "PAYFIRST_CONFIG": str(path)}
        environment["PAYFIRST_ASSET__ADDRESS"] = checksum_address(chain.usdc)
        environment["PAYFIRST_SERVER__PROCESSES"] = str(shape.apis)
        config = configuration.load(path, role="tool", environ=configuration.without_keys(environment))
        pool = await database.connect(url, name="bench", size=4)
        stack.push_async_callback(pool.close)
        async with database.session(pool, "offer the token") as connection:
            await tokens.add(connection, config.network.network.caip2, token, price=PRICE)
        settle_variable, mint_variable = configuration.KEY_VARIABLES
        keyless = configuration.without_keys(environment)
        programs = []
        for number in range(shape.workers):
            mine = slice(number * shape.signers, (number + 1) * shape.signers)
            keys = {
                settle_variable: ",".join(hex_text(s.key) for s in settlers[mine]),
                mint_variable: ",".join(hex_text(m.key) for m in minters[mine]),
            }
            programs.append(children.worker(number=number + 1, env={**environment, **keys}))
        programs.append(children.api(env=keyless))
        if shape.bare:
            programs = [replace(p, argv=_BARE[p.name]) for p in programs if shape.settling or p.name == "api"]
            await _stand_in(pool, config, token)
        started = await stack.enter_async_context(running(programs, folder))
        async with aiohttp.ClientSession() as http:
            await while_running(started, until_answered(http, f"{config.server.base_url}/ready"))
        stage = Stage(
            shape=shape,
            folder=folder,
            config=config,
            environment=keyless,
            database_url=url,
            token=token,
            pool=pool,
            chain=chain,
            roots={
                "api": [started[-1].process.pid],
                "worker": [program.process.pid for program in started[:-1]],
                "postgres": [_postmaster(folder / "postgres")],
                "chain": [pid for pid in (chain.pid, origin.pid) if pid is not None],
            },
            programs=started,
        )
        await demand_safety(stage)
        if not shape.settling:
            await pool.execute("UPDATE signers SET paused_reason = 'bench' WHERE paused_reason IS NULL")
            await asyncio.sleep(1)
        yield stage


_BARE = {
    name: (sys.executable, "-m", "benchmarks.skeleton", argument)
    for name, argument in (("api", "api"), ("worker-1", "worker"))
}


async def _sell(url: str, count: int) -> None:
    """On another network, so that this chain has none of them; what PostgreSQL knows of its tables is of them all."""
    connection = await asyncpg.connect(url)
    try:
        await growth_fill.fill(connection, History(count, 1, network=ANOTHER_NETWORK), say=lambda _: None)
    finally:
        await connection.close()


async def _stand_in(pool: Pool, config: Config, token: Address) -> None:
    """The rows that payfirst's workers make when they start: where the chain stands, and the token's supply."""
    network = config.network.network.caip2
    async with database.transaction(pool, "start") as connection:
        await heads.start(connection, network, ReadBlock(BlockNumber(0), BlockHash(bytes(32)), UnixTime(0)))
        facts = tokens.TokenFacts(token, "Bench", "BENCH", 10**18, MAX_MINT_COUNT, 0)
        await tokens.sync(connection, network, facts, height=BlockNumber(0))


async def demand_safety(stage: Stage) -> None:
    """Raises OperatorError when a rule that makes payfirst safe is off: such figures would be worth nothing."""
    settings = {
        row["name"]: row["setting"]
        for row in await stage.pool.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", [
            "fsync", "synchronous_commit", "full_page_writes"])
    }  # fmt: skip
    missing = [f"PostgreSQL's {name} is {value}" for name, value in settings.items() if value != "on"]
    found = {
        row[0]
        for row in await stage.pool.fetch(
            "SELECT conname FROM pg_constraint UNION SELECT tgname FROM pg_trigger WHERE tgenabled = 'O'"
            " UNION SELECT indexname FROM pg_indexes"
        )
    }
    missing += [f"{rule} is not in the schema" for rule in SAFETY_RULES if rule not in found]
    if missing:
        raise OperatorError(f"The benchmark does not run with a safety rule off: {'; '.join(missing)}.")


def _postmaster(folder: Path) -> int:
    found = next(folder.rglob("postmaster.pid"))
    return int(found.read_text().splitlines()[0])


async def until_answered(http: aiohttp.ClientSession, url: str) -> None:
    """Ask until the answer is 200."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


class Load:
    """The load generator's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """For counting its CPU."""
        return self._process.pid

    async def sign(self, order: Order) -> None:
        """Return when everything is signed."""
        await self._say(msgspec.json.encode(order))
        said = await self._hear(SIGN_S_MAX)
        if said != b"signed\n":
            raise OperatorError(f"the load generator said {said!r}")

    async def fire(self) -> Result:
        """Send what was signed."""
        await self._say(b"go")
        return msgspec.json.decode(await self._hear(RUN_S_MAX), type=Result)

    async def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()

    async def _hear(self, within_s: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        async with asyncio.timeout(within_s):
            line = await self._process.stdout.readline()
        if not line:
            raise OperatorError("the load generator ended: its words stand above")
        return line


@contextlib.asynccontextmanager
async def load() -> AsyncIterator[Load]:
    """The load generator, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=children.before_start(),
    )
    try:
        yield Load(process)
    finally:
        await children.stop(process, within_s=5)


@dataclass(frozen=True, slots=True)
class Measured:
    """One order, fired: the client's view, and CPU microseconds a request by group."""

    result: Result
    cpu_us: dict[str, float]
    others_share: float  # of the machine's CPU time in that time, spent by programs that are not ours

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return sum(self.result.statuses.values()) / self.result.seconds

    @property
    def accepted(self) -> int:
        """Durable 202s."""
        return self.result.statuses.get("202", 0)


async def measure(stage: Stage, client: Load, order: Order) -> Measured:
    """Sign and fire one order."""
    await client.sign(order)
    before, machine_before = cpu.by_group(stage.roots), cpu.machine_busy()
    result = await client.fire()
    after, machine_after = cpu.by_group(stage.roots), cpu.machine_busy()
    spent = {name: after[name] - before[name] for name in after}
    spent["load"] = result.cpu_s
    machine = max(1e-9, machine_after - machine_before)
    return Measured(
        result,
        {name: 1e6 * s / order.count for name, s in spent.items()},
        max(0.0, 1 - sum(spent.values()) / machine),
    )
