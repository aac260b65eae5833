"""Run the API: granian in front, one application in each of its processes."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import functools
import importlib.util
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes, TaskImpl
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer
from starlette.types import ASGIApp

from payfirst.api.app import create_app
from payfirst.cli import settings
from payfirst.config import Config, load
from payfirst.errors import OperatorError
from payfirst.ops import log
from payfirst.ops.latency import keep_collections_short

# Connections that wait to be accepted, and those served at once: more than the slowest 5 s of the goal's load bring.
BACKLOG = 4_096
# Beside connections: sockets to the database, libraries, the log.
FILES_BESIDE_CONNECTIONS = 256
# The payment header and the body's limit, with room for what browsers and proxies add; larger heads are 431.
HEAD_BYTES_MAX = 65_536
HEAD_TIMEOUT_MS = 10_000
# Longer than the application takes to let running requests end and to close; shorter than `payfirst up` waits for us.
STOP_TIMEOUT_S = 17

_PR_SET_PDEATHSIG = 1


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
    address = _demand_free_port(config.server.host, config.server.port)
    # Inherited by the processes that serve. One name for the database, or `load` would call two of them a fault.
    os.environ.pop("PAYFIRST_DATABASE__URL", None)
    os.environ["DATABASE_URL"] = database_url
    if config_path is not None:
        os.environ["PAYFIRST_CONFIG"] = str(config_path)
    connections_max = BACKLOG + config.server.waiters_max
    _allow_open_files(connections_max + FILES_BESIDE_CONNECTIONS)
    server = MPServer(
        "payfirst",
        address=address,
        port=config.server.port,
        interface=Interfaces.ASGI,
        workers=config.server.processes,
        # HTTP/1.1 with keep-alive is what every x402 client speaks; TLS and HTTP/2 are a proxy's business.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=HEAD_TIMEOUT_MS, keep_alive=True, max_buffer_size=HEAD_BYTES_MAX
        ),
        websockets=False,
        loop=_event_loop(),
        # The Rust tasks are experimental, and gone with Python 3.12.
        task_impl=TaskImpl.asyncio,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=1,
        backlog=BACKLOG,
        # Not divided by the processes, as the default is: one of them may be handed most connections.
        # Whoever waits keeps a connection, which must not be one of those that sell.
        backpressure=connections_max,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_TIMEOUT_S,
        # Its warnings and errors come through our log; its access log would cost more than the answer.
        log_level=LogLevels.warning,
        log_dictconfig=_log_config(),
        log_access=False,
    )
    log.get_logger(role="api").info(
        "api_listening",
        message=f"The API listens on {config.server.base_url}",
        host=config.server.host,
        port=config.server.port,
        processes=config.server.processes,
    )
    server.serve(target_loader=functools.partial(_application, os.getpid()), wrap_loader=False)


def _event_loop() -> Loops:
    """uvloop, which takes a fifth less CPU time a payment; asyncio's own loop where there is no wheel of it.

    By name: granian's "auto" takes any other loop that happens to be installed, and measured are these.
    """
    return Loops.uvloop if importlib.util.find_spec("uvloop") else Loops.asyncio


def _application(parent: int) -> ASGIApp:
    """The application, made in the process that will serve it."""
    _die_with(parent)
    config = load(role="api")
    log.configure(config.log.format, config.log.level)
    return create_app(config, after_start=_started)


def _started(end_waiting: Callable[[], None]) -> None:
    """In the process that serves, in its event loop, once the application has started."""
    keep_collections_short()
    loop = asyncio.get_running_loop()

    def asked_to_stop(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(end_waiting)

    for number in (signal.SIGTERM, signal.SIGINT):
        # granian ends the lifespan only after the last connection, for which a waiter may keep it for long. Its own
        # handler is the loop's, called by the wake-up descriptor, and goes on being called beside this one.
        signal.signal(number, asked_to_stop)
        signal.siginterrupt(number, False)


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


def _die_with(parent: int) -> None:
    """Have the kernel stop this process when its parent is killed; else it would keep the port, unsupervised."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            sys.exit(1)


def _demand_free_port(host: str, port: int) -> str:
    """The IP address of `host`, on which nobody listens at `port`. Raises OperatorError.

    granian shares ports (SO_REUSEPORT): it would quietly take half of another payfirst's connections.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OperatorError(
                f"Port {port} on {host} is taken. Stop what listens there, or set server.port"
                " (PAYFIRST_SERVER__PORT) to another."
            ) from error
        raise OperatorError(
            f"Cannot listen on {host} port {port}: {error.strerror}. Check server.host and server.port."
        ) from error
    return str(address[0])


class OurLog(logging.Handler):
    """Hands the server's records to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record; its traceback, if it has one, goes along."""
        write: Callable[..., object] = getattr(log.get_logger(role="api"), _level(record.levelno))
        write("http_server", message=record.getMessage(), exc_info=record.exc_info)


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    return "warning" if number >= logging.WARNING else "info"


def _log_config() -> dict[str, object]:
    """For `logging.config.dictConfig`, laid over granian's own."""
    ours = {"()": f"{__name__}.{OurLog.__name__}"}
    loggers = {name: {"handlers": ["ours"], "propagate": False} for name in ("_granian", "granian.access")}
    return {"formatters": {}, "handlers": {"ours": ours}, "loggers": loggers}
