"""The reading of `payfirst doctor`: every check by itself, all at once, each within its time.

What they find is judged in `payfirst.ops.doctor_*`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import asyncpg

from payfirst.chain import diagnosis as chain_diagnosis
from payfirst.chain import keystores, token_check
from payfirst.chain.fees import fees_at
from payfirst.chain.rpc import RpcClient
from payfirst.chain.token_check import CannotTry, TokenUnfit
from payfirst.cli.work import terms
from payfirst.config import Config, live
from payfirst.errors import OperatorError, RetriedError
from payfirst.local.postgres import redacted
from payfirst.ops import doctor_chain, doctor_database
from payfirst.ops.doctor import Finding, Level, fault, ok, warning
from payfirst.pipeline.configured import demand_configured_chain
from payfirst.pipeline.refund import BATCH_MAX, GAS_PER_REFUND
from payfirst.store import database, diagnosis, migrate, performance, processes, settings, signers, tokens, treasuries
from payfirst.store.database import Connection, DatabaseNotThere, Pool
from payfirst.store.tokens import Token
from payfirst.units import Address, BlockNumber, Gas, checksum_address

CHECK_S = 10.0
POOL_SIZE = 6
SPEED_WINDOW_S = 3_600.0
PAY_TO_BLOCKS_MAX = 2_000
TOKENS_MAX = 20
SETTLE_GAS_PER_PAYMENT = 75_000

Check = Callable[[], Awaitable[list[Finding]]]


async def examine(config: Config, url: str | None) -> tuple[list[Finding], Config]:
    """Every finding, and the configuration with the database's settings in it.

    `url` is None where there is no database to ask; what needs one is left out then.
    """
    async with contextlib.AsyncExitStack() as stack:
        pool: Pool | None = None
        found: list[Finding] = []
        if url is not None:
            try:
                pool = await database.connect(url, name="doctor", size=POOL_SIZE)
                stack.callback(pool.terminate)  # a server that hangs is not waited for
            except DatabaseNotThere as error:
                found.append(fault("database", str(error), "start it, or correct DATABASE_URL"))
        examination = _Examination(config, url or "", pool)
        # First what the rest rests on: its findings would only be repeated by every other check.
        found += await _all(examination.foundations())
        if pool is not None:
            await examination.read_settings()
        has_tables = pool is not None and not _is_at_fault(found, "migrations")
        checks = examination.of_database() if has_tables else []
        if examination.good_urls:
            rpc = RpcClient(
                examination.good_urls,
                chain_id=config.network.network.chain_id,
                timeout_s=chain_diagnosis.ENDPOINT_S,
                log_blocks_max=config.network.log_blocks_max,
            )
            checks += examination.of_chain(await stack.enter_async_context(rpc), has_tables=has_tables)
        return [*found, *await _all(checks)], examination.config


async def _all(checks: Sequence[tuple[str, Check]]) -> list[Finding]:
    results = await asyncio.gather(*(_within(name, check) for name, check in checks))
    return [finding for result in results for finding in result]


def _is_at_fault(found: Sequence[Finding], check: str) -> bool:
    return any(finding.check == check and finding.level is Level.FAULT for finding in found)


async def _within(name: str, check: Check) -> list[Finding]:
    """What a check finds; that it cannot be made is a finding too."""
    try:
        async with asyncio.timeout(CHECK_S):
            return await check()
    except TimeoutError:
        return [fault(name, f"no answer within {CHECK_S:.0f} s", "try again; look for what is slow: database or RPC")]
    except OperatorError as error:
        return [fault(name, str(error), "correct what it names")]
    except RetriedError as error:
        return [fault(name, f"it cannot be looked at: {error}", "the findings of database and rpc say why")]
    except asyncpg.PostgresError as error:
        return [fault(name, f"it cannot be read: {error}", "are the tables this release's? payfirst db status")]


class _Examination:
    def __init__(self, config: Config, url: str, pool: Pool | None) -> None:
        self.config = config
        self.good_urls: list[str] = []  # of the endpoints that answer and serve the right chain
        self._url = url
        self._pool = pool
        self._rpc = RpcClient(config.network.rpc_urls)  # another one takes its place once the good ones are known
        self._network = config.network.network.caip2
        self._rows: dict[str, object] = {}

    def foundations(self) -> list[tuple[str, Check]]:
        """The database itself, its tables, and the endpoints."""
        if self._pool is None:
            return [("rpc", self._endpoints)]
        return [("database", self._server), ("migrations", self._migrations), ("rpc", self._endpoints)]

    def of_database(self) -> list[tuple[str, Check]]:
        """The checks that need the database only."""
        return [
            ("workers", self._processes),
            ("chain seen", self._head),
            ("queue", self._work),
            ("held", self._held),
            ("owed", self._owed),
            ("refunds", self._refunds),
        ]

    def of_chain(self, rpc: RpcClient, *, has_tables: bool) -> list[tuple[str, Check]]:
        """The checks that ask the chain by `rpc`; without tables those of their rows are left out."""
        self._rpc = rpc
        checks: list[tuple[str, Check]] = [
            ("asset", self._asset),
            ("multicall3", self._multicall3),
        ]
        if has_tables:
            checks += [("signers", self._signers), ("tokens", self._tokens), ("payTo", self._pay_to)]
        return checks

    def _session(self, doing: str) -> AbstractAsyncContextManager[Connection]:
        assert self._pool is not None  # noqa: S101 - checks that need it are left out without it
        return database.session(self._pool, doing)

    async def read_settings(self) -> None:
        """Lay the table of settings over the configuration; tables of another release are found by a check."""
        with contextlib.suppress(RetriedError, asyncpg.PostgresError, TimeoutError):
            async with asyncio.timeout(CHECK_S), self._session("read the settings") as connection:
                self._rows = await settings.read(connection)
        self.config = live.overlay(self.config, self._rows).config

    # ---- the database ------------------------------------------------------------------------------

    async def _server(self) -> list[Finding]:
        async with self._session("ask the database about itself") as connection:
            await connection.fetchval("SELECT 1")
            started, before = time.perf_counter(), time.time()
            server = await diagnosis.server(connection)
            latency_s = time.perf_counter() - started
        found = doctor_database.judge_server(server, url=redacted(self._url), latency_s=latency_s)
        ours = before + latency_s / 2
        return found + doctor_database.judge_clock("clock", ours=ours, theirs=server.clock, whose="the database's")

    async def _migrations(self) -> list[Finding]:
        async with self._session("read the revision") as connection:
            current = await diagnosis.revision(connection)
        return doctor_database.judge_migrations(current, migrate.revisions()[::-1])

    async def _processes(self) -> list[Finding]:
        async with self._session("read the processes") as connection:
            known = await processes.read_all(connection, self._network)
        return doctor_database.judge_processes(known, self._rows)

    async def _head(self) -> list[Finding]:
        async with self._session("read the chain head") as connection:
            head = await diagnosis.head(connection, self._network)
        return doctor_database.judge_head(
            head,
            age_s_max=self.config.payments.heartbeat_max_age_s,
            confirmations=self.config.network.confirmations,
        )

    async def _work(self) -> list[Finding]:
        async with self._session("measure the queue") as connection:
            return doctor_database.judge_work(
                await performance.read(connection, self._network, window_s=SPEED_WINDOW_S)
            )

    async def _held(self) -> list[Finding]:
        async with self._session("look for what is held") as connection:
            return doctor_database.judge_held(await diagnosis.held(connection, self._network))

    async def _owed(self) -> list[Finding]:
        async with self._session("look for what is owed") as connection:
            return doctor_database.judge_owed(await diagnosis.debts(connection, self._network))

    async def _refunds(self) -> list[Finding]:
        asset = self.config.asset
        async with self._session("look for what refunds are paid from") as connection:
            paid_from = await treasuries.read(connection, self._network, asset.address_bytes)
            owed = await treasuries.owed(connection, self._network, asset.address_bytes)
            registered = await signers.read_all(connection, self._network)
        mode = self.config.refunds.mode
        return doctor_database.judge_refunds(paid_from, registered, mode=mode, owed=owed, decimals=asset.decimals)

    # ---- the chain ---------------------------------------------------------------------------------

    async def _endpoints(self) -> list[Finding]:
        network = self.config.network
        looks = (chain_diagnosis.look_at(n, url) for n, url in enumerate(network.rpc_urls, start=1))
        seen = await asyncio.gather(*looks)
        self.good_urls = [
            url
            for url, endpoint in zip(network.rpc_urls, seen, strict=True)
            if endpoint.chain_id == network.network.chain_id
        ]
        found = doctor_chain.judge_endpoints(
            seen,
            chain_id=network.network.chain_id,
            lag_blocks_max=network.lag_blocks_max,
            now=time.time(),
        )
        return found + doctor_chain.judge_agreement(
            hosts=len(network.rpc_hosts),
            agree_amount=self.config.payments.agree_atomic(self.config.asset.decimals),
            test_money=network.network.has_test_money,
        )

    async def _asset(self) -> list[Finding]:
        asset = self.config.asset
        if not self.config.payments.pay_to:
            # The API and the workers refuse to start without it, a tool does not.
            said = "payments.pay_to is not set: no API and no worker starts with this configuration"
            return [fault("payTo", said, "put the seller's address there")]
        try:
            async with asyncio.timeout(CHECK_S / 2):  # it waits for an endpoint, which here is no use
                await demand_configured_chain(self._rpc, terms(self.config))
        except TimeoutError:
            return [fault("asset", "no endpoint answers about it", "see the findings of rpc")]
        return [ok("asset", f"{asset.address} signs as {asset.name} version {asset.version} (DOMAIN_SEPARATOR)")]

    async def _multicall3(self) -> list[Finding]:
        address = self.config.network.multicall3
        if await token_check.has_code(self._rpc, self.config.network.multicall3_bytes):
            return [ok("multicall3", f"a contract is at {address}")]
        if self.config.settle.mode == "single":
            said = f"no contract is at {address}: expired payments cannot be looked up"
            return [warning("multicall3", said, "correct network.multicall3")]
        advice = "correct network.multicall3, or set settle.mode to single"
        return [fault("multicall3", f"no contract is at {address}: no batch can be sent", advice)]

    async def _signers(self) -> list[Finding]:
        async with self._session("read the signers") as connection:
            registered = await signers.read_all(connection, self._network)
            known = await processes.read_all(connection, self._network)
        network = self.config.network
        head = await self._rpc.head()
        fees = fees_at(head.base_fee, priority_fee=network.priority_fee_wei, max_fee_cap=network.max_fee_wei)
        found: list[Finding] = []
        if fees is None:
            said = f"the base fee is {head.base_fee / 10**9:g} gwei, above network.max_fee_gwei: nothing is sent"
            found.append(warning("fees", said, "wait, or payfirst settings set network.max_fee_gwei higher"))
        accounts = await asyncio.gather(*(chain_diagnosis.account(self._rpc, s.address) for s in registered))
        return found + doctor_chain.judge_signers(
            registered,
            {s.address: account for s, account in zip(registered, accounts, strict=True)},
            gas_of=self._gas_of(),
            gas_price=head.base_fee if fees is None else fees.max_fee,
            workers_live=any(p.role == "worker" and p.lives for p in known),
        )

    def _gas_of(self) -> dict[str, Gas]:
        """The gas of a full transaction, by purpose."""
        most = self.config.network.tx_gas_max
        return {
            "settle": Gas(min(most, self.config.settle.batch_max * SETTLE_GAS_PER_PAYMENT)),
            "mint": Gas(min(most, self.config.mint.batch_max * self.config.mint.gas_per_unit)),
            "refund": Gas(min(most, BATCH_MAX * GAS_PER_REFUND)),
        }

    async def _tokens(self) -> list[Finding]:
        async with self._session("read tokens and signers") as connection:
            offered = await tokens.read(connection, self._network)
            registered = await signers.read_all(connection, self._network)
        minters = {s.address for s in registered if s.purpose == "mint"}
        minters |= {k.address for k in keystores.find(self.config.signers_dir) if k.purpose == "mint"}
        active = [token for token in offered if token.active]
        if not active:
            return [warning("tokens", "nothing is for sale", "payfirst tokens add")]
        head = await self._rpc.head()
        looks = (self._token(token, sorted(minters), at=head.number) for token in active[:TOKENS_MAX])
        found = [finding for several in await asyncio.gather(*looks) for finding in several]
        if len(active) > TOKENS_MAX:
            found.append(ok("tokens", f"the first {TOKENS_MAX} of {len(active)} tokens were looked at"))
        return found

    async def _token(self, token: Token, minters: Sequence[Address], *, at: BlockNumber) -> list[Finding]:
        name = f"{token.symbol or 'token'} {checksum_address(token.address)}"
        try:
            report = await token_check.check(self._rpc, token.address, minters=minters, at=at)
        except TokenUnfit as unfit:
            advice = "mend it: no unit can be minted until then"
            return [fault("tokens", f"{name}: {said}", advice) for said in unfit.faults]
        except CannotTry as error:
            return [warning("tokens", f"{name}: whether it can be minted is not known", str(error))]
        left = report.max_mint_count - report.minted
        if token.synced_height is None:
            return [warning("tokens", f"{name} was never read by a worker: it is not sold", "is a worker running?")]
        if not minters:
            return [warning("tokens", f"{name}: no mint signer is known to try it with", "start a worker")]
        return [ok("tokens", f"{name}: {len(minters)} mint signers may mint it, {left} units are left")]

    async def _pay_to(self) -> list[Finding]:
        if not self.config.payments.pay_to:
            return []
        asset, pay_to = self.config.asset.address_bytes, self.config.payments.pay_to_bytes
        blocks = min(PAY_TO_BLOCKS_MAX, self.config.network.log_blocks_max)
        last = (await self._rpc.head()).number
        first = BlockNumber(max(0, last - blocks + 1))
        transfers = await chain_diagnosis.paid_to(self._rpc, asset=asset, pay_to=pay_to, first=first, last=last)
        async with self._session("look for payments that are not ours") as connection:
            unknown = await diagnosis.unknown_uses(
                connection, self._network, asset, [(t.payer, t.nonce) for t in transfers]
            )
        return doctor_chain.judge_pay_to(transfers, unknown, pay_to=pay_to, blocks=blocks)
