"""What a process counts, and how it is shown."""

from __future__ import annotations

import msgspec
import pytest

from payfirst.ops import metrics
from payfirst.ops.exposition import Scrape, render
from payfirst.ops.latency import LatencyHistogram
from payfirst.ops.metrics import Counter, Histogram, Snapshot, snapshot
from payfirst.store.monitoring import Reading

NOBODY = Reading([], [], [], [], [], [], [], [], [], 0)


def shown(published: Snapshot, **row: object) -> str:
    """The scrape of one process that published this."""
    process: dict[str, object] = {
        "role": "worker", "host": "h", "pid": 7, "network": "n", "started": 1.0, "silent_s": 0.5,
        "metrics": msgspec.json.encode(published).decode(), **row,
    }  # fmt: skip
    reading = Reading([], [], [], [], [], [], [], [], [process], 0)  # type: ignore[list-item]  # reads like a record
    return render(Scrape(reading, 0.01)).decode()


def test_a_counter_grows_by_label_values() -> None:
    """And what is known beforehand is there as 0, so that a rate has something to start from."""
    counter = Counter("payfirst_test_total", "A test.", ("kind",), known=[("a",)])
    counter.add("b", by=2)
    counter.add("b")
    assert counter.values == {("a",): 0, ("b",): 3}


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (0.5, 0), (1.0, 0), (1.1, 1), (2.0, 1), (2.1, 2)])
def test_a_value_counts_at_or_below_its_bound(value: float, bucket: int) -> None:
    """`le` is less or equal; what is beyond the last bound is only in +Inf."""
    histogram = Histogram("payfirst_test_seconds", "A test.", (1.0, 2.0))
    histogram.observe(value)
    counts = [0.0, 0.0, 0.0]
    counts[bucket] = 1.0
    assert histogram.series[()] == [*counts, value]


def test_latencies_fall_into_wider_buckets() -> None:
    """The API's own histogram is shown with Prometheus' bounds: counts exactly, the sum within 2 %."""
    latencies = LatencyHistogram()
    for seconds in (0.0004, 0.003, 0.003, 0.07, 99.0):
        latencies.record(seconds)
    counts, total = latencies.counted((0.001, 0.01, 0.1))
    assert counts == [1, 2, 1, 1]
    assert total == pytest.approx(99.0764, rel=0.02)


def test_what_a_process_publishes_is_shown_with_its_labels() -> None:
    """Counters and histograms, cumulative, under role, host and pid."""
    found = snapshot([metrics.REORGS, metrics.STAGE], rebucketed={metrics.LOOP_LAG: LatencyHistogram()})
    text = shown(found)
    assert '\npayfirst_reorgs_total{host="h",pid="7",role="worker"} ' in text
    assert (
        'payfirst_stage_duration_seconds_bucket{host="h",le="+Inf",pid="7",role="worker",stage="accepted_to_minted"}'
        in text
    )
    assert "# TYPE payfirst_event_loop_lag_seconds histogram" in text
    assert 'payfirst_process_info{host="h",pid="7",python=' in text


def test_buckets_are_cumulative() -> None:
    """As the text format wants them; the count is the last, and the sum goes along."""
    series: tuple[list[str], list[int], float] = ([], [3, 0, 2, *([0] * (len(metrics.ACCEPT.bounds) - 3)), 1], 12.5)
    text = shown(Snapshot(histograms={"payfirst_accept_duration_seconds": [series]}))
    base = 'host="h",le="{}",pid="7",role="worker"'
    assert f"payfirst_accept_duration_seconds_bucket{{{base.format('0.001')}}} 3.0" in text
    assert f"payfirst_accept_duration_seconds_bucket{{{base.format('0.005')}}} 5.0" in text
    assert f"payfirst_accept_duration_seconds_bucket{{{base.format('+Inf')}}} 6.0" in text
    assert 'payfirst_accept_duration_seconds_count{host="h",pid="7",role="worker"} 6.0' in text
    assert 'payfirst_accept_duration_seconds_sum{host="h",pid="7",role="worker"} 12.5' in text


def test_what_another_release_counts_is_left_out() -> None:
    """Unknown names, other labels and other buckets: none of it breaks the scrape."""
    text = shown(
        Snapshot(
            counters={"payfirst_of_tomorrow_total": [([], 1.0)], "payfirst_reorgs_total": [(["more"], 1.0)]},
            histograms={"payfirst_accept_duration_seconds": [([], [1, 2], 3.0)]},
        )
    )
    assert "tomorrow" not in text
    assert "payfirst_reorgs_total" not in text
    assert "payfirst_accept_duration_seconds" not in text
    assert "payfirst_process_info{" in text
    assert "payfirst_process_info{" not in shown(Snapshot(), metrics='{"counters": "nonsense"}')
    assert "payfirst_process_start_time_seconds" in shown(Snapshot(), metrics=None)


def test_a_database_that_is_away_is_a_fact_to_be_shown() -> None:
    """`payfirst_up` is 0, and no figure of earlier stands beside it."""
    text = render(Scrape(None, 1.0)).decode()
    assert "\npayfirst_up 0.0" in text
    assert "payfirst_processes" not in text
    assert "\npayfirst_up 1.0" in render(Scrape(NOBODY, 1.0)).decode()


def test_large_sums_are_published() -> None:
    """Wei outgrow 64 bits."""
    counter = Counter("payfirst_gas_paid_wei_total", "Wei.")
    counter.add(by=10**30)
    published = msgspec.json.encode(snapshot([counter], rebucketed={}))
    assert msgspec.json.decode(published, type=Snapshot).counters[counter.name] == [([], 1e30)]


def test_names_follow_the_conventions() -> None:
    """The prefix, `_total` on counters only, and a unit at the end of what has one."""
    for name in metrics.COUNTERS:
        assert name.startswith("payfirst_")
        assert name.endswith("_total")
    for name in metrics.HISTOGRAMS:
        assert name.startswith("payfirst_")
        assert name.endswith(("_seconds", "_items"))
