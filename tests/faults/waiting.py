"""What the tests of faults wait for: named conditions for `Rig.until`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
from flow.rig import Rig

from payfirst.store.database import UNAVAILABLE

Holds = Callable[[], Awaitable[bool]]
# What a statement of the test itself may meet while its server is away.
AWAY = (*UNAVAILABLE, asyncpg.PostgresError)


def ready(rig: Rig) -> Holds:
    """A payment would be taken: a worker lives and sees the chain."""

    async def holds() -> bool:
        return (await rig.client.get("/ready")).status_code == 200

    return holds


def closed(rig: Rig) -> Holds:
    """No payment would be taken."""

    async def holds() -> bool:
        return (await rig.client.get("/ready")).status_code == 503

    return holds


def ended(process: asyncio.subprocess.Process) -> Holds:
    """The process is gone."""

    async def holds() -> bool:
        return process.returncode is not None

    return holds


def finds(rig: Rig, question: str, *parameters: object) -> Holds:
    """A query answers true."""

    async def holds() -> bool:
        return bool(await rig.pool.fetchval(question, *parameters))

    return holds


async def rows(rig: Rig, question: str, *parameters: object) -> list[tuple[object, ...]]:
    """What a query finds, as plain tuples."""
    return [tuple(row) for row in await rig.pool.fetch(question, *parameters)]


def idle(rig: Rig) -> Holds:
    """Nothing is on its way: every payment, unit and transaction has come to an end."""
    return finds(
        rig,
        "SELECT NOT EXISTS (SELECT 1 FROM payment_queue WHERE status IN ('pending', 'sent'))"
        " AND NOT EXISTS (SELECT 1 FROM mint_queue WHERE status IN ('pending', 'sent'))"
        " AND NOT EXISTS (SELECT 1 FROM chain_transactions WHERE state = 'sent')",
    )
