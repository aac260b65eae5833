"""Act (c): five thousand payments, signed beforehand, at sixty-four connections."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

import msgspec

from payfirst.errors import OperatorError
from payfirst.local import children
from payfirst.local.children import Program
from payfirst.local.demo.accounts import BURST_PAYERS
from payfirst.local.demo.outcome import Outcome
from payfirst.local.demo.stage import Stage
from payfirst.local.demo.volley import READY, VOLLEY_S_MAX, Order, Result
from payfirst.units import hex_text

PAYMENTS = 5_000
CONNECTIONS = 64
SIGN_S_MAX = 60.0
STOP_S = 2.0


class VolleyFailed(OperatorError):
    """The burst's client did not do its work."""


@dataclass(slots=True)
class Volley:
    """The burst's client with every payment signed, waiting for the word."""

    process: asyncio.subprocess.Process

    async def fire(self, outcome: Outcome) -> Result:
        """Send everything. Refusals count as faults: every one of these payments is good."""
        await _tell(self.process, "go")
        result = msgspec.json.decode(await _hear(self.process, VOLLEY_S_MAX + 5), type=Result)
        outcome.accepted = result.statuses.get("202", 0)
        outcome.rejected = sum(n for status, n in result.statuses.items() if status.startswith("4"))
        if outcome.accepted != PAYMENTS:
            outcome.faults.append(f"of {PAYMENTS} payments {outcome.accepted} were accepted: {result.statuses}")
        return result

    async def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        await children.stop(self.process, within_s=STOP_S)


async def load(stage: Stage) -> Volley:
    """Start the client and have it sign; returns when it is ready. Raises VolleyFailed."""
    program = Program("burst", (sys.executable, "-m", "payfirst.local.demo.volley"), os.environ)
    process = await asyncio.create_subprocess_exec(
        *program.argv,
        env=dict(program.env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=children.before_start(),
    )
    volley = Volley(process)
    try:
        await _tell(process, msgspec.json.encode(order_for(stage)).decode())
        said = await _hear(process, SIGN_S_MAX)
        if said.strip() != READY.encode():
            raise VolleyFailed(f"the burst's client said {said[:200]!r} instead of {READY!r}")
    except BaseException:
        await volley.stop()
        raise
    return volley


def order_for(stage: Stage) -> Order:
    """What the client is to send to this stage."""
    server, asset = stage.config.server, stage.asset
    return Order(
        host=server.host,
        port=server.port,
        path=stage.mint_path,
        resource=stage.base_url + stage.mint_path,
        network=asset.network.caip2,
        asset=hex_text(asset.address),
        asset_name=asset.name,
        asset_version=asset.version,
        asset_decimals=asset.decimals,
        pay_to=hex_text(stage.pay_to),
        payers=BURST_PAYERS,
        payments=PAYMENTS,
        connections=CONNECTIONS,
    )


async def _tell(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None  # noqa: S101 - it was started with a pipe
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()


async def _hear(process: asyncio.subprocess.Process, within_s: float) -> bytes:
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    try:
        async with asyncio.timeout(within_s):
            line = await process.stdout.readline()
    except TimeoutError:
        raise VolleyFailed(f"the burst's client was silent for {within_s:.0f} s") from None
    if not line:
        raise VolleyFailed(f"the burst's client ended with code {await process.wait()}: its words stand above")
    return line
