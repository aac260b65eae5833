"""Run the API: one application in each of some processes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path

from payfirst.api.app import create_app
from payfirst.api.server import BACKLOG
from payfirst.api.server import serve as serve_at
from payfirst.cli import processes, settings
from payfirst.config import Config, load
from payfirst.errors import OperatorError
from payfirst.ops import log
from payfirst.ops.event_loop import new_event_loop
from payfirst.ops.latency import keep_collections_short

# Beside connections: sockets to the database, libraries, the log.
FILES_BESIDE_CONNECTIONS = 256


def serve(config: Path | None) -> None:
    """Serve until stopped by SIGTERM or Ctrl-C."""
    loaded = load(config, role="api")
    log.configure(loaded.log.format, loaded.log.level)
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        run_api(loaded, database_url=url, config_path=config)


def run_api(config: Config, *, database_url: str, config_path: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; returns after the requests in flight have been answered.

    `database_url` is that of the embedded server where `config.database.url` is empty. The processes that serve read
    the configuration anew, from `config_path` (None: as `payfirst.config.load` finds it) and the environment.
    Raises OperatorError when the port is taken or the address is not this machine's; exits with 1 when a process
    that serves cannot be kept alive.
    """
    listeners = processes.listen(config.server.host, config.server.port, count=config.server.processes, backlog=BACKLOG)
    # Inherited by the processes that serve. One name for the database, or `load` would call two of them a fault.
    os.environ.pop("PAYFIRST_DATABASE__URL", None)
    os.environ["DATABASE_URL"] = database_url
    if config_path is not None:
        os.environ["PAYFIRST_CONFIG"] = str(config_path)
    # As many at once as may wait to be taken; who waits keeps a connection, which must not be one of those that sell.
    connections_max = BACKLOG + config.server.waiters_max
    _allow_open_files(connections_max + FILES_BESIDE_CONNECTIONS)
    log.get_logger(role="api").info(
        "api_listening",
        message=f"The API listens on {config.server.base_url}",
        host=config.server.host,
        port=config.server.port,
        processes=config.server.processes,
    )
    processes.supervise(listeners, lambda listener: _serve(listener, connections_max=connections_max))


def _serve(listener: socket.socket, *, connections_max: int) -> int:
    """In a process of its own: the exit code."""
    try:
        config = load(role="api")
        log.configure(config.log.format, config.log.level)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_serve_until_stopped(config, listener, connections_max=connections_max))
    except OperatorError as error:
        log.get_logger(role="api").error("start_failed", message=f"The API could not start: {error}")
        return 1


async def _serve_until_stopped(config: Config, listener: socket.socket, *, connections_max: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    has_started = await serve_at(
        create_app(config), listener, stop=stop, connections_max=connections_max, started=keep_collections_short
    )
    return 0 if has_started else 1


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit, which the processes that serve inherit; say so where the hard one is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.get_logger(role="api").warning(
            "few_open_files",
            message=f"This process may open {allowed} files, {wanted} are wanted for server.waiters_max:"
            " raise the hard limit (ulimit -Hn, LimitNOFILE=) or lower server.waiters_max",
            allowed=allowed,
            wanted=wanted,
        )
