"""What came of it: one JSON object for programs, and a report for people."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from payfirst.local.demo.burst import CONNECTIONS
from payfirst.local.demo.checks import Check
from payfirst.local.demo.folder import LOG
from payfirst.local.demo.ledger import ROWS_SHOWN_MAX, QueryResult
from payfirst.local.demo.stage import Stage
from payfirst.local.postgres import redacted
from payfirst.local.postgres_host import binaries
from payfirst.units import checksum_address


@dataclass(frozen=True, slots=True)
class Figures:
    """The JSON object: its fields are these names. Latencies are of the burst, measured at the server."""

    accepted: int
    rejected: int
    failed: int
    settled: int
    minted: int
    owed: int
    accept_ms_p50: float
    accept_ms_p99: float
    minted_s_p50: float
    minted_s_p99: float
    gas_per_payment: int
    transactions: int
    api_loop_stall_ms_max: float
    invariants_ok: bool


@dataclass(frozen=True, slots=True)
class BurstPace:
    """How fast the burst went: accepted a second, and seconds from its first 202 to the last of each."""

    accepted_per_s: float
    settled_s: float
    minted_s: float
    payments: int
    client_ms_p50: float
    client_ms_p99: float


def json_line(figures: Figures) -> str:
    """The figures as one line of JSON."""
    return msgspec.json.encode(dataclasses.asdict(figures)).decode()


def show(
    console: Console,
    figures: Figures,
    pace: BurstPace,
    checks: Sequence[Check],
    queries: Sequence[QueryResult],
) -> None:
    """The whole report."""
    console.print()
    console.print(_figures(figures, pace))
    for query in queries:
        console.print()
        console.print(Text(f"-- {query.name}.sql", "bold"))
        console.print(Text(query.sql.strip(), "dim"), soft_wrap=True)
        console.print(_rows(query))
    console.print()
    for check in checks:
        console.print(Text(f"{'✅' if check.holds else '❌'} {check.promise} ({check.found})"), soft_wrap=True)
    console.print()
    broken = sum(not check.holds for check in checks)
    console.print(
        Text("Everything adds up.", "bold green") if not broken else Text(f"{broken} things do not add up.", "bold red")
    )


def show_what_to_try(console: Console, stage: Stage, payment_id: uuid.UUID | None) -> None:
    """What to click, and what to type, while the demo keeps serving."""
    base = stage.base_url
    commands = [
        ("a 402 with both offers", f"curl -i -X POST {base}{stage.mint_path} -d '{{\"quantity\": 1}}'"),
        ("how the queue fares", f"curl {base}/api/payment/stats"),
        ("the database", f'{shutil.which("psql") or binaries() / "psql"} "{stage.database_url}"'),
        ("the log of both processes", f"tail -f {stage.folder / LOG}/*.log"),
    ]
    if payment_id is not None:
        commands.insert(1, ("a payment and its mints", f"curl {base}/api/payment/{payment_id}"))
    console.print()
    console.print(Text("Click:", "bold"))
    for path in ("/api/tokens", "/ready", "/health", "/api/payment/stats", "/api/queue/stats"):
        console.print(Text(f"  {base}{path}"), soft_wrap=True)
    console.print(Text("Try:", "bold"))
    for words, command in commands:
        console.print(Text(f"  # {words}", "dim"))
        console.print(Text(f"  {command}"), soft_wrap=True)
    console.print()
    console.print(
        Text(
            f"Serving {checksum_address(stage.token)} until Ctrl-C."
            f" Settings: {stage.folder / 'payfirst.toml'}, database {redacted(stage.database_url)}"
        ),
        soft_wrap=True,
    )


def _figures(figures: Figures, pace: BurstPace) -> Table:
    table = Table(title="What came of it", title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        ("accepted", f"{figures.accepted:,}", "answers 202, replays not counted"),
        ("rejected", f"{figures.rejected:,}", "answers 4xx to bad payments"),
        ("settled", f"{figures.settled:,}", "payments, by evidence in the logs"),
        ("failed", f"{figures.failed:,}", "payments, with no mint"),
        ("minted", f"{figures.minted:,}", "units"),
        ("owed", f"{figures.owed:,}", "units that could not be minted"),
        (
            "202 in the burst, at the server",
            f"{figures.accept_ms_p50:.1f} / {figures.accept_ms_p99:.1f} ms",
            "p50 / p99",
        ),
        (
            "202 in the burst, at the client",
            f"{pace.client_ms_p50:.1f} / {pace.client_ms_p99:.1f} ms",
            f"p50 / p99, {CONNECTIONS} connections",
        ),
        ("the burst's pace", f"{pace.accepted_per_s:,.0f} a second", f"{pace.payments:,} accepted"),
        ("", f"{pace.payments / pace.settled_s if pace.settled_s else 0:,.0f} a second", "settled, from the first 202"),
        ("", f"{pace.payments / pace.minted_s if pace.minted_s else 0:,.0f} a second", "minted, from the first 202"),
        (
            "accepted → minted, official client",
            f"{figures.minted_s_p50:.2f} / {figures.minted_s_p99:.2f} s",
            "p50 / p99, 1 s blocks",
        ),
        ("gas of settling, in the burst", f"{figures.gas_per_payment:,}", "a payment"),
        ("transactions", f"{figures.transactions:,}", "sent by us"),
        ("longest stall of the API's loop", f"{figures.api_loop_stall_ms_max:.1f} ms", "of the whole run"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _rows(query: QueryResult) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=True)
    for column in query.columns:
        table.add_column(column)
    for row in query.rows[:ROWS_SHOWN_MAX]:
        table.add_row(*row)
    if len(query.rows) > ROWS_SHOWN_MAX:
        table.add_row(f"… {len(query.rows) - ROWS_SHOWN_MAX} more")
    if not query.rows:
        table.caption = "(no row)"
        table.caption_justify = "left"
    return table
