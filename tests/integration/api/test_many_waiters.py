"""Five thousand watch at once on one process: what they cost, and how soon the last of them knows.

`pytest -m slow -s tests/integration/api/test_many_waiters.py` prints the figures.
"""

from __future__ import annotations

import asyncio
import resource
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from payfirst.store import wake
from payfirst.store.database import Pool
from payfirst.units import hex_text

from .shop import NETWORK, PAY_TO, TOKEN, USDC, open_shop, until
from .test_server import serving

WAITERS = 5_000
OPENED_AT_ONCE = 100
RSS_MB_MAX = 500
TOLD_WITHIN_S = 15
FILES = 2 * WAITERS

MAKE_PAYMENTS = """
INSERT INTO payment_queue (id, network, asset, pay_to, token_address, payer, recipient, amount, quantity,
                           authorization_nonce, valid_after, valid_before, signature, accepted_height)
SELECT gen_random_uuid(), $1, $2, $3, $4, $3, $3, 10000, 1, '0x' || repeat('0', 64), 0, 4000000000, '', 100
FROM generate_series(1, $5::int)
RETURNING id
"""
FAIL_ALL = "UPDATE payment_queue SET status = 'failed', error = 'No.', error_code = 'no', processed_at = now()"


@dataclass
class Watcher:
    """One open stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hears(self, text: bytes) -> float:
        """When it does."""
        while text not in await self.reader.readline():
            assert not self.reader.at_eof()
        return time.monotonic()


async def watch(port: int, payment_id: uuid.UUID) -> Watcher:
    """A stream whose first event was heard."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/payment/{payment_id}/events HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    watcher = Watcher(reader, writer)
    await watcher.hears(b"event: pending")
    return watcher


@pytest.mark.slow
async def test_five_thousand_watch_at_once(database_url: str, pool: Pool, tmp_path: Path) -> None:
    """Within 500 MB, on one listener; then all of their payments change in one commit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FILES:
        pytest.skip(f"needs a hard limit of {FILES} open files (ulimit -Hn), it is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    await open_shop(pool)
    addresses = [hex_text(a) for a in (USDC.address, PAY_TO, TOKEN)]
    ids = [row["id"] for row in await pool.fetch(MAKE_PAYMENTS, NETWORK.caip2, *addresses, WAITERS)]
    async with serving(database_url, tmp_path) as server:
        (pid,) = server.processes()
        process, port = psutil.Process(pid), int(server.url.rsplit(":", 1)[1])
        before_mb = process.memory_info().rss / 1e6
        started = time.monotonic()
        watchers: list[Watcher] = []
        for at in range(0, WAITERS, OPENED_AT_ONCE):
            watchers += await asyncio.gather(*(watch(port, one) for one in ids[at : at + OPENED_AT_ONCE]))
        opened_s = time.monotonic() - started
        with_mb = process.memory_info().rss / 1e6
        cpu_before, looked_at = sum(process.cpu_times()[:2]), time.monotonic()
        await until_idle(looked_at)
        idle_cpu = (sum(process.cpu_times()[:2]) - cpu_before) / (time.monotonic() - looked_at)
        connections = await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'payfirst %'"
            " AND application_name <> 'payfirst test' AND datname = current_database()"
        )
        told = asyncio.gather(*(watcher.hears(b"event: end") for watcher in watchers))
        await pool.execute(FAIL_ALL)
        committed = time.monotonic()
        await pool.execute(wake.SEND_CHANGED, wake.STATUS, wake._payloads(ids))
        heard = sorted(await asyncio.wait_for(told, 60))
        after_mb = process.memory_info().rss / 1e6
        for watcher in watchers:
            watcher.writer.close()
        assert "Traceback" not in server.output
    print(
        f"\n{WAITERS} event streams opened in {opened_s:.1f} s: RSS {before_mb:.0f} MB before, {with_mb:.0f} MB with,"
        f" {after_mb:.0f} MB after; {connections} connections to PostgreSQL; {idle_cpu:.1%} of a core while nothing"
        f" happens; after one commit of all: first told in {heard[0] - committed:.2f} s,"
        f" median {heard[WAITERS // 2] - committed:.2f} s, last {heard[-1] - committed:.2f} s"
    )
    assert max(with_mb, after_mb) < RSS_MB_MAX
    assert connections <= 9
    assert heard[-1] - committed < TOLD_WITHIN_S


async def until_idle(since: float) -> None:
    """Three looks later."""

    async def is_later() -> bool:
        return time.monotonic() - since > 3

    await until(is_later)
