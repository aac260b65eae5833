"""`payfirst drain`: stop accepting on every process, finish what was accepted, report what is left."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import typer
from rich.console import Console

from payfirst import config as configuration
from payfirst.cli import output
from payfirst.cli import settings as shared
from payfirst.cli.live_settings import change, has_taken_up, name_of, take_back
from payfirst.errors import StoreUnavailable
from payfirst.store import database, processes, remaining, settings
from payfirst.store.database import Connection, Pool
from payfirst.store.remaining import Remaining

SETTING = "pause.accepting"
LOOK_S = 0.5
SAY_S = 5.0
# Every API process reads the settings four times a second, and says so once a second.
TAKEN_UP_WITHIN_S = 5.0

console = Console(highlight=False, soft_wrap=True)


def drain(config: Path | None, *, off: bool, wait: bool, timeout_s: float, as_json: bool, actor: str | None) -> None:
    """Stop accepting, or accept again. The exit code is 1 where something is left, or a process goes on accepting."""
    loaded = configuration.load(config, role="tool")
    with shared.database(loaded) as url:
        shared.demand_current_schema(url)
        draining = _Drain(loaded, as_json=as_json, actor=output.actor(actor))
        raise typer.Exit(asyncio.run(draining.run(url, off=off, wait=wait, timeout_s=timeout_s)))


class _Drain:
    def __init__(self, config: configuration.Config, *, as_json: bool, actor: str) -> None:
        self._actor = actor
        self._config = config
        self._network = config.network.network.caip2
        self._as_json = as_json

    async def run(self, url: str, *, off: bool, wait: bool, timeout_s: float) -> int:
        pool = await database.connect(url, name="tool", size=1)
        async with pool:
            async with database.transaction(pool, "start or end draining") as connection:
                if off:
                    await self._end(connection)
                    self._say("Payments are accepted again within seconds")
                else:
                    await change(connection, self._config, SETTING, "true", action="drain", actor=self._actor)
                    self._say("No payment is accepted from now on; what was accepted is finished")
            late = await self._processes_that_have_not_taken_up(pool)
            for name in late:
                self._say(f"⚠️ {name} has not taken it up within {TAKEN_UP_WITHIN_S:.0f} s: look at its log")
            left = await self._left(pool, wait=wait and not off, timeout_s=timeout_s)
        self._report(left, off=off, late=late)
        return 1 if late or (wait and not off and not left.is_done) else 0

    async def _end(self, connection: Connection) -> None:
        await take_back(connection, SETTING, action="undrain", actor=self._actor)
        if self._config.pause.accepting:  # by file or environment, which this goes before
            await change(connection, self._config, SETTING, "false", action="undrain", actor=self._actor)

    async def _processes_that_have_not_taken_up(self, pool: Pool) -> list[str]:
        """Waits for them; returns the names of the API processes that were not done in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + TAKEN_UP_WITHIN_S
        while True:
            async with database.session(pool, "look whether all have taken it up") as connection:
                rows = await settings.read(connection)
                known = await processes.read_all(connection, self._network)
            late = [
                name_of(process)
                for process in known
                if process.role == "api" and process.lives and not has_taken_up(process, SETTING, rows)
            ]
            if not late or loop.time() >= until:
                return late
            await asyncio.sleep(LOOK_S)

    async def _left(self, pool: Pool, *, wait: bool, timeout_s: float) -> Remaining:
        """What is left once nothing is, or when the time is over; a database that is away is waited for."""
        loop = asyncio.get_running_loop()
        until, said_at, done_before = loop.time() + timeout_s, float("-inf"), False
        while True:
            try:
                async with database.session(pool, "count what is left") as connection:
                    left = await remaining.count(connection, self._network)
            except StoreUnavailable:
                if loop.time() >= until:
                    raise
                await asyncio.sleep(LOOK_S)
                continue
            # Two looks: a request that was being stored when its process stopped accepting is in the second.
            if not wait or (left.is_done and done_before) or loop.time() >= until:
                return left
            done_before = left.is_done
            if loop.time() - said_at >= SAY_S and not left.is_done:
                said_at = loop.time()
                self._say(f"… {sentence(left)}")
            await asyncio.sleep(LOOK_S)

    def _say(self, text: str) -> None:
        if not self._as_json:
            console.print(text, markup=False)

    def _report(self, left: Remaining, *, off: bool, late: list[str]) -> None:
        if self._as_json:
            figures = dataclasses.asdict(left)
            done = {"accepting": off, "done": left.is_done, "left": figures, "notTakenUpBy": late}
            typer.echo(json.dumps(done))
            return
        if not off:
            self._say(("✅ Nothing is left" if left.is_done else "Left: ") + ("" if left.is_done else sentence(left)))
            if left.held or left.owed:
                self._say(f"Beside it, {left.held} rows are held and {left.owed} are owed: those wait for you")
            self._say("payfirst drain --off accepts again")


def sentence(left: Remaining) -> str:
    """What is left, for people."""
    return (
        f"{left.pending} payments to send, {left.sent} sent, {left.to_mint} units to mint, {left.minting} being minted,"
        f" {left.transactions} transactions without an outcome"
    )
