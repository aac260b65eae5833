"""A shop without a chain: the rows that workers would write, an application, and buyers who sign."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
from starlette.types import ASGIApp, Message

from payfirst.api.app import create_app
from payfirst.config import Config, load
from payfirst.store import heads, processes, tokens
from payfirst.store.database import Pool
from payfirst.store.heads import ReadBlock
from payfirst.store.processes import Identity
from payfirst.store.tokens import TokenFacts
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    BlockHash,
    BlockNumber,
    UnixTime,
    checksum_address,
    keccak,
    parse_address,
)
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import Authorization
from payfirst.x402.requirements import PaymentRequirements
from payfirst.x402.signing import address_of, header_v1, header_v2, sign_authorization

BASE_URL = "http://127.0.0.1:4021"
NETWORK = network_from_text("base-sepolia")
TOKEN = Address(bytes.fromhex("aBcDeF" * 6 + "1234"))
PAY_TO = Address(b"\x22" * 20)
PRICE = AtomicAmount(10_000)
MINT_AMOUNT = 10**18
USDC = Asset(
    network=NETWORK,
    address=parse_address("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
    name="USDC",
    version="2",
    decimals=6,
)
MINT_PATH = f"/api/mint/{checksum_address(TOKEN)}"
WORKER = Identity(id=uuid.UUID(int=1), role="worker", network=NETWORK.caip2, host="test", pid=1)
# JSON of any shape.
Document = dict[str, Any]

_counter = itertools.count()


def configure(database_url: str, **settings: str) -> Config:
    """The configuration of an API process on this database; its RPC URL leads nowhere."""
    variables = {
        "DATABASE_URL": database_url,
        "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
        "PAYFIRST_NETWORK__RPC_URLS": "http://127.0.0.1:1",
        **{f"PAYFIRST_{name}".upper(): value for name, value in settings.items()},
    }
    return load(role="api", environ=variables)


async def open_shop(pool: Pool, *, max_mint_count: int = 1_000_000) -> None:
    """What live workers would have stored: a fresh head, a heartbeat, and one synced token."""
    async with pool.acquire() as connection:
        block = ReadBlock(BlockNumber(100), BlockHash(b"\x01" * 32), UnixTime(int(time.time())))
        await heads.start(connection, NETWORK.caip2, block)
        await processes.beat(connection, WORKER, stats_json="{}")
        await tokens.add(connection, NETWORK.caip2, TOKEN, price=PRICE)
        await sync_token(pool, max_mint_count=max_mint_count)


async def sync_token(pool: Pool, *, max_mint_count: int, minted: int = 0) -> None:
    """What a worker that read the token's contract would store."""
    facts = TokenFacts(TOKEN, "Test Token", "TT", MINT_AMOUNT, max_mint_count, minted)
    async with pool.acquire() as connection:
        await tokens.sync(connection, NETWORK.caip2, facts, height=BlockNumber(100))


@dataclass(frozen=True)
class Buyer:
    """Signs payments; each of its authorizations has a nonce of its own."""

    key: bytes = field(default_factory=lambda: keccak(b"payfirst tests: buyer %d" % next(_counter)))

    @property
    def address(self) -> Address:
        """Its account."""
        return address_of(self.key)

    def authorize(self, quantity: int = 1, **changes: Any) -> Authorization:
        """An authorization that pays for `quantity` units, with `changes`."""
        now = int(time.time())
        fields: dict[str, Any] = {
            "payer": self.address,
            "pay_to": PAY_TO,
            "value": AtomicAmount(PRICE * quantity),
            "valid_after": UnixTime(0),
            "valid_before": UnixTime(now + 900),
            "nonce": AuthorizationNonce(keccak(b"payfirst tests: nonce %d" % next(_counter))),
        }
        return Authorization(**{**fields, **changes})

    def header(self, quantity: int = 1, *, version: int = 1, **changes: Any) -> dict[str, str]:
        """The payment header for `quantity` units."""
        authorization = self.authorize(quantity, **changes)
        signature = sign_authorization(USDC, authorization, self.key)
        if version == 1:
            return {"X-PAYMENT": header_v1(authorization, signature, network=NETWORK)}
        return {"PAYMENT-SIGNATURE": header_v2(authorization, signature, requirements=requirements(quantity))}


def requirements(quantity: int) -> PaymentRequirements:
    """What the shop asks for `quantity` units."""
    return PaymentRequirements(
        asset=USDC,
        pay_to=PAY_TO,
        amount=AtomicAmount(PRICE * quantity),
        max_timeout_s=900,
        resource=BASE_URL + MINT_PATH,
        description="",
    )


@dataclass(frozen=True)
class Shop:
    """A running application, and what a buyer does with it."""

    app: ASGIApp
    client: httpx.AsyncClient
    pool: asyncpg.Pool

    async def mint(
        self, headers: Mapping[str, str] | None = None, *, quantity: object = 1, path: str = MINT_PATH, **body: object
    ) -> httpx.Response:
        """POST to the mint route."""
        return await self.client.post(path, headers=headers, json={"quantity": quantity, **body})

    async def count(self, table: str = "payment_queue") -> int:
        """How many rows a table has."""
        return int(await self.pool.fetchval(f"SELECT count(*) FROM {table}"))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once it holds; looked at every 20 ms, for ten seconds at most."""
    async with asyncio.timeout(10):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(config: Config, pool: Pool) -> AsyncIterator[Shop]:
    """An application with its lifespan, and a client that talks to it."""
    app = create_app(config)
    async with lifespan(app):
        # As a server does: what the application raises is the server's to see, not the client's.
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=60) as client:
            yield Shop(app, client, pool)


@contextlib.asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """The server's part of the lifespan protocol."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()

    async def demand(said: str, expected: str) -> None:
        await to_app.put({"type": said})
        async with asyncio.timeout(30):
            message = await from_app.get()
        assert message["type"] == expected, message

    async def live() -> None:
        await app({"type": "lifespan"}, to_app.get, from_app.put)

    task = asyncio.create_task(live())
    await demand("lifespan.startup", "lifespan.startup.complete")
    try:
        yield
    finally:
        await demand("lifespan.shutdown", "lifespan.shutdown.complete")
        await task
