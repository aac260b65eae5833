"""`payfirst up`: API and workers on this machine, as separate processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from payfirst import config as configuration
from payfirst.cli import settings
from payfirst.local import children
from payfirst.local.postgres import redacted
from payfirst.ops import log
from payfirst.store import migrate


def up(config: Path | None, *, workers: int) -> None:
    """Run until stopped by SIGTERM or Ctrl-C."""
    loaded = configuration.load(config, role="worker")
    log.configure(loaded.log.format, loaded.log.level)
    with settings.database(loaded) as url:
        if loaded.database.url:
            settings.demand_current_schema(url)
        else:
            migrate.upgrade(url)  # the embedded database is payfirst's own to keep up to date
        log.get_logger().info("up", message=f"payfirst on {loaded.server.base_url}, database {redacted(url)}")
        asyncio.run(_up(config, url, workers, exports=bool(loaded.metrics.port)))


async def _up(config: Path | None, url: str, workers: int, *, exports: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    environment = {**os.environ, "DATABASE_URL": url}
    if config is not None:
        environment["PAYFIRST_CONFIG"] = str(config)
    # The process that faces the internet is given no key.
    api = children.api(env=configuration.without_keys(environment))
    work = [children.worker(number=n + 1, env=environment) for n in range(workers)]
    shown = [children.metrics(env=configuration.without_keys(environment))] if exports else []
    await children.supervise([*shown, *work, api], asked_to_stop=stop)
