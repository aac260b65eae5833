"""`payfirst top`: the system as it lives, drawn again each second."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import signal
from pathlib import Path

from rich.console import Console
from rich.live import Live

from payfirst import config as configuration
from payfirst.cli import settings as shared
from payfirst.errors import StoreUnavailable
from payfirst.ops.top import View, frame
from payfirst.store import activity, database, diagnosis, performance, processes, settings, signers
from payfirst.store.database import Pool
from payfirst.x402.networks import Network

WINDOW_S = 600.0
# Where no terminal says how wide it is.
PIPED_COLUMNS = 120


def top(config: Path | None, *, once: bool, interval_s: float) -> None:
    """Draw until Ctrl-C or SIGTERM, or once."""
    loaded = configuration.load(config, role="tool")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, PIPED_COLUMNS))
    with shared.database(loaded) as url:
        shared.demand_current_schema(url)
        asyncio.run(_top(console, url, loaded.network.network, once=once, interval_s=interval_s))


async def _top(console: Console, url: str, network: Network, *, once: bool, interval_s: float) -> None:
    pool = await database.connect(url, name="top", size=1)
    try:
        view = await _read(pool, network.caip2, shown_as=network.name or network.caip2)
        if once:
            console.print(frame(view, now=dt.datetime.now(dt.UTC)))
            return
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                live.update(frame(view, now=dt.datetime.now(dt.UTC)), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await stop.wait()
                try:
                    view = await _read(pool, network.caip2, shown_as=view.network)
                except StoreUnavailable as error:
                    view = dataclasses.replace(view, away=str(error))
    finally:
        pool.terminate()


async def _read(pool: Pool, network: str, *, shown_as: str) -> View:
    async with database.session(pool, "read what is shown") as connection:
        return View(
            network=shown_as,
            performance=await performance.read(connection, network, window_s=WINDOW_S),
            head=await diagnosis.head(connection, network),
            signers=await signers.read_all(connection, network),
            processes=await processes.read_all(connection, network),
            batches=await activity.batches(connection, network),
            troubles=await activity.troubles(connection, network),
            held=await diagnosis.held(connection, network),
            debts=await diagnosis.debts(connection, network),
            settings=await settings.read(connection),
        )
