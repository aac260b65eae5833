"""`payfirst doctor` beside a system that works, and beside one in which much is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from faults.rig.rpc_proxy import rpc_proxy, status
from ops.command import invoke

from payfirst.chain.abi import encode_call
from payfirst.chain.contracts import encode_transfer_with_authorization
from payfirst.chain.token_check import MINTER_ROLE
from payfirst.cli import examination
from payfirst.local.chain import dev_address, dev_key
from payfirst.store import settings
from payfirst.units import Wei, checksum_address, hex_text
from payfirst.x402.signing import sign_authorization

from .rig import PAY_TO, Buyer, Rig

Findings = list[dict[str, Any]]


async def doctor(rig: Rig, cwd: Path, *words: str, **environ: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report."""
    variables = rig.worker_environment(rig.chain.url)
    del variables["PATH"]
    done = await asyncio.to_thread(invoke, "doctor", "--json", *words, cwd=cwd, **variables | environ)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def of(report: dict[str, Any], check: str, level: str | None = None) -> Findings:
    """The findings of one check."""
    return [f for f in report["findings"] if f["check"] == check and level in (None, f["level"])]


def wrong(report: dict[str, Any]) -> set[str]:
    """The checks with a warning or a fault, but for what the tests' server lacks on purpose."""
    return {
        f["check"]
        for f in report["findings"]
        if f["level"] != "ok" and not f["sentence"].startswith(("fsync", "full_page_writes"))
    }


def says(findings: Findings, *words: str) -> bool:
    """Whether one finding says all of the words, and what to do."""
    return any(all(w in f["sentence"] for w in words) and f["advice"] for f in findings)


async def test_all_is_well_beside_a_system_that_works(rig: Rig, tmp_path: Path) -> None:
    """Every check is made and finds nothing but the tests' own database without fsync; no secret is shown."""
    async with rig.working():
        (buyer,) = await rig.buyers(1)
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
        code, report = await doctor(rig, tmp_path)
    assert wrong(report) == set(), json.dumps(report, indent=1)
    assert says(of(report, "database", "fault"), "fsync is off")
    assert (code, report["status"]) == (2, "fault")
    checks = {f["check"] for f in report["findings"]}
    assert checks >= {
        "database", "clock", "migrations", "workers", "api", "chain seen", "queue", "held", "owed", "refunds",
        "rpc", "asset", "multicall3", "signers", "tokens", "payTo", "keys", "limits",
    }  # fmt: skip
    assert "1 payments" in of(report, "payTo")[0]["sentence"]
    shown = {row["setting"]: row for row in report["settings"]}
    assert shown["payments.pay_to"]["source"] == "environment: PAYFIRST_PAYMENTS__PAY_TO"
    assert dev_key("settle").hex() not in json.dumps(report)


async def test_what_is_wrong_is_named_with_what_to_do(rig: Rig, tmp_path: Path) -> None:
    """A payTo shared with another, a nonce that is not ours, a role that is gone, a pause, debts, bad endpoints."""
    async with rig.working():
        (buyer,) = await rig.buyers(1)
        await rig.pay(buyer)
        await rig.until_counts(mints_completed=1)
    await rig.chain.fund_gas([dev_address("seller"), dev_address("other")], Wei(10**18))
    await pay_elsewhere(rig, buyer)
    await rig.chain.send(dev_address("seller"), b"", dev_key("settle"))
    await rig.chain.send(
        rig.token, encode_call("revokeRole(bytes32,address)", MINTER_ROLE, dev_address("mint")), dev_key("seller")
    )
    await break_rows(rig.pool)
    async with rig.pool.acquire() as connection:
        await settings.put(connection, "pause.minting", True, by="test")
        await settings.put(connection, "settle.batch_max", 77, by="test")
    async with rpc_proxy(rig.chain.url, status(429)) as limited:
        urls = f"{rig.chain.url},{limited.url}"
        code, report = await doctor(rig, tmp_path, PAYFIRST_NETWORK__RPC_URLS=urls)
    assert code == 2
    assert says(of(report, "payTo", "fault"), "1 of 2 authorizations", "accepted by somebody else")
    assert says(of(report, "signers", "fault"), "1 transactions of settle signer", "does not know")
    assert says(of(report, "signers", "warning"), "mint signer", "paused: by hand")
    assert says(of(report, "signers", "fault"), "no signer can mint")
    assert says(of(report, "tokens", "fault"), "has no MINTER_ROLE")
    assert says(of(report, "workers", "fault"), "no worker lives")
    assert says(of(report, "paused", "warning"), "pause.minting is set")
    assert says(of(report, "owed", "warning"), "1 are owed to buyers and 0 to you")
    assert says(of(report, "rpc", "warning"), "endpoint 2", "HTTP 429")
    assert limited.url not in json.dumps(report)
    shown = {row["setting"]: (row["value"], row["source"]) for row in report["settings"]}
    assert shown["settle.batch_max"] == ("77", "database")


