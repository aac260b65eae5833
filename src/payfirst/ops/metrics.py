"""What a process counts of itself: plain counters and histograms, published with its heartbeat in `processes.stats`.

Counting is a dictionary look-up and an addition, a histogram one bisection more: no lock, no shared memory, no file.
Each process counts alone, from zero at its start; `payfirst metrics` reads what all of them published and shows each
under labels of its own, as Prometheus' `rate` wants it. Here also stand the names, which are the users' contract.
"""

from __future__ import annotations

import os
import platform
import resource
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

import payfirst
from payfirst.ops.latency import LatencyHistogram

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
# 15 s is what a payment may take on average before operators are told.
STAGE_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0)
ITEMS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 150.0, 200.0, 250.0)

# Kinds of failed RPC requests: no usable answer, asked for fewer, another chain, and a refusal another may not make.
RPC_ERROR_KINDS = ("failing", "limited", "misplaced", "refused")

_STATM = Path("/proc/self/statm")
_OPEN_FILES = Path("/proc/self/fd")


class Counter:
    """Counts that only grow, by label values. Those named as `known` are shown as 0 before they first happen."""

    __slots__ = ("labels", "meaning", "name", "values")

    def __init__(
        self, name: str, meaning: str, labels: tuple[str, ...] = (), *, known: Iterable[tuple[object, ...]] = ()
    ) -> None:  # fmt: skip
        self.name, self.meaning, self.labels = name, meaning, labels
        self.values: dict[tuple[object, ...], int] = dict.fromkeys(known if labels else [()], 0)

    def add(self, *values: object, by: int = 1) -> None:
        """Count `by` under these label values."""
        self.values[values] = self.values.get(values, 0) + by

    def expect(self, *values: object) -> None:
        """Show 0 under these label values until something is counted."""
        self.values.setdefault(values, 0)


class Histogram:
    """How often values fell at or below each of `bounds`, and their sum, by label values."""

    __slots__ = ("bounds", "labels", "meaning", "name", "series")

    def __init__(
        self,
        name: str,
        meaning: str,
        bounds: tuple[float, ...],
        labels: tuple[str, ...] = (),
        *,
        known: Iterable[tuple[object, ...]] = (),
    ) -> None:
        self.name, self.meaning, self.bounds, self.labels = name, meaning, bounds, labels
        self.series: dict[tuple[object, ...], list[float]] = {}
        for values in known if labels else [()]:
            self.expect(*values)

    def observe(self, value: float, *values: object) -> None:
        """Count one value under these label values."""
        series = self.series.get(values)
        if series is None:
            series = self.expect(*values)
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value

    def expect(self, *values: object) -> list[float]:
        """The counts under these label values, one a bound and one beyond, with the sum behind them."""
        return self.series.setdefault(values, [0.0] * (len(self.bounds) + 2))


# ---- the API ---------------------------------------------------------------------------------------

MINT_ROUTE = "/api/mint/{token}"

HTTP_REQUESTS = Counter(
    "payfirst_http_requests_total",
    "HTTP requests answered, by route and status.",
    ("route", "status"),
    known=[(MINT_ROUTE, status) for status in (202, 400, 402, 500, 503)],
)
HTTP_SECONDS = Histogram(
    "payfirst_http_request_duration_seconds",
    "From a request's head to the end of its answer; routes that hold requests include the waiting.",
    REQUEST_SECONDS,
    ("route",),
    known=[(MINT_ROUTE,)],
)
ACCEPT_BATCH = Histogram("payfirst_accept_batch_items", "Payments that one commit of the batch writer stored.", ITEMS)
API = (HTTP_REQUESTS, HTTP_SECONDS, ACCEPT_BATCH)

# ---- the workers -----------------------------------------------------------------------------------

ACCEPTED_TO_SENT = ("accepted_to_sent",)
SENT_TO_COMPLETED = ("sent_to_completed",)
COMPLETED_TO_MINTED = ("completed_to_minted",)
ACCEPTED_TO_COMPLETED = ("accepted_to_completed",)
ACCEPTED_TO_MINTED = ("accepted_to_minted",)
STAGES = (ACCEPTED_TO_SENT, SENT_TO_COMPLETED, ACCEPTED_TO_COMPLETED, COMPLETED_TO_MINTED, ACCEPTED_TO_MINTED)
_PURPOSES = [("settle",), ("mint",)]

