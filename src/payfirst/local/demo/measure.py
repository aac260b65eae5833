"""What is read from the database while the demo runs and after it: counts, latencies, gas."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from payfirst.errors import OperatorError
from payfirst.local.demo.stage import Stage
from payfirst.ops.latency import LatencyHistogram
from payfirst.store import processes
from payfirst.store.database import Connection, session
from payfirst.units import Address, hex_text

# The API writes its figures each second.
STATS_S_MAX = 10.0
LOOK_S = 0.1

# count_payments, count_mints: rows by status.
COUNT_PAYMENTS = "SELECT status, count(*) FROM payment_queue GROUP BY status"
COUNT_MINTS = "SELECT status, count(*) FROM mint_queue GROUP BY status"
# read_height: the newest block that a worker has seen, and the last one read at depth.
READ_HEIGHT = "SELECT head_height, cursor_height FROM chain_heads WHERE network = $1"

# minted_seconds: of each payment of these payers, from its acceptance to its last mint's confirmation.
MINTED_SECONDS = """
SELECT extract(epoch FROM max(m.processed_at) - p.created_at)::float8 AS seconds
FROM payment_queue p JOIN mint_queue m ON m.payment_id = p.id
WHERE p.payer = ANY($1::text[]) AND m.status = 'completed'
GROUP BY p.id, p.created_at
"""

# settle_gas: of the transactions that settled these payers' payments, the gas and the payments they settled. Only what
# was not done has an outcome of its own.
SETTLE_GAS = """
SELECT sum(t.gas_used)::float8 AS gas, sum(t.settled)::float8 AS payments, count(*) AS transactions
FROM (
    SELECT c.id, c.gas_used, count(*) AS settled
    FROM chain_transactions c
    JOIN chain_transaction_items i ON i.transaction_id = c.id AND coalesce(i.outcome, 'done') = 'done'
    JOIN payment_queue p ON p.id = i.payment_id
    WHERE c.purpose = 'settle' AND c.state IN ('confirmed', 'final') AND p.payer = ANY($1::text[])
    GROUP BY c.id, c.gas_used
) t
"""

# burst_seconds: from the first acceptance of these payers' payments to the last settlement and the last mint.
BURST_SECONDS = """
SELECT extract(epoch FROM max(p.processed_at) - min(p.created_at))::float8 AS settled_s,
       extract(epoch FROM max(m.processed_at) - min(p.created_at))::float8 AS minted_s
FROM payment_queue p LEFT JOIN mint_queue m ON m.payment_id = p.id
WHERE p.payer = ANY($1::text[])
"""


class StatsNotWritten(OperatorError):
    """The API's own figures do not show what its clients saw."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by status, and how far the chain is."""

    payments: dict[str, int]
    mints: dict[str, int]
    head: int
    cursor: int

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way."""
        return not any(rows.get(status) for rows in (self.payments, self.mints) for status in ("pending", "sent"))


class _WireStats(msgspec.Struct):
    accept_ms: dict[str, int]
    accepted: int
    replayed: int
    refused: dict[str, int]
    loop_stall_ms_max: float


@dataclass(frozen=True, slots=True)
class ApiStats:
    """What the API processes measured since their start, together."""

    accept: LatencyHistogram
    accepted: int
    replayed: int
    refused: int  # 4xx
    loop_stall_ms_max: float


@dataclass(frozen=True, slots=True)
class SettleGas:
    """Gas of settling, over transactions whose evidence is in the logs."""

    gas: float
    payments: float
    transactions: int

    @property
    def per_payment(self) -> float:
        """Gas a payment; 0 when nothing was settled."""
        return self.gas / self.payments if self.payments else 0.0


async def counts(connection: Connection, network: str) -> Counts:
    """Rows by status now."""
    payments = await connection.fetch(COUNT_PAYMENTS)
    mints = await connection.fetch(COUNT_MINTS)
    height = await connection.fetchrow(READ_HEIGHT, network)
    return Counts(
        payments={row["status"]: row["count"] for row in payments},
        mints={row["status"]: row["count"] for row in mints},
        head=0 if height is None else height["head_height"],
        cursor=0 if height is None else height["cursor_height"],
    )


async def until_settled(stage: Stage, *, deadline_s: float) -> Counts:
    """Return when nothing is under way in either queue, or at the deadline."""
    deadline = time.monotonic() + deadline_s
    while True:
        async with session(stage.pool, "count both queues") as connection:
            found = await counts(connection, stage.network)
        if found.is_settled or time.monotonic() > deadline:
            return found
        await asyncio.sleep(LOOK_S)


async def api_stats(stage: Stage, *, accepted: int) -> ApiStats:
    """The API's figures once they count `accepted` payments. Raises StatsNotWritten when they never do."""
    deadline = time.monotonic() + STATS_S_MAX
    while True:
        async with session(stage.pool, "read what the API measured") as connection:
            found = await processes.stats(connection, role="api", network=stage.network)
        stats = merge([text for _, text in found])
        if stats.accepted == accepted:
            return stats
        if time.monotonic() > deadline:
            raise StatsNotWritten(f"the API counts {stats.accepted} accepted payments, its clients saw {accepted}")
        await asyncio.sleep(LOOK_S)


def merge(documents: Sequence[str]) -> ApiStats:
    """The stats of several processes as those of one."""
    wires = [msgspec.json.decode(document, type=_WireStats) for document in documents]
    accept = LatencyHistogram()
    for wire in wires:
        accept = accept.merge(LatencyHistogram.from_json(wire.accept_ms))
    return ApiStats(
        accept=accept,
        accepted=sum(wire.accepted for wire in wires),
        replayed=sum(wire.replayed for wire in wires),
        refused=sum(n for wire in wires for status, n in wire.refused.items() if status.startswith("4")),
        loop_stall_ms_max=max((wire.loop_stall_ms_max for wire in wires), default=0.0),
    )


async def minted_seconds(connection: Connection, payers: Sequence[Address]) -> list[float]:
    """Accepted → last mint confirmed, of each payment of `payers`, in seconds."""
    return [row["seconds"] for row in await connection.fetch(MINTED_SECONDS, [hex_text(p) for p in payers])]


async def settle_gas(connection: Connection, payers: Sequence[Address]) -> SettleGas:
    """The gas of settling the payments of `payers`."""
    row = await connection.fetchrow(SETTLE_GAS, [hex_text(p) for p in payers])
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY always gives a row
    return SettleGas(row["gas"] or 0.0, row["payments"] or 0.0, row["transactions"])


async def burst_seconds(connection: Connection, payers: Sequence[Address]) -> tuple[float, float]:
    """First accepted → last settled, and → last minted, of the payments of `payers`, in seconds."""
    row = await connection.fetchrow(BURST_SECONDS, [hex_text(p) for p in payers])
    assert row is not None  # noqa: S101 - an aggregate without GROUP BY always gives a row
    return row["settled_s"] or 0.0, row["minted_s"] or 0.0


def percentile(values: Sequence[float], p: float) -> float:
    """The value that `p` percent do not exceed, by nearest rank; 0 when there are none."""
    in_order = sorted(values)
    return in_order[max(1, math.ceil(p * len(in_order) / 100)) - 1] if in_order else 0.0
