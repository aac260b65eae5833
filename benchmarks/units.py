"""What a payment takes of what is shared: transactions, log and flushes of PostgreSQL, and requests to the chain."""

from __future__ import annotations

from benchmarks.stage import Stage

# Requests, each of which may carry many calls; workers publish their counters once a second.
COUNTED = """
SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS transactions,
       (SELECT wal_bytes FROM pg_stat_wal) AS wal_bytes,
       (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal') AS wal_flushes,
       (SELECT sum(requests::numeric)
        FROM processes,
             jsonb_array_elements(stats #> '{metrics,histograms,payfirst_rpc_request_duration_seconds}') AS series,
             jsonb_array_elements_text(series -> 1) AS requests
        WHERE role = 'worker') AS rpc_requests
"""


async def counted(stage: Stage) -> dict[str, float]:
    """All of them since the start."""
    row = await stage.pool.fetchrow(COUNTED)
    return {} if row is None else {name: float(value or 0) for name, value in row.items()}


def of_one(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """The difference, for each of `count`."""
    return {name: round((after[name] - before[name]) / max(1, count), 3) for name in after}
