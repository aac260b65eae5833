"""The same payments to the official Python SDK and to payfirst, one after the other on one chain.

`python -m benchmarks.side_by_side`. The SDK's FastAPI middleware settles each payment with a facilitator in its own
process and answers when it is mined; payfirst answers when it is stored and settles in batches. So two rates are told:
answers a second, and paid (settled on chain) a second, from the first request to the last settlement. One chain with a
block a second, one signed v2 payment a request, no payment twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from payfirst.local.demo import volley
from payfirst.local.demo.accounts import BURST_PAYERS, GAS_FUNDS, PRICE, people, person
from payfirst.local.demo.burst import order_for
from payfirst.local.demo.folder import LOG
from payfirst.local.demo.stage import HOST, Stage, free_port, open_stage
from payfirst.local.demo.volley import Order, Result
from payfirst.local.demo.wallet import VALID_S, Terms, authorize, header
from payfirst.units import checksum_address, hex_text, parse_address
from payfirst.x402.eip712 import Asset
from payfirst.x402.networks import network_from_text

REQUIREMENTS = Path("requirements/side-by-side.txt")
START_S_MAX, SETTLE_S_MAX = 60.0, 120.0
LOOK_S = 0.1
# Of payfirst's paid requests a second at 64 clients to those of the SDK's two forms.
GOAL = {"threaded": 50, "documented": 1_000}


@dataclass(frozen=True, slots=True)
class Case:
    """Who serves, how many connections ask, and how many payments in all: some take a block each."""

    variant: str
    connections: int
    payments: int


CASES = (
    Case("documented", 1, 5),
    Case("documented", 64, 64),
    Case("threaded", 1, 5),
    Case("threaded", 64, 200),
    Case("payfirst", 1, 200),
    Case("payfirst", 64, 10_000),
)


class Shot(msgspec.Struct):
    """What the client's process is to send; `role` makes the authorization nonces."""

    order: Order
    role: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="side_by_side", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--environment", type=Path, default=Path(".venv-side-by-side"), help="the SDK's own")
    parser.add_argument("--fire", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.fire:
        return _fire()
    python = _environment(options.environment)
    with tempfile.TemporaryDirectory(prefix="payfirst-side-by-side-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user when we are root
        (Path(folder) / LOG).mkdir()
        rows = asyncio.run(_all(Path(folder), python))
    paid = {row["variant"]: row["paid_per_s"] for row in rows if row["connections"] == 64}
    found: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "sdk": _version(python),
        "rows": rows,
        "times": {variant: round(paid["payfirst"] / paid[variant], 1) for variant in GOAL},
    }
    _print(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(found["times"][variant] >= times for variant, times in GOAL.items()) else 1


def _environment(folder: Path) -> Path:
    """The Python that has the SDK, made at the first run: it pulls other versions than payfirst has."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603 - our own arguments, here and below
        install = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True)  # noqa: S603
    return python


def _version(python: Path) -> str:
    ask = "import importlib.metadata as m; print(m.version('x402'))"
    return subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


async def _all(folder: Path, python: Path) -> list[dict[str, Any]]:
    rows = []
    async with open_stage(folder, port=free_port(0), say=_say) as stage:
        for case in CASES:
            if case.variant == "payfirst":
                rows.append(await _measure_payfirst(stage, case))
            else:
                async with _official(stage, python, case.variant) as order:
                    rows.append(_row(case, await _shoot(order, case), good="200"))
            _say(f"{rows[-1]}")
    return rows


@contextlib.asynccontextmanager
async def _official(stage: Stage, python: Path, variant: str) -> AsyncIterator[Order]:
    port = free_port(0)
    facilitator, seller = person(f"facilitator {variant}"), person("another seller")
    await stage.rpc.call("anvil_setBalance", hex_text(facilitator.address), hex(GAS_FUNDS), result=object)
    asset = stage.asset
    options = {
        "variant": variant, "rpc": stage.config.network.rpc_urls[0], "key": hex_text(facilitator.key),
        "network": asset.network.caip2, "asset": checksum_address(asset.address), "asset-name": asset.name,
        "asset-version": asset.version, "pay-to": checksum_address(seller.address), "price": str(PRICE),
        "path": stage.mint_path, "valid-s": str(VALID_S), "port": str(port),
    }  # fmt: skip
    server = await asyncio.create_subprocess_exec(
        str(python), str(Path(__file__).with_name("official_server.py")), *(f"--{k}={v}" for k, v in options.items())
    )
    try:
        await _ready(f"http://{HOST}:{port}/ready")
        order = order_for(stage)
        order.port, order.pay_to = port, hex_text(seller.address)
        order.resource = f"http://{HOST}:{port}{order.path}"
        yield order
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()


async def _ready(url: str) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(START_S_MAX):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(LOOK_S)


async def _measure_payfirst(stage: Stage, case: Case) -> dict[str, Any]:
    before = await stage.pool.fetchval("SELECT count(*) FROM payment_queue WHERE status = 'completed'")
    result, completed_at, began = await _until_settled(stage, case, before)
    return _row(case, result, good="202") | {"paid_per_s": round(case.payments / (completed_at - began), 1)}


async def _until_settled(stage: Stage, case: Case, before: int) -> tuple[Result, float, float]:
    process = await _client(order_for(stage), case)
    began = time.perf_counter()
    result = await _go(process)
    async with asyncio.timeout(SETTLE_S_MAX):
        while True:
            now = await stage.pool.fetchval("SELECT count(*) FROM payment_queue WHERE status = 'completed'")
            if now - before >= case.payments:
                return result, time.perf_counter(), began
            await asyncio.sleep(LOOK_S)


async def _shoot(order: Order, case: Case) -> Result:
    return await _go(await _client(order, case))


async def _client(order: Order, case: Case) -> asyncio.subprocess.Process:
    """A process with every payment signed, waiting for the word."""
    order.payments, order.connections = case.payments, case.connections
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.side_by_side", "--fire",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(msgspec.json.encode(Shot(order, f"{case.variant} {case.connections}")) + b"\n")
    await process.stdin.drain()
    await process.stdout.readline()
    return process


async def _go(process: asyncio.subprocess.Process) -> Result:
    output, _ = await process.communicate(b"go\n")
    return msgspec.json.decode(output, type=Result)


def _fire() -> int:
    shot = msgspec.json.decode(sys.stdin.readline().encode(), type=Shot)
    order = shot.order
    network = network_from_text(order.network)
    asset = Asset(
        network=network, address=parse_address(order.asset), name=order.asset_name, version=order.asset_version,
        decimals=order.asset_decimals,
    )  # fmt: skip
    terms = Terms(asset, parse_address(order.pay_to), order.resource, int(time.time()))
    payers = people("burst payer", BURST_PAYERS)
    made = []
    for number in range(order.payments):
        payer = payers[number % len(payers)]
        name, value = header(terms, authorize(terms, payer, role=shot.role, number=number), payer.key, version=2)
        body = b'{"quantity":1}'
        head = (
            f"POST {order.path} HTTP/1.1\r\nhost: {order.host}:{order.port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{name}: {value}\r\n\r\n"
        )
        made.append(head.encode("ascii") + body)
    gc.collect()
    gc.freeze()
    gc.disable()
    print(volley.READY, flush=True)
    if sys.stdin.readline():
        print(msgspec.json.encode(asyncio.run(volley.fire(order, made))).decode(), flush=True)
    return 0


def _row(case: Case, result: Result, *, good: str) -> dict[str, Any]:
    answered = result.statuses.get(good, 0)
    return {
        "variant": case.variant,
        "connections": case.connections,
        "payments": case.payments,
        "answers_per_s": round(answered / result.seconds, 1),
        "paid_per_s": round(answered / result.seconds, 2),
        "p50_ms": round(result.latency_ms_p50, 1),
        "p99_ms": round(result.latency_ms_p99, 1),
        "failed": case.payments - answered,
        "statuses": result.statuses,
    }


def _print(found: dict[str, Any]) -> None:
    print(f"\nx402 {found['sdk']} (FastAPI, own facilitator) and payfirst, {found['cpus']} CPUs, a block a second\n")
    print(
        f"{'':12}{'clients':>8}{'payments':>10}{'answers/s':>11}{'paid/s':>9}{'p50 ms':>10}{'p99 ms':>10}{'failed':>8}"
    )
    for row in found["rows"]:
        print(
            f"{row['variant']:12}{row['connections']:8}{row['payments']:10,}{row['answers_per_s']:11,.1f}"
            f"{row['paid_per_s']:9,.1f}{row['p50_ms']:10,.1f}{row['p99_ms']:10,.1f}{row['failed']:8,}"
        )
    print(f"\npayfirst pays so many times as much at 64 clients: {found['times']}")


def _say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
