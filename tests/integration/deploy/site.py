"""A seller's machine as an operator sees it: releases that are installed, processes that run, buyers that come."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
from commands import environment
from flow.rig import MINT_AMOUNT, NETWORK, PAY_TO, PRICE, Buyer, Rig, terms
from postgres import free_port

from payfirst.local.chain import LocalChain, dev_address, dev_key
from payfirst.store import database, tokens
from payfirst.units import Wei, checksum_address, hex_text
from payfirst.x402.eip712 import Asset

COMMAND_TIMEOUT_S = 120
STOP_TIMEOUT_S = 40
READY_TIMEOUT_S = 90
BUYERS = 40
EVERY_S = 0.1
# A hundred orders that are asked for again ten times a second leave the releases under test no processor.
AGAIN_S, ATTEMPTS = 0.5, 120
LOOK_S = 0.05


@dataclass(frozen=True)
class Release:
    """A payfirst that can be run."""

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


THIS = Release((sys.executable, "-m", "payfirst"))


@dataclass
class Running:
    """A process, and what it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """Everything it wrote so far."""
        return self.log.read_text(encoding="utf-8")

    def demand_running(self) -> None:
        """Return if it runs."""
        assert self.process.poll() is None, f"{self.name} ended:\n{self.said[-3000:]}"

    async def stop(self) -> None:
        """SIGTERM, and an end in good order."""
        self.demand_running()
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, STOP_TIMEOUT_S)
        assert code in (0, -signal.SIGTERM), f"{self.name} ended with {code}:\n{self.said[-3000:]}"


class Site:
    """One database, one chain, a token on offer, and two ports for the API."""

    def __init__(self, folder: Path, rig: Rig) -> None:
        self.folder, self.rig = folder, rig
        self.ports = (free_port(), free_port())
        self.running: list[Running] = []

    def variables(self, release: Release, *, keys: bool, port: int) -> dict[str, str]:
        """The environment of a process."""
        signing = {
            "PAYFIRST_SIGNERS__SETTLE_KEY": hex_text(dev_key("settle")),
            "PAYFIRST_SIGNERS__MINT_KEY": hex_text(dev_key("mint")),
        }
        return environment(
            DATABASE_URL=self.rig.database_url,
            PAYFIRST_PAYMENTS__PAY_TO=checksum_address(PAY_TO),
            PAYFIRST_NETWORK__RPC_URLS=self.rig.chain.url,
            PAYFIRST_NETWORK__POLL_INTERVAL_MS="50",
            PAYFIRST_SERVER__PORT=str(port),
            **(signing if keys else {}),
            **release.variables,
        )

    async def run(self, release: Release, *words: str, code: int = 0) -> str:
        """A command to its end, by an operator who holds no key; what it printed on standard output."""
        done = await asyncio.to_thread(
            subprocess.run,
            [*release.command, *words],
            cwd=self.folder,
            env=self.variables(release, keys=False, port=self.ports[0]),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        said = f"payfirst {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert done.returncode == code, said
        return str(done.stdout)

    def start(self, release: Release, *words: str, port: int = 0) -> Running:
        """`payfirst serve` or `payfirst work`, stopped at the end of the test if it still runs."""
        name = f"{len(self.running)}-{words[0]}"
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*release.command, *words],
                cwd=self.folder,
                env=self.variables(release, keys=words[0] == "work", port=port or self.ports[0]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.running.append(Running(name, process, log))
        return self.running[-1]

    async def ready(self, port: int, *, status: int = 200) -> None:
        """Return once the API at `port` answers /ready with `status`."""
        end, said = time.monotonic() + READY_TIMEOUT_S, "nothing"
        async with httpx.AsyncClient() as client:
            while time.monotonic() < end:
                with contextlib.suppress(httpx.TransportError):
                    found = await client.get(f"http://127.0.0.1:{port}/ready")
                    if found.status_code == status:
                        return
                    said = found.text
                for running in self.running:
                    if running.name.endswith("serve") and running.process.poll() not in (None, 0, -signal.SIGTERM):
                        running.demand_running()
                await asyncio.sleep(LOOK_S)
        raise AssertionError(f"/ready was not {status}: {said}\n" + "\n".join(r.said[-2000:] for r in self.running))

    async def works(self, worker: Running) -> None:
        """Return once the worker has reported, so that the APIs see it when they next look."""
        sql = "SELECT count(*) FROM processes WHERE role = 'worker' AND pid = $1"

        async def reported() -> bool:
            worker.demand_running()
            return bool(await self.rig.pool.fetchval(sql, worker.process.pid))

        await self.rig.until(reported, within_s=READY_TIMEOUT_S)

    def end(self) -> None:
        """Kill what is left."""
        for running in self.running:
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGTERM)
        for running in self.running:
            try:
                running.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


