"""The whole flow on a real PostgreSQL and a real chain: buyers, the API, workers, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import asyncpg
import httpx
from api.shop import lifespan
from faults.rig import invariants

from payfirst.api.app import create_app
from payfirst.chain import contracts
from payfirst.chain.abi import Artifact, decode_result, encode_call
from payfirst.chain.signers import Signer, Treasury
from payfirst.config import load
from payfirst.local import children
from payfirst.local.chain import BLOCK_GAS, LocalChain, dev_address, dev_key
from payfirst.pipeline import worker
from payfirst.pipeline.terms import LayOver, Terms
from payfirst.pipeline.worker import Keys, RefundKeys
from payfirst.store import database, payments, tokens
from payfirst.store.database import Pool
from payfirst.store.payments import NewPayment
from payfirst.units import (
    Address,
    AtomicAmount,
    AuthorizationNonce,
    UnixTime,
    Wei,
    checksum_address,
    hex_text,
    keccak,
    uuid7,
)
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text
from payfirst.x402.payload import Authorization
from payfirst.x402.signing import address_of, header_v1, sign_authorization

NETWORK = network_from_text("base-sepolia")
PAY_TO = dev_address("seller")
PRICE = AtomicAmount(10_000)
MINT_AMOUNT = 10**18
ENOUGH = AtomicAmount(10**9)
BLOCK_TIME_S = 0.25

_counter = itertools.count()


@dataclass(frozen=True)
class Buyer:
    """Signs payments to the rig's seller."""

    asset: Asset
    key: bytes = field(default_factory=lambda: keccak(b"payfirst flow tests: buyer %d" % next(_counter)))

    @property
    def address(self) -> Address:
        """Its account."""
        return address_of(self.key)

    def authorize(self, quantity: int = 1, *, seconds: int = 900, chain_time: int | None = None) -> Authorization:
        """An authorization over `quantity` units."""
        now = int(time.time()) if chain_time is None else chain_time
        return Authorization(
            payer=self.address,
            pay_to=PAY_TO,
            value=AtomicAmount(PRICE * quantity),
            valid_after=UnixTime(0),
            valid_before=UnixTime(now + seconds),
            nonce=AuthorizationNonce(keccak(b"payfirst flow tests: nonce %d" % next(_counter))),
        )

    def header(self, authorization: Authorization) -> dict[str, str]:
        """The payment header of an authorization."""
        signature = sign_authorization(self.asset, authorization, self.key)
        return {"X-PAYMENT": header_v1(authorization, signature, network=NETWORK)}


def transfer(buyer: Buyer, authorization: Authorization) -> bytes:
    """The calldata with which anyone may submit an authorization."""
    return contracts.encode_transfer_with_authorization(
        payer=authorization.payer,
        pay_to=authorization.pay_to,
        value=authorization.value,
        valid_after=authorization.valid_after,
        valid_before=authorization.valid_before,
        nonce=authorization.nonce,
        signature=sign_authorization(buyer.asset, authorization, buyer.key),
    )


