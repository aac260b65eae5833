"""One frame of `payfirst top`, drawn from what was read. Pure: the time is passed in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from payfirst.ops.performance import judge
from payfirst.store.activity import Batches, Trouble
from payfirst.store.diagnosis import Debts, HeadFacts, Held
from payfirst.store.performance import Minute, Performance, Speed
from payfirst.store.processes import Listed
from payfirst.store.signers import ListedSigner
from payfirst.units import Address, checksum_address

BARS = "▁▂▃▄▅▆▇█"
BAR_CHARACTERS = 18
HEAD_AGE_S_MAX = 30.0
SENTENCE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class View:
    """Everything that one frame shows. `away` says why it is old, where the database did not answer since."""

    network: str
    performance: Performance
    head: HeadFacts | None
    signers: Sequence[ListedSigner]
    processes: Sequence[Listed]
    batches: Sequence[Batches]
    troubles: Sequence[Trouble]
    held: Held
    debts: Debts
    settings: Mapping[str, object]
    away: str | None = None


def frame(view: View, *, now: dt.datetime) -> RenderableType:
    """The whole frame, as wide as its console."""
    return Group(
        _title(view, now),
        _beside(_panel("Rate a second", _rates(view.performance)), _panel("Under way", _depth(view))),
        _beside(_panel("Chain", _chain(view)), _panel("Sent in 10 minutes", _batches(view.batches))),
        _panel("Signers", _signers(view.signers)),
        _panel("Processes", _processes(view.processes)),
        _panel("Troubles", _troubles(view)),
    )


def _title(view: View, now: dt.datetime) -> RenderableType:
    state = Text(" ACCEPTING ", "black on green")
    if view.settings.get("pause.accepting") is True:
        state = Text(" DRAINING ", "black on yellow")
    elif view.settings.get("pause.settling") is True:
        state = Text(" SETTLING PAUSED ", "black on yellow")
    if not any(p.lives for p in view.processes if p.role == "worker"):
        state = Text(" NO WORKER ", "white on red")
    if view.away is not None:
        state = Text(f" OLD: {view.away[:SENTENCE_CHARACTERS]} ", "white on red")
    line = Text.assemble(
        ("payfirst ", "bold"), f"{view.network}  ", state, f"  {now.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    broken = [verdict.sentence for verdict in judge(view.performance) if not verdict.holds]
    return Group(line, *(Text(f"❌ {sentence}", "red") for sentence in broken))


def _beside(left: RenderableType, right: RenderableType) -> Table:
    grid = Table.grid(expand=True, padding=0)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(left, right)
    return grid


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=f"[bold]{title}", title_align="left", border_style="dim", padding=(0, 1))


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


# ---- the panels --------------------------------------------------------------------------------------


def _rates(speed: Performance) -> RenderableType:
    minutes = speed.minutes
    table = _table("", "now", "10 min", "minute by minute", right=("now", "10 min"))
    for name, count in (("accepted", _accepted), ("completed", _completed), ("minted", _minted)):
        rates = [count(minute) / minute.seconds for minute in reversed(minutes)]
        mean = sum(count(m) for m in minutes) / max(1.0, sum(m.seconds for m in minutes))
        table.add_row(name, f"{rates[-1] if rates else 0:.1f}", f"{mean:.1f}", Text(spark(rates), "cyan"))
    return Group(table, _speed("accepted → paid", speed.payments), _speed("accepted → minted", speed.units))


def _accepted(minute: Minute) -> int:
    return minute.accepted


def _completed(minute: Minute) -> int:
    return minute.completed


def _minted(minute: Minute) -> int:
    return minute.minted


def _speed(name: str, speed: Speed) -> Text:
    if speed.p50 is None or speed.p99 is None:
        return Text(f"{name}: none yet", "dim")
    return Text(f"{name}: p50 {_seconds(speed.p50)}, p99 {_seconds(speed.p99)}")


def spark(rates: Sequence[float]) -> str:
    """A bar a rate, the highest as high as a line; nothing at all is a dot."""
    most = max(rates, default=0.0)
    return "".join("·" if not r else BARS[min(len(BARS) - 1, int(r / most * len(BARS)))] for r in rates)


def _depth(view: View) -> RenderableType:
    table = _table("", "rows", "oldest", "", right=("rows", "oldest"))
    rows = {(d.queue, d.status): d for d in view.performance.depth}
    most = max((d.count for d in rows.values()), default=0)
    for queue, status in (("payments", "pending"), ("payments", "sent"), ("mints", "pending"), ("mints", "sent")):
        row = rows.get((queue, status))
        count, oldest = (row.count, _seconds(row.oldest_s)) if row else (0, "–")
        bar = "█" * max(1 if count else 0, round(BAR_CHARACTERS * count / most) if most else 0)
        table.add_row(f"{queue} {status}", f"{count:,}", oldest, Text(bar, "cyan"))
    stuck = view.performance.stuck_payments + view.performance.stuck_mints
    waits = f"stuck in sent {stuck} · held {view.held.payments + view.held.mints} · owed"
    owed = view.debts.to_buyers + view.debts.to_seller
    return Group(table, Text(f"{waits} {owed}", "red" if stuck else "yellow" if owed else "dim"))


def _chain(view: View) -> RenderableType:
    head = view.head
    if head is None:
        return Text("no worker has seen the chain yet", "red")
    table = Table.grid(padding=(0, 2))
    table.add_row("newest block", f"{head.height:,}")
    table.add_row("seen", Text(f"{_seconds(head.age_s)} ago", "red" if head.age_s > HEAD_AGE_S_MAX else ""))
    table.add_row("read up to", f"{head.cursor:,} ({head.height - head.cursor} behind)")
    table.add_row("final up to", f"{head.final:,}")
    table.add_row("base fee", "–" if head.base_fee is None else f"{head.base_fee / 1e9:.3g} gwei")
    return table


def _batches(batches: Sequence[Batches]) -> RenderableType:
    if not batches:
        return Text("nothing was sent", "dim")
    table = _table(
        "", "tx", "items", "max", "gas each", "gwei", "spent", right=("tx", "items", "max", "gas each", "gwei")
    )
    for row in batches:
        table.add_row(
            row.purpose,
            str(row.transactions),
            f"{row.items:.1f}",
            str(row.items_max),
            "–" if row.gas_per_item is None else f"{row.gas_per_item:,.0f}",
            "–" if row.gas_price_wei is None else f"{row.gas_price_wei / 1e9:.3g}",
            f"{row.spent_wei / 1e18:.6f} ether",
        )
    return table


def _signers(signers: Sequence[ListedSigner]) -> RenderableType:
    if not signers:
        return Text("no worker has registered a signer yet", "yellow")
    table = _table(
        "for", "address", "next nonce", "on its way", "gas money", "state", right=("next nonce", "on its way")
    )
    for signer in signers:
        state = Text("working", "green") if signer.held else Text("no worker holds it", "yellow")
        if signer.paused_reason is not None:
            state = Text(f"paused: {signer.paused_reason[:SENTENCE_CHARACTERS]}", "red")
        table.add_row(
            signer.purpose,
            short(signer.address),
            f"{signer.next_nonce:,}",
            str(signer.unresolved),
            "?" if signer.balance is None else f"{signer.balance / 10**18:.6f} ether",
            state,
        )
    return table


def short(address: Address) -> str:
    """An address for a narrow column."""
    text = checksum_address(address)
    return f"{text[:8]}…{text[-6:]}"


def _processes(processes: Sequence[Listed]) -> RenderableType:
    if not processes:
        return Text("none", "red")
    table = _table("", "pid", "host", "up", "heard of", "longest stall", "settings", right=("pid", "up", "heard of"))
    for process in processes:
        stall = process.stats.get("loop_stall_ms_max")
        refused, taken = process.settings.get("refused", {}), process.settings.get("taken", {})
        settings = Text(f"refuses {', '.join(refused)}", "red") if refused else Text(f"{len(taken)} of the database")
        table.add_row(
            process.role,
            str(process.pid),
            escape(process.host),
            _seconds(process.up_s),
            Text(f"{_seconds(process.silent_s)} ago", "" if process.lives else "red"),
            f"{stall:.0f} ms" if isinstance(stall, int | float) else "–",
            settings if taken or refused else Text("–", "dim"),
        )
    return table


def _troubles(view: View) -> RenderableType:
    lines = [Text(f"token {address} is held: {reason}", "yellow") for address, reason in view.held.tokens]
    table = _table("", "rows", "since", "", right=("rows", "since"))
    for trouble in view.troubles:
        sentence = trouble.sentence[:SENTENCE_CHARACTERS]
        table.add_row(trouble.what, str(trouble.count), _seconds(trouble.age_s), Text(sentence))
    if not view.troubles and not lines:
        return Text("none in the last hour", "green")
    return Group(*lines, table) if view.troubles else Group(*lines)


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