async def test_an_endpoint_of_another_chain_and_a_wrong_domain_are_faults(rig: Rig, tmp_path: Path) -> None:
    """Each names the setting to correct."""
    base = {"PAYFIRST_NETWORK__NAME": "base", "PAYFIRST_ASSET__ADDRESS": checksum_address(rig.chain.usdc)}
    _, report = await doctor(rig, tmp_path, **base)
    assert says(of(report, "settings", "fault"), "asset.address")
    _, report = await doctor(rig, tmp_path, PAYFIRST_NETWORK__NAME="base")
    assert says(of(report, "rpc", "fault"), "serves chain 84532 instead of 8453")
    assert of(report, "signers") == []
    other = {
        "PAYFIRST_ASSET__ADDRESS": checksum_address(rig.token), "PAYFIRST_ASSET__NAME": "USDC",
        "PAYFIRST_ASSET__VERSION": "2", "PAYFIRST_ASSET__DECIMALS": "6",
    }  # fmt: skip
    _, report = await doctor(rig, tmp_path, **other)
    assert says(of(report, "asset", "fault"), "EIP-712 domain")


async def test_nothing_that_hangs_holds_it_up(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: asyncpg.Pool
) -> None:
    """An endpoint that never answers, and a table that somebody has locked: each check ends in its time."""
    monkeypatch.setattr(examination, "CHECK_S", 3.0)  # what does not hang answers within it on a busy machine
    monkeypatch.setattr("payfirst.chain.diagnosis.ENDPOINT_S", 0.5)
    async with silent_endpoint() as url, pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE owed, payment_queue IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        code, report = await doctor(rig, tmp_path, PAYFIRST_NETWORK__RPC_URLS=f"{rig.chain.url},{url}")
        assert time.monotonic() - started < 10
    assert code == 2
    for check in ("owed", "queue"):
        assert says(of(report, check, "fault"), "no answer within 3 s")
    assert says(of(report, "rpc", "warning"), "endpoint 2", "does not answer")
    assert of(report, "asset", "ok")


async def test_without_a_database_the_chain_is_looked_at_all_the_same(rig: Rig, tmp_path: Path) -> None:
    """And the other way round; each is one fault, not one for every check behind it."""
    _, report = await doctor(rig, tmp_path, DATABASE_URL="postgresql://payfirst:hunter2@127.0.0.1:1/none")
    assert says(of(report, "database", "fault"), "no connection")
    assert of(report, "asset", "ok")
    assert "hunter2" not in json.dumps(report)
    _, report = await doctor(rig, tmp_path, PAYFIRST_NETWORK__RPC_URLS="http://127.0.0.1:1")
    assert says(of(report, "chain", "fault"), "no endpoint")
    assert of(report, "owed", "ok")
    assert of(report, "signers") == of(report, "asset") == []


async def test_it_prints_for_people(rig: Rig, tmp_path: Path) -> None:
    """A sign, the check, a sentence, and an arrow with what to do."""
    variables = rig.worker_environment(rig.chain.url)
    done = await asyncio.to_thread(invoke, "doctor", cwd=tmp_path, **variables)
    assert done.returncode == 2
    assert "❌ workers" in done.stdout
    assert "→ start payfirst work or payfirst up" in done.stdout
    assert "network.poll_interval_ms" in done.stdout
    assert "server.port" not in done.stdout
    every = await asyncio.to_thread(invoke, "doctor", "--settings", cwd=tmp_path, **variables)
    assert "server.port" in every.stdout


async def pay_elsewhere(rig: Rig, buyer: Buyer) -> None:
    """What another payfirst with the same payTo would settle."""
    authorization = buyer.authorize()
    data = encode_transfer_with_authorization(
        payer=authorization.payer,
        pay_to=PAY_TO,
        value=authorization.value,
        valid_after=authorization.valid_after,
        valid_before=authorization.valid_before,
        nonce=authorization.nonce,
        signature=sign_authorization(rig.asset, authorization, buyer.key),
    )
    receipt = await rig.chain.send(rig.chain.usdc, data, dev_key("other"))
    assert receipt.succeeded


async def break_rows(pool: asyncpg.Pool) -> None:
    """A paused signer, a debt, and no process that lives."""
    await pool.execute("UPDATE signers SET paused_reason = 'by hand' WHERE purpose = 'mint'")
    await pool.execute(
        "INSERT INTO owed (direction, network, payment_id, reason, asset, amount, beneficiary)"
        " VALUES ('to_buyer', 'eip155:84532', gen_random_uuid(), 'no_supply', $1, 1, $1)",
        hex_text(PAY_TO),
    )


@contextlib.asynccontextmanager
async def silent_endpoint() -> AsyncIterator[str]:
    """An endpoint that takes requests and never answers."""
    over = asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", wait)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    addresses: Sequence[Any] = runner.addresses
    try:
        yield f"http://127.0.0.1:{addresses[0][1]}"
    finally:
        over.set()
        await runner.cleanup()
