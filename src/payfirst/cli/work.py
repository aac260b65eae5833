"""`payfirst work`: one worker process."""

from __future__ import annotations

import asyncio
import signal

from payfirst import config as configuration
from payfirst.cli import settings
from payfirst.cli.settings import ConfigOption
from payfirst.ops import log
from payfirst.pipeline import worker


def work(config: ConfigOption = None) -> None:
    """Settle, confirm and mint: the process that holds the keys."""
    loaded = configuration.load(config, role="worker")
    log.configure(loaded.log.format, loaded.log.level)
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        asyncio.run(_work(loaded, url))


async def _work(loaded: configuration.Config, url: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    await worker.work(
        database_url=url,
        rpc_urls=loaded.network.rpc_urls,
        terms=settings.terms(loaded),
        keys=settings.keys(loaded),
        stop=stop,
    )
