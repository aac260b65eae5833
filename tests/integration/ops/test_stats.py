"""`payfirst stats`: the seed's performance monitor, and its thresholds as exit code."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payfirst.cli.stats import seconds_since
from payfirst.errors import OperatorError

from .command import invoke
from .rows import payment


async def stats(tmp_path: Path, url: str, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the figures."""
    done = await asyncio.to_thread(invoke, "stats", "--json", *words, cwd=tmp_path, DATABASE_URL=url)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def broken(figures: dict[str, Any]) -> list[str]:
    """The thresholds that do not hold."""
    return [t["name"] for t in figures["thresholds"] if not t["holds"]]


async def test_speed_rates_depth_and_failures_are_told(pool: asyncpg.Pool, database_url: str, tmp_path: Path) -> None:
    """Average, least, most and percentiles from accepted to completed; minted on its own; what failed, by cause."""
    for took_s in (1, 2, 3, 10):
        await payment(pool, "completed", accepted_s=100 + took_s, processed_s=100, minted_s=98)
    await payment(pool, "completed", accepted_s=7_300, processed_s=7_200)  # before the window
    await payment(pool, "pending", accepted_s=4)
    await payment(pool, "sent", accepted_s=8)
    for code in ("insufficient_funds", "insufficient_funds", "invalid_exact_evm_nonce_already_used"):
        await payment(pool, "failed", accepted_s=60, processed_s=50, code=code)
    exit_code, figures = await stats(tmp_path, database_url)
    assert (exit_code, figures["ok"], broken(figures)) == (0, True, [])
    paid = figures["payments"]
    assert (paid["count"], paid["avg_seconds"], paid["minimum"], paid["maximum"]) == (4, 4.0, 1.0, 10.0)
    assert (paid["p50"], paid["p99"]) == (2.5, pytest.approx(9.79))
    assert (figures["minted"]["count"], figures["minted"]["avg_seconds"]) == (4, 6.0)
    assert [(f["code"], f["count"]) for f in figures["failures"]] == [
        ("insufficient_funds", 2),
        ("invalid_exact_evm_nonce_already_used", 1),
    ]
    assert figures["failures"][0]["error"] == "a sentence about insufficient_funds"
    assert {(d["queue"], d["status"]): d["count"] for d in figures["depth"]} == {
        ("payments", "pending"): 1,
        ("payments", "sent"): 1,
    }
    assert len(figures["byMinute"]) == 10
    assert sum(round(m["completedPerSecond"] * 60) for m in figures["byMinute"][1:]) == 4
    _, longer = await stats(tmp_path, database_url, "--since", "3h")
    assert longer["payments"]["count"] == 5


async def test_too_slow_is_exit_code_1(pool: asyncpg.Pool, database_url: str, tmp_path: Path) -> None:
    """An average of 15 seconds or more, and nothing else."""
    await payment(pool, "completed", accepted_s=120, processed_s=100)
    code, figures = await stats(tmp_path, database_url)
    assert (code, broken(figures)) == (1, ["avg_seconds"])


async def test_a_queue_that_does_not_drain_is_exit_code_1(
    pool: asyncpg.Pool, database_url: str, tmp_path: Path
) -> None:
    """Ten a second are demanded while payments wait; what has just come, or is held, is no queue."""
    await payment(pool, "pending", accepted_s=5)
    await payment(pool, "pending", accepted_s=500, held="by hand")
    assert (await stats(tmp_path, database_url))[0] == 0
    await payment(pool, "pending", accepted_s=20)
    code, figures = await stats(tmp_path, database_url)
    assert (code, broken(figures)) == (1, ["rate"])
    for _ in range(601):
        await payment(pool, "completed", accepted_s=6, processed_s=5)
    assert (await stats(tmp_path, database_url))[0] == 0


async def test_stuck_in_sent_is_exit_code_1(pool: asyncpg.Pool, database_url: str, tmp_path: Path) -> None:
    """Over five minutes in `sent`: a payment or a unit."""
    await payment(pool, "sent", accepted_s=270)
    assert (await stats(tmp_path, database_url))[0] == 0
    await payment(pool, "sent", accepted_s=310, processed_s=301)
    await payment(pool, "completed", accepted_s=310, processed_s=309, minted="sent", minted_s=302)
    code, figures = await stats(tmp_path, database_url)
    assert (code, broken(figures)) == (1, ["stuck"])
    assert figures["stuckInSent"] == {"payments": 1, "mints": 1}
    shown = await asyncio.to_thread(invoke, "stats", cwd=tmp_path, DATABASE_URL=database_url)
    assert shown.returncode == 1
    assert "❌ 1 payments and 1 units have been sent for over 5 minutes" in shown.stdout
    assert "avg_seconds" in shown.stdout


def test_an_empty_database_is_fast_enough(database_url: str, tmp_path: Path) -> None:
    """Nothing was sold, so nothing was slow; and a time that is none is refused."""
    shown = invoke("stats", cwd=tmp_path, DATABASE_URL=database_url)
    assert shown.returncode == 0, shown.stderr
    assert "no payment was completed" in shown.stdout
    wrong = invoke("stats", "--since", "yesterday", cwd=tmp_path, DATABASE_URL=database_url)
    assert (wrong.returncode, "--since 'yesterday' is no time" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7_200),
        ("1d", 86_400),
        ("2026-01-31T11:00Z", 3_600),
    ],
)
def test_since_is_a_length_or_a_time(text: str, seconds: int) -> None:
    """From now, or to now."""
    assert seconds_since(text, now=dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "0m", "32d", "2026-02-01T00:00Z", "soon"])
def test_since_refuses_what_is_no_past_time(text: str) -> None:
    """Nor the future, nor more than a month."""
    with pytest.raises(OperatorError):
        seconds_since(text, now=dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC))
