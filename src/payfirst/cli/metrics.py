"""`payfirst metrics`: the exporter, a process of its own that shows what all API and worker processes measured."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import time
from importlib import resources
from pathlib import Path

import asyncpg
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from payfirst import config as configuration
from payfirst.cli import settings
from payfirst.errors import OperatorError, StoreUnavailable
from payfirst.ops import log
from payfirst.ops.exposition import Scrape, render
from payfirst.store import monitoring
from payfirst.store.connecting import open_connection
from payfirst.store.database import store_errors

# Several Prometheus servers that scrape at once cost one reading.
READ_EVERY_S = 1.0
READ_TIMEOUT_S = 8.0
STOP_S = 5.0
FILES = {"alerts": "alerts.yml", "dashboard": "dashboard.json", "scrape": "scrape.yml"}


def shipped(name: str) -> str:
    """The text of a file that ships: `alerts`, `dashboard` or `scrape`. Raises OperatorError for another."""
    if name not in FILES:
        raise OperatorError(f"there is no file {name}: alerts, dashboard and scrape can be printed")
    return (resources.files("payfirst.ops") / "monitoring" / FILES[name]).read_text(encoding="utf-8")


def metrics(config: Path | None) -> None:
    """Serve /metrics until stopped by SIGTERM or Ctrl-C."""
    loaded = configuration.load(config, role="tool")
    log.configure(loaded.log.format, loaded.log.level)
    if not loaded.metrics.port:
        raise OperatorError("metrics.port is not set: give the exporter a port (PAYFIRST_METRICS__PORT=9464)")
    with settings.database(loaded) as url:
        asyncio.run(_serve(loaded, url))


async def _serve(loaded: configuration.Config, url: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    host, port = loaded.metrics.host, loaded.metrics.port
    exporter = Exporter(url)
    app = web.Application()
    app.router.add_get("/metrics", exporter.answer)
    app.router.add_get("/", _where)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, shutdown_timeout=STOP_S).start()
    except OSError as error:
        await runner.cleanup()
        raise OperatorError(
            f"Cannot listen on {host} port {port}: {error.strerror}. Set metrics.host and metrics.port."
        ) from error
    logger = log.get_logger(role="metrics")
    logger.info("metrics_listening", message=f"Metrics are at http://{host}:{port}/metrics", host=host, port=port)
    if not _is_this_machine(host):
        logger.warning(
            "metrics_open",
            message=f"Whoever reaches {host} port {port} reads turnover, balances and debts: let only Prometheus in",
            host=host,
        )
    try:
        await stop.wait()
    finally:
        await runner.cleanup()


def _is_this_machine(host: str) -> bool:
    try:
        return all(
            ipaddress.ip_address(info[4][0]).is_loopback
            for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
    except (OSError, ValueError):
        return False


async def _where(_request: web.Request) -> web.Response:
    return web.Response(text="payfirst: /metrics\n")


class Exporter:
    """Reads when it is scraped, once for all who scrape within a second."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._turn = asyncio.Lock()
        self._read_at = float("-inf")
        self._text = b""
        self._said = ""

    async def answer(self, _request: web.Request) -> web.Response:
        """One scrape. Always 200: a database that is away is a fact to be shown."""
        async with self._turn:
            if time.monotonic() - self._read_at >= READ_EVERY_S:
                self._text = render(await self._scrape())
                self._read_at = time.monotonic()
        return web.Response(body=self._text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _scrape(self) -> Scrape:
        started = time.monotonic()
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                reading = await self._read()
        except (StoreUnavailable, OperatorError, asyncpg.PostgresError, TimeoutError) as error:
            sentence = str(error) or f"The database did not answer within {READ_TIMEOUT_S:g} s"
            if sentence != self._said:  # once, not at each scrape
                log.get_logger(role="metrics").warning("metrics_unread", message=sentence)
            self._said = sentence
            return Scrape(None, time.monotonic() - started)
        self._said = ""
        return Scrape(reading, time.monotonic() - started)

    async def _read(self) -> monitoring.Reading:
        # A connection for each: a few milliseconds every scrape interval, and nothing that could go stale.
        with store_errors("read what is measured"):
            connection = await open_connection(
                self._url,
                command_timeout=READ_TIMEOUT_S,
                server_settings={"application_name": "payfirst metrics", "jit": "off"},
            )
            try:
                return await monitoring.read(connection)
            finally:
                connection.terminate()