class Crowd:
    """Buyers who keep coming, one each 0.1 s, to whichever API answers; each insists with the same header."""

    def __init__(self, site: Site, buyers: Sequence[Buyer]) -> None:
        self._site, self._buyers = site, buyers
        self.accepted: list[uuid.UUID] = []
        self.refused: list[str] = []

    async def come(self) -> None:
        """Until cancelled; an order that is under way then is followed to its answer."""
        orders: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=10) as client:
            try:
                for number in range(1_000_000):
                    orders.add(asyncio.create_task(self._order(client, number)))
                    await asyncio.sleep(EVERY_S)
            finally:
                await asyncio.gather(*orders)

    async def _order(self, client: httpx.AsyncClient, number: int) -> None:
        buyer = self._buyers[number % len(self._buyers)]
        headers = buyer.header(buyer.authorize(2))
        ports = self._site.ports
        for attempt in range(ATTEMPTS):
            url = f"http://127.0.0.1:{ports[(number + attempt) % 2]}/api/mint/{checksum_address(self._site.rig.token)}"
            with contextlib.suppress(httpx.TransportError):
                answer = await client.post(url, headers=headers, json={"quantity": 2})
                if answer.status_code in (200, 202):
                    self.accepted.append(uuid.UUID(answer.json()["paymentQueueId"]))
                    return
                assert answer.status_code in (429, 503), f"{answer.status_code}: {answer.text}"
                self.refused.append(answer.text)
            await asyncio.sleep(AGAIN_S)
        raise AssertionError("an order was not taken for a minute")

    async def more(self, number: int) -> None:
        """Return once so many more were accepted."""
        wanted = len(self.accepted) + number

        async def come() -> bool:
            return len(self.accepted) >= wanted

        await self._site.rig.until(come, within_s=60)

    async def minted(self) -> None:
        """Return once all that was ever accepted is paid and minted."""
        sql = (
            "SELECT count(*) FROM payment_queue p WHERE p.id = ANY($1) AND p.status = 'completed' AND"
            " (SELECT count(*) FROM mint_queue m WHERE m.payment_id = p.id AND m.status = 'completed') = p.quantity"
        )

        async def all_minted() -> bool:
            found = await self._site.rig.pool.fetchval(sql, self.accepted)
            return bool(found == len(self.accepted))

        await self._site.rig.until(all_minted, within_s=60)
        counts = await self._site.rig.counts()
        assert counts == {
            "payments_completed": len(set(self.accepted)),
            "mints_completed": 2 * len(set(self.accepted)),
        }


@contextlib.asynccontextmanager
async def crowd(site: Site) -> AsyncIterator[Crowd]:
    """Buyers with money who keep coming while the block runs; each is answered before it ends."""
    coming = Crowd(site, await site.rig.buyers(BUYERS))
    task = asyncio.create_task(coming.come())
    try:
        yield coming
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def open_site(folder: Path, database_url: str, *, offered: bool = True) -> AsyncIterator[Site]:
    """A chain and, with `offered`, a token that is on offer in a database which has tables; nothing runs yet."""
    pool = await database.connect(database_url, name="test", size=4)
    try:
        async with LocalChain(block_time_s=0.5) as chain:
            await chain.fund_gas([dev_address("settle"), dev_address("mint")], Wei(10**20))
            seller, mint = dev_address("seller"), dev_address("mint")
            token = await chain.deploy("MintToken", "Site", "SITE", MINT_AMOUNT, 1_000_000, seller, mint)
            asset = Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6)
            async with httpx.AsyncClient() as client:
                rig = Rig(database_url, pool, chain, token, client, terms(chain), asset)
                site = Site(folder, rig)
                client.base_url = httpx.URL(f"http://127.0.0.1:{site.ports[0]}")
                if offered:
                    await offer(rig)
                try:
                    yield site
                finally:
                    await asyncio.to_thread(site.end)
    finally:
        pool.terminate()


async def offer(rig: Rig) -> None:
    """Put the rig's token on offer."""
    connection = await asyncpg.connect(rig.database_url)
    try:
        await tokens.add(connection, NETWORK.caip2, rig.token, price=PRICE)
    finally:
        await connection.close()