@dataclass
class Rig:
    """A seller's whole installation, and the chain it sells on."""

    database_url: str
    pool: Pool
    chain: LocalChain
    token: Address
    client: httpx.AsyncClient
    terms: Terms
    asset: Asset
    settle_signers: tuple[str, ...] = ("settle",)
    mint_signers: tuple[str, ...] = ("mint",)
    treasury: str | None = None

    # ---- buying ------------------------------------------------------------------------------------

    async def buyers(self, count: int, *, funds: AtomicAmount = ENOUGH) -> list[Buyer]:
        """Accounts with money (none, if `funds` is 0)."""
        made = [Buyer(self.asset) for _ in range(count)]
        if funds:
            await self.chain.fund_usdc([b.address for b in made], funds)
        return made

    async def order(
        self,
        buyer: Buyer,
        quantity: int = 1,
        *,
        authorization: Authorization | None = None,
        recipient: Address | None = None,
    ) -> httpx.Response:
        """POST to the mint route with a payment. When no worker lives, one is said to: it waits for the next."""
        named = {} if recipient is None else {"recipient": checksum_address(recipient)}
        headers = buyer.header(authorization or buyer.authorize(quantity))

        async def send() -> httpx.Response:
            path = f"/api/mint/{checksum_address(self.token)}"
            return await self.client.post(path, headers=headers, json={"quantity": quantity, **named})

        answer = await send()
        if answer.status_code == 503 and "No worker has reported" in answer.text:
            await self.pool.execute(
                "INSERT INTO processes (id, role, network, host, pid)"
                " VALUES (gen_random_uuid(), 'worker', $1, 'none', 1)",
                self.terms.network,
            )

            async def is_taken() -> bool:
                nonlocal answer
                answer = await send()
                return answer.status_code != 503

            await self.until(is_taken)
        return answer

    async def pay(self, buyer: Buyer, quantity: int = 1, *, recipient: Address | None = None) -> uuid.UUID:
        """An accepted payment's id."""
        response = await self.order(buyer, quantity, recipient=recipient)
        assert response.status_code == 202, response.text
        return uuid.UUID(response.json()["paymentQueueId"])

    def new_payment(self, buyer: Buyer, quantity: int = 1) -> NewPayment:
        """A signed payment as the store takes it, past all that the API would ask."""
        authorization = buyer.authorize(quantity)
        return NewPayment(
            id=uuid7(now_ms=time.time_ns() // 1_000_000, random_bits=int.from_bytes(authorization.nonce[:10])),
            token=self.token,
            quantity=quantity,
            recipient=buyer.address,
            payer=buyer.address,
            amount=authorization.value,
            nonce=authorization.nonce,
            valid_after=authorization.valid_after,
            valid_before=authorization.valid_before,
            signature=sign_authorization(self.asset, authorization, buyer.key),
        )

    async def insert(self, new: Sequence[NewPayment]) -> int:
        """Put payments into the queue at once; returns how many are new."""
        async with database.session(self.pool, "test") as connection:
            stored = await payments.insert(
                connection, network=self.terms.network, asset=self.asset.address, pay_to=PAY_TO, payments=new
            )
        return len(stored)

    async def payment(self, payment_id: uuid.UUID) -> dict[str, object]:
        """What the API says of a payment."""
        response = await self.client.get(f"/api/payment/{payment_id}")
        assert response.status_code == 200, response.text
        document: dict[str, object] = response.json()
        return document

    # ---- waiting -----------------------------------------------------------------------------------

    async def until(self, holds: Callable[[], Awaitable[bool]], *, within_s: float = 30) -> None:
        """Return once it holds; looked at every 50 ms."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    if await holds():
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s; {await self.describe()}") from None

    async def until_counts(self, within_s: float = 30, **expected: int) -> None:
        """Return once `payments_completed=…`, `mints_completed=…` and the like are all so."""

        async def holds() -> bool:
            found = await self.counts()
            return all(found.get(name, 0) == number for name, number in expected.items())

        await self.until(holds, within_s=within_s)

    async def until_a_worker_lives(self) -> None:
        """Return once a worker has come through its start and says so."""

        async def holds() -> bool:
            return bool(await self.pool.fetchval("SELECT count(*) FROM processes WHERE role = 'worker'"))

        await self.until(holds)

    async def counts(self) -> dict[str, int]:
        """Rows by table and status: `payments_pending`, `mints_owed`, …"""
        rows = await self.pool.fetch(
            "SELECT 'payments_' || status AS name, count(*) FROM payment_queue GROUP BY status"
            " UNION ALL SELECT 'mints_' || status, count(*) FROM mint_queue GROUP BY status"
        )
        return {row["name"]: row["count"] for row in rows}

    async def describe(self) -> str:
        """Where everything stands, for a failed test's message."""
        errors = await self.pool.fetch("SELECT DISTINCT status, error_code, error FROM payment_queue")
        sent = await self.pool.fetch("SELECT purpose, state, count(*) FROM chain_transactions GROUP BY 1, 2")
        return f"{await self.counts()}; {[tuple(r) for r in errors]}; {[tuple(r) for r in sent]}"

    # ---- workers -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def working(
        self,
        *,
        rpc_urls: tuple[str, ...] = (),
        database_url: str | None = None,
        lay_over: LayOver | None = None,
        **changes: object,
    ) -> AsyncIterator[None]:
        """A worker in this process, for the length of a block; `changes` are to its Terms.

        With `lay_over` it takes up the table of settings.
        """
        stop = asyncio.Event()
        keys = Keys(
            settle=tuple(Signer(dev_key(name)) for name in self.settle_signers),
            mint=tuple(Signer(dev_key(name)) for name in self.mint_signers),
            refund=None
            if self.treasury is None
            else RefundKeys(Treasury(dev_key(self.treasury)), (Signer(dev_key("refund")),)),
        )
        task = asyncio.create_task(
            worker.work(
                database_url=database_url or self.database_url,
                rpc_urls=rpc_urls or (self.chain.url,),
                terms=replace(self.terms, **changes),  # type: ignore[arg-type]  # named fields of Terms
                keys=keys,
                stop=stop,
                lay_over=lay_over,
            )
        )
        try:
            await self._ready(task)
            yield
        finally:
            stop.set()
            await task

    async def _ready(self, task: asyncio.Task[None]) -> None:
        async def ready() -> bool:
            if task.done():
                task.result()
            return (await self.client.get("/ready")).status_code == 200

        await self.until(ready)

    @contextlib.asynccontextmanager
    async def worker_process(
        self, *, rpc_url: str | None = None, database_url: str | None = None, **variables: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A worker as `payfirst work` runs it, killed at the end if it still lives.

        `variables` are more of its environment: `PAYFIRST_NETWORK__FINAL_DEPTH="3"`.
        """
        environment = self.worker_environment(rpc_url or self.chain.url) | variables
        if database_url is not None:
            environment["DATABASE_URL"] = database_url
        process = await children.start(children.worker(env=environment), output=asyncio.subprocess.DEVNULL)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def worker_environment(self, rpc_url: str) -> dict[str, str]:
        """What `payfirst work` is configured by."""
        return {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.database_url,
            "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
            "PAYFIRST_NETWORK__RPC_URLS": rpc_url,
            "PAYFIRST_NETWORK__POLL_INTERVAL_MS": "50",
            "PAYFIRST_SIGNERS__SETTLE_KEY": hex_text(dev_key("settle")),
            "PAYFIRST_SIGNERS__MINT_KEY": hex_text(dev_key("mint")),
            **({} if self.treasury is None else self._refund_environment(self.treasury)),
        }

    def _refund_environment(self, treasury: str) -> dict[str, str]:
        return {
            "PAYFIRST_NETWORK__FINAL_DEPTH": str(self.terms.final_depth),
            "PAYFIRST_REFUNDS__MODE": self.terms.refund_mode,
            "PAYFIRST_SIGNERS__REFUND_KEY": hex_text(dev_key("refund")),
            "PAYFIRST_SIGNERS__TREASURY_KEY": hex_text(dev_key(treasury)),
        }

    # ---- what must hold ----------------------------------------------------------------------------

    async def balance(self, contract: Address, account: Address) -> int:
        """`balanceOf` at the head."""
        return await self._number(contract, "balanceOf(address)", account)

    async def _number(self, contract: Address, view: str, *args: object) -> int:
        (found,) = decode_result(["uint256"], await self.chain.call(contract, encode_call(view, *args)))
        return int(found)

    async def examine(
        self, *, ended: bool = True, in_order: bool = True, foreign: Collection[str] = ()
    ) -> invariants.Ledger:
        """Database and chain, compared; `faults.rig.invariants` says what for."""
        return await invariants.examine(
            self.pool,
            self.chain.url,
            asset=hex_text(self.chain.usdc),
            pay_to=hex_text(PAY_TO),
            ended=ended,
            in_order=in_order,
            foreign=foreign,
        )

    async def check_invariants(self, *, ended: bool = True, in_order: bool = True) -> None:
        """The database and the chain agree, nothing was minted unpaid, nothing twice, no nonce was skipped."""
        (await self.examine(ended=ended, in_order=in_order)).demand()

    async def gas_used(self, purpose: str) -> Sequence[asyncpg.Record]:
        """Gas, items and success of each confirmed transaction of a purpose."""
        return await self.pool.fetch(
            "SELECT gas_used, item_count, succeeded FROM chain_transactions WHERE purpose = $1 AND state <> 'sent'"
            " ORDER BY account_nonce",
            purpose,
        )


@contextlib.asynccontextmanager
async def open_rig(
    database_url: str,
    pool: Pool,
    *,
    max_mint_count: int = 1_000_000,
    block_time_s: float | None = BLOCK_TIME_S,
    block_gas: int = BLOCK_GAS,
    contract: str | Artifact = "MintToken",
    api_variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """A chain, a token on offer, and an API (with these variables too); workers are the test's to start."""
    async with LocalChain(block_time_s=block_time_s, block_gas=block_gas) as chain:
        await chain.fund_gas([dev_address("settle"), dev_address("mint")], Wei(10**20))
        token = await chain.deploy(
            contract, "Flow", "FLOW", MINT_AMOUNT, max_mint_count, dev_address("seller"), dev_address("mint")
        )
        async with pool.acquire() as connection:
            await tokens.add(connection, NETWORK.caip2, token, price=PRICE)
        config = load(
            role="api",
            environ={
                "DATABASE_URL": database_url,
                "PAYFIRST_PAYMENTS__PAY_TO": checksum_address(PAY_TO),
                "PAYFIRST_NETWORK__RPC_URLS": "http://127.0.0.1:1",  # no RPC in the API
                **(api_variables or {}),
            },
        )
        app = create_app(config)
        asset = Asset(network=NETWORK, address=chain.usdc, name="USDC", version="2", decimals=6)
        async with (
            lifespan(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app), base_url="http://payfirst.test", timeout=30
            ) as client,
        ):
            yield Rig(database_url, pool, chain, token, client, terms(chain), asset)


def terms(chain: LocalChain) -> Terms:
    """What the rig's workers go by."""
    return Terms(
        network=NETWORK.caip2,
        chain_id=NETWORK.chain_id,
        asset=chain.usdc,
        asset_name="USDC",
        asset_version="2",
        pay_to=PAY_TO,
        multicall3=chain.multicall3,
        confirmations=1,
        final_depth=64,
        poll_s=0.05,
        log_blocks_max=2_000,
        lag_blocks_max=5,
        tx_gas_max=16_777_216,
        max_fee=Wei(50 * 10**9),
        priority_fee=Wei(10**6),
        replace_after_s=30,
        abandon_after_s=600,
        settle_mode="batch",
        settle_batch_max=200,
        settle_unresolved_max=16,
        linger_s=0.05,
        mint_batch_max=250,
        mint_unresolved_max=16,
        mint_gas_per_unit=60_000,
    )
