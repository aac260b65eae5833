"""`payfirst stats`: how fast payments and units went through, and whether that is fast enough."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from payfirst import config as configuration
from payfirst.cli import settings
from payfirst.errors import OperatorError
from payfirst.ops.performance import judge, to_json
from payfirst.store import database, performance
from payfirst.store.performance import Performance, Speed

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
SINCE_S_MAX = 31 * 86_400
BAR_CHARACTERS = 30

console = Console(highlight=False, soft_wrap=True)


def stats(config: Path | None, *, since: str, as_json: bool) -> None:
    """Print the figures; the exit code is 1 where a threshold is broken."""
    window_s = seconds_since(since, now=dt.datetime.now(dt.UTC))
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        found = asyncio.run(_read(url, loaded.network.network.caip2, window_s))
    if as_json:
        typer.echo(json.dumps(to_json(found)))
    else:
        _print(found, since)
    raise typer.Exit(0 if all(verdict.holds for verdict in judge(found)) else 1)


def seconds_since(text: str, *, now: dt.datetime) -> float:
    """How long ago `text` is: 90s, 10m, 1h, 2d, or a time such as 2026-01-31T12:00Z. Raises OperatorError."""
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    try:
        if ago:
            seconds = float(int(ago[1]) * UNITS_S[ago[2]])
        else:
            then = dt.datetime.fromisoformat(text.strip())
            seconds = (now - (then if then.tzinfo else then.replace(tzinfo=dt.UTC))).total_seconds()
    except ValueError:
        raise OperatorError(f"--since {text!r} is no time: write 10m, 1h, 2d or 2026-01-31T12:00Z") from None
    if not 0 < seconds <= SINCE_S_MAX:
        raise OperatorError(f"--since {text} has to be in the last 31 days")
    return seconds


async def _read(url: str, network: str, window_s: float) -> Performance:
    pool = await database.connect(url, name="tool", size=1)
    async with pool, database.session(pool, "measure the queue") as connection:
        return await performance.read(connection, network, window_s=window_s)


def _print(found: Performance, since: str) -> None:
    speeds = Table("", "completed (accepted → paid)", "minted (accepted → minted)", title=f"Since {since}")
    for name, of_payments, of_units in zip(
        ("count", "avg_seconds", "minimum", "maximum", "p50", "p99"),
        _figures(found.payments), _figures(found.units), strict=True,
    ):  # fmt: skip
        speeds.add_row(name, of_payments, of_units)
    console.print(speeds)
    rates = Table("minute (UTC)", "accepted/s", "completed/s", "minted/s", "", title="Rate a second, by minute")
    most = max((m.completed / m.seconds for m in found.minutes), default=0.0)
    for minute in found.minutes:
        completed = minute.completed / minute.seconds
        rates.add_row(
            minute.start.astimezone(dt.UTC).strftime("%H:%M"),
            f"{minute.accepted / minute.seconds:.1f}",
            f"{completed:.1f}",
            f"{minute.minted / minute.seconds:.1f}",
            "█" * round(BAR_CHARACTERS * completed / most) if most else "",
        )
    console.print(rates)
    depth = Table("queue", "status", "rows", "oldest", title="What is under way")
    for row in found.depth:
        depth.add_row(row.queue, row.status, str(row.count), f"{row.oldest_s:.0f} s")
    console.print(depth if found.depth else "Nothing is under way.")
    if found.failures:
        failures = Table("failed", "cause", "such as", title="Failures")
        for cause in found.failures:
            failures.add_row(str(cause.count), cause.code, cause.sentence or "")
        console.print(failures)
    for verdict in judge(found):
        console.print(f"{'✅' if verdict.holds else '❌'} {verdict.sentence}", markup=False)


def _figures(speed: Speed) -> list[str]:
    seconds = (speed.average, speed.minimum, speed.maximum, speed.p50, speed.p99)
    return [str(speed.count), *("–" if s is None else f"{s:.2f} s" for s in seconds)]
