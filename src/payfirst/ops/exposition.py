"""The text that Prometheus scrapes, from what was read of the database and what each process published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

import payfirst
from payfirst.ops.metrics import COUNTERS, HISTOGRAMS, Snapshot
from payfirst.store.monitoring import Reading

_PROCESS = ("role", "host", "pid")
_SIGNER = ("network", "purpose", "signer")
_TOKEN = ("network", "token", "symbol")


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one scrape shows: `reading` is None when the database could not be read."""

    reading: Reading | None
    seconds: float


class _Families:
    """Families by name, so that samples of many processes come to stand together."""

    def __init__(self) -> None:
        self._gauges: dict[str, GaugeMetricFamily] = {}
        self._counters: dict[str, CounterMetricFamily] = {}
        self._histograms: dict[str, HistogramMetricFamily] = {}

    def gauge(self, name: str, meaning: str, labels: dict[str, str], value: float | None) -> None:
        if name not in self._gauges:
            self._gauges[name] = GaugeMetricFamily(name, meaning, labels=tuple(labels))
        if value is not None:
            self._gauges[name].add_metric(tuple(labels.values()), value)

    def counter(self, name: str, meaning: str, labels: dict[str, str], value: float) -> None:
        if name not in self._counters:
            self._counters[name] = CounterMetricFamily(name, meaning, labels=tuple(labels))
        self._counters[name].add_metric(tuple(labels.values()), value)

    def histogram(
        self, name: str, labels: dict[str, str], counts: Sequence[int], total: float, *, bounds: Sequence[float]
    ) -> None:  # fmt: skip
        if name not in self._histograms:
            self._histograms[name] = HistogramMetricFamily(name, HISTOGRAMS[name].meaning, labels=tuple(labels))
        reached = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(_bound, bounds), "+Inf"), counts, strict=True):
            reached += count
            buckets.append((bound, reached))
        self._histograms[name].add_metric(tuple(labels.values()), buckets, total)

    def __iter__(self) -> Iterator[Metric]:
        yield from self._gauges.values()
        yield from self._counters.values()
        yield from self._histograms.values()


def _bound(bound: float) -> str:
    return repr(float(bound))


def render(scrape: Scrape) -> bytes:
    """The text format, version 0.0.4. A database that is away leaves `payfirst_up 0` and nothing stale beside it."""
    families = _Families()
    families.gauge(
        "payfirst_build_info",
        "The exporter's release; those of the others are payfirst_process_info.",
        {"version": payfirst.__version__},
        1,
    )
    families.gauge("payfirst_up", "Whether the database could be read.", {}, float(scrape.reading is not None))
    families.gauge("payfirst_scrape_duration_seconds", "What reading the database took.", {}, scrape.seconds)
    if scrape.reading is not None:
        _queues(families, scrape.reading)
        _money(families, scrape.reading)
        _chain(families, scrape.reading)
        _processes(families, scrape.reading)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    return generate_latest(registry)