STAGE = Histogram(
    "payfirst_stage_duration_seconds",
    "What a payment (from completed on: a unit) took from one state to another, by the database's clock.",
    STAGE_SECONDS,
    ("stage",),
    known=STAGES,
)
PAYMENTS_COMPLETED = Counter("payfirst_payments_completed_total", "Payments found paid on chain at depth.")
PAYMENTS_FAILED = Counter(
    "payfirst_payments_failed_total",
    "Accepted payments that ended without a transfer, by error code.",
    ("code",),
    known=[
        ("insufficient_funds",),
        ("invalid_exact_evm_payload_authorization_valid_before",),
    ],
)
UNITS_MINTED = Counter("payfirst_units_minted_total", "Units found minted on chain at depth.")
BATCH = Histogram("payfirst_batch_items", "Payments or units in one transaction.", ITEMS, ("purpose",), known=_PURPOSES)
TRANSACTIONS_MINED = Counter(
    "payfirst_transactions_mined_total",
    "Transactions of ours found at depth, by whether they succeeded.",
    ("outcome",),
    known=[("succeeded",), ("reverted",)],
)
GAS_USED = Counter("payfirst_gas_used_total", "Gas that transactions found at depth used.")
GAS_PAID_WEI = Counter("payfirst_gas_paid_wei_total", "What that gas cost, in wei, without a layer 2's data fee.")
REPLACEMENTS = Counter(
    "payfirst_replacements_total",
    "Transactions sent anew under the same account nonce: at a higher fee, or as a no-op.",
    ("purpose", "kind"),
    known=[(purpose, kind) for (purpose,) in _PURPOSES for kind in ("fee", "noop")],
)
REBROADCASTS = Counter(
    "payfirst_rebroadcasts_total", "Stored bytes sent once more.", ("purpose",), known=_PURPOSES
)  # fmt: skip
REORGS = Counter("payfirst_reorgs_total", "Reorgs that were undone.")
REORGED = Counter(
    "payfirst_reorged_rows_total", "What reorgs took.", ("kind",), known=[("payment",), ("mint",), ("transaction",)]
)
BATCHES_BURNED = Counter("payfirst_gas_burned_total", "Transactions of payments that ran out of gas.")
BLOCKS = Histogram("payfirst_block_duration_seconds", "Reading and applying one block at depth.", REQUEST_SECONDS)
RPC_SECONDS = Histogram(
    "payfirst_rpc_request_duration_seconds",
    "HTTP requests to an RPC endpoint, answered or not.",
    REQUEST_SECONDS,
    ("endpoint", "rpc_host"),
)
RPC_ERRORS = Counter(
    "payfirst_rpc_errors_total", "What went wrong with an RPC endpoint.", ("endpoint", "rpc_host", "kind")
)
RPC_DISAGREEMENTS = Counter(
    "payfirst_rpc_disagreements_total",
    "Questions on which RPC endpoints did not agree, by what was asked: nothing changed because of one of them.",
    ("subject",),
    known=[("payment",), ("expired",), ("lost",), ("used",), ("nonce",), ("fault",)],
)
WORKER = (
    STAGE, PAYMENTS_COMPLETED, PAYMENTS_FAILED, UNITS_MINTED, BATCH, TRANSACTIONS_MINED, GAS_USED, GAS_PAID_WEI,
    REPLACEMENTS, REBROADCASTS, REORGS, REORGED, BATCHES_BURNED, BLOCKS, RPC_SECONDS, RPC_ERRORS,
    RPC_DISAGREEMENTS,
)  # fmt: skip

# ---- both ------------------------------------------------------------------------------------------

TASK_FAILURES = Counter("payfirst_task_failures_total", "Background tasks that failed and were started again.")
LOOP_LAG = Histogram(
    "payfirst_event_loop_lag_seconds", "How much later than asked the event loop ran a call.", LAG_SECONDS
)
ACCEPT = Histogram(
    "payfirst_accept_duration_seconds", "From request to 202 of new payments that nobody waited for.", REQUEST_SECONDS
)

# What the exporter knows how to show.
COUNTERS = {m.name: m for m in (*API, *WORKER, TASK_FAILURES) if isinstance(m, Counter)}
HISTOGRAMS = {m.name: m for m in (*API, *WORKER, LOOP_LAG, ACCEPT) if isinstance(m, Histogram)}


class Snapshot(msgspec.Struct):
    """One process at one moment, as it stands in `processes.stats` under `metrics`.

    A counter is label values and a number; a histogram is label values, its counts (one a bound, one beyond; not
    cumulative), and the sum.
    """

    version: str = ""
    python: str = ""
    resident_memory_bytes: int | None = None
    open_files: int | None = None
    cpu_seconds: float = 0.0
    counters: dict[str, list[tuple[list[str], float]]] = {}
    histograms: dict[str, list[tuple[list[str], list[int], float]]] = {}


def snapshot(metrics: Sequence[Counter | Histogram], *, rebucketed: dict[Histogram, LatencyHistogram]) -> Snapshot:
    """What this process counted so far. `rebucketed` are histograms that are kept as a LatencyHistogram."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = Snapshot(
        version=payfirst.__version__,
        python=platform.python_version(),
        resident_memory_bytes=_resident_memory_bytes(),
        open_files=_open_files(),
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )
    for metric in metrics:
        if isinstance(metric, Counter):
            found.counters[metric.name] = [([str(v) for v in values], float(n)) for values, n in metric.values.items()]
        else:
            found.histograms[metric.name] = [
                ([str(v) for v in values], [int(n) for n in series[:-1]], series[-1])
                for values, series in metric.series.items()
            ]
    for metric, latencies in rebucketed.items():
        counts, total = latencies.counted(metric.bounds)
        found.histograms[metric.name] = [([], counts, total)]
    return found


def _resident_memory_bytes() -> int | None:
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None  # not Linux


def _open_files() -> int | None:
    try:
        return len(os.listdir(_OPEN_FILES))  # noqa: PTH208 - once a second, and names are all that is wanted
    except OSError:
        return None