class _Collected:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client asks for them."""
        return self._families


def _queues(families: _Families, reading: Reading) -> None:
    for row in reading.depths:
        labels = {"queue": row["queue"], "status": row["status"]}
        families.gauge("payfirst_queue_depth", "Rows in a status that is not final.", labels, row["depth"])
        families.gauge(
            "payfirst_queue_oldest_age_seconds",
            "Since when the oldest row has been in its status; 0 where there is none.",
            labels,
            row["oldest_s"],
        )
    for row in reading.stuck:
        families.gauge(
            "payfirst_queue_stuck", "Rows that were sent over five minutes ago.", {"queue": row["queue"]}, row["rows"]
        )
    families.gauge("payfirst_database_size_bytes", "The database on disk.", {}, reading.size_bytes)


def _money(families: _Families, reading: Reading) -> None:
    for row in reading.owed:
        labels = {"direction": row["direction"], "reason": row["reason"], "asset": row["asset"]}
        families.gauge("payfirst_owed", "Open debts.", labels, row["debts"])
        families.gauge("payfirst_owed_amount", "Open debts in atomic units of the asset.", labels, row["amount"])
    for row in reading.refunds:
        labels = {"status": row["status"]}
        families.gauge("payfirst_refunds", "Refunds under way.", labels, row["refunds"])
        families.gauge("payfirst_refunds_amount", "Refunds under way in atomic units.", labels, row["amount"])
    for row in reading.treasuries:
        labels = {"network": row["network"], "asset": row["asset"], "treasury": row["address"]}
        families.gauge("payfirst_treasury_balance", "What refunds can be paid from, atomic.", labels, row["balance"])
        families.gauge("payfirst_treasury_short", "1 while refunds wait for money.", labels, int(row["short"]))
    for row in reading.signers:
        labels = dict(zip(_SIGNER, (row["network"], row["purpose"], row["address"]), strict=True))
        for name, meaning, value in (
            ("balance_wei", "Gas money when it was last read.", row["balance_wei"]),
            ("next_nonce", "The account nonce that is given out next.", row["next_nonce"]),
            ("nonce_lag", "Account nonces given out from the oldest unconfirmed one on.", row["nonce_lag"]),
            ("unresolved", "Transactions whose outcome is not known yet.", row["unresolved"]),
            ("oldest_unresolved_seconds", "The age of the oldest of them.", row["oldest_s"]),
            ("paused", "1 while it signs nothing: paused, or without gas money.", float(row["paused"])),
        ):
            families.gauge(f"payfirst_signer_{name}", meaning, labels, value)


def _chain(families: _Families, reading: Reading) -> None:
    for row in reading.heads:
        labels = {"network": row["network"]}
        for name, meaning, value in (
            ("head_height", "The newest block that a worker has seen.", row["head_height"]),
            ("confirmable_height", "The newest block at network.confirmations.", row["confirmable_height"]),
            ("cursor_height", "The block up to which everything is applied.", row["cursor_height"]),
            ("final_height", "The block up to which everything is final.", row["final_height"]),
            ("head_age_seconds", "Since a worker last looked at the chain.", row["seen_s"]),
            ("drain_rate", "Payments settled a second, as admission reckons.", row["settled_per_s"]),
        ):
            families.gauge(f"payfirst_chain_{name}", meaning, labels, value)
    for row in reading.tokens:
        labels = dict(zip(_TOKEN, (row["network"], row["address"], row["symbol"]), strict=True))
        left = None
        if row["max_mint_count"] is not None:
            left = row["max_mint_count"] - row["minted"] - row["reserved"]
        families.gauge("payfirst_token_units_left", "Units neither minted nor reserved.", labels, left)
        families.gauge("payfirst_token_sells", "1 while the token is active and not held.", labels, float(row["sells"]))


def _processes(families: _Families, reading: Reading) -> None:
    for role in ("api", "worker"):
        living = sum(row["role"] == role for row in reading.processes)
        families.gauge("payfirst_processes", "Processes that beat within ten seconds.", {"role": role}, living)
    for row in reading.processes:
        labels = dict(zip(_PROCESS, (row["role"], row["host"], str(row["pid"])), strict=True))
        families.gauge(
            "payfirst_process_start_time_seconds", "When the process started, in Unix time.", labels, row["started"]
        )
        families.gauge(
            "payfirst_process_heartbeat_age_seconds", "Since when the process is silent.", labels, row["silent_s"]
        )
        if row["metrics"] is None:
            continue  # it publishes none (yet)
        try:
            published = msgspec.json.decode(row["metrics"], type=Snapshot)
        except msgspec.MsgspecError:
            continue  # of a release that counts otherwise
        _published(families, labels, published)


def _published(families: _Families, process: dict[str, str], published: Snapshot) -> None:
    families.gauge(
        "payfirst_process_info",
        "The release of a process.",
        process | {"version": published.version, "python": published.python},
        1,
    )
    families.gauge("payfirst_process_resident_memory_bytes", "Memory in RAM.", process, published.resident_memory_bytes)
    families.gauge("payfirst_process_open_files", "Open file descriptors.", process, published.open_files)
    families.counter("payfirst_process_cpu_seconds_total", "CPU time, user and system.", process, published.cpu_seconds)
    for name, counted in published.counters.items():
        counter = COUNTERS.get(name)
        for values, number in counted:
            if counter is not None and len(values) == len(counter.labels):
                labels = process | dict(zip(counter.labels, values, strict=True))
                families.counter(name, counter.meaning, labels, number)
    for name, series in published.histograms.items():
        histogram = HISTOGRAMS.get(name)
        for values, counts, total in series:
            if histogram is None or len(values) != len(histogram.labels) or len(counts) != len(histogram.bounds) + 1:
                continue  # of a release with other buckets
            labels = process | dict(zip(histogram.labels, values, strict=True))
            families.histogram(name, labels, counts, total, bounds=histogram.bounds)
