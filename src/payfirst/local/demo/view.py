"""The live view, on standard error: a table that renews itself on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from payfirst.lifecycle import MintStatus, PaymentStatus
from payfirst.local.demo.measure import Counts

REFRESH_PER_S = 4
PLAIN_EVERY_S = 5.0


@dataclass(slots=True)
class _Step:
    words: str
    started: float
    seconds: float | None = None
    detail: str = ""


class View:
    """Shows steps and counts. A context manager; outside it only `note` writes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[_Step] = []
        self._counts: Counts | None = None
        self._rates = Rates()
        self._live: Live | None = None
        self._began = time.monotonic()
        self._plain_at = self._began

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=REFRESH_PER_S, get_renderable=self._render)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The last step has ended; the table stays as it is. A second call changes nothing."""
        self._finish_step()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def step(self, words: str) -> None:
        """The step before has ended, and this one begins."""
        self._finish_step()
        self._steps.append(_Step(words, time.monotonic()))
        if self._live is None:
            self.note(words)

    def detail(self, words: str) -> None:
        """More about the step that is under way."""
        if self._steps:
            self._steps[-1].detail = words

    def note(self, words: str) -> None:
        """One line that stays."""
        stamp = "" if self._live is not None else f"{time.monotonic() - self._began:6.1f} s  "
        self._console.print(f"{stamp}{words}", markup=False, highlight=False, soft_wrap=True)

    def show(self, counts: Counts) -> None:
        """The queues as they are now."""
        now = time.monotonic()
        self._counts = counts
        self._rates.add(now, counts)
        if self._live is None and now - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = now
            self.note("  " + counts_line(counts))

    def _finish_step(self) -> None:
        if self._steps and self._steps[-1].seconds is None:
            self._steps[-1].seconds = time.monotonic() - self._steps[-1].started

    def _render(self) -> RenderableType:
        steps = Table.grid(padding=(0, 2))
        for step in self._steps:
            seconds = time.monotonic() - step.started if step.seconds is None else step.seconds
            mark = Text("…", "yellow") if step.seconds is None else Text("✓", "green")
            steps.add_row(mark, step.words, Text(f"{seconds:.1f} s", "dim"), Text(step.detail, "dim"))
        if self._counts is None:
            return steps
        return Group(steps, Text(), self._queues(self._counts))

    def _queues(self, counts: Counts) -> Table:
        table = Table(box=None, padding=(0, 2), pad_edge=False)
        settled, minted = self._rates.per_second()
        table.add_column(f"block {counts.head}", style="dim")
        for status in ("pending", "sent", "completed", "failed", "owed"):
            table.add_column(status, justify="right")
        table.add_column("a second", justify="right")
        rows = (("payments", counts.payments, PaymentStatus, settled), ("mints", counts.mints, MintStatus, minted))
        for name, found, statuses, rate in rows:
            known = {str(status) for status in statuses}
            cells = (
                f"{found.get(status, 0):,}" if status in known else ""
                for status in ("pending", "sent", "completed", "failed", "owed")
            )
            table.add_row(name, *cells, f"{rate:,.0f}")
        return table


class Rates:
    """Completed rows a second over the last seconds."""

    WINDOW_S = 5.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, int, int]] = []

    def add(self, now: float, counts: Counts) -> None:
        """What is completed at `now`, in monotonic seconds."""
        self._seen.append((now, counts.payments.get("completed", 0), counts.mints.get("completed", 0)))
        self._seen = [seen for seen in self._seen if seen[0] >= now - self.WINDOW_S]

    def per_second(self) -> tuple[float, float]:
        """Payments and mints; zeros before there are two looks."""
        if len(self._seen) < 2:
            return 0.0, 0.0
        (first_at, *first), (last_at, *last) = self._seen[0], self._seen[-1]
        seconds = max(last_at - first_at, 1e-3)
        payments, mints = ((after - before) / seconds for before, after in zip(first, last, strict=True))
        return payments, mints


def counts_line(counts: Counts) -> str:
    """Both queues in one line."""
    queues = (("payments", counts.payments), ("mints", counts.mints))
    texts = [
        f"{name}: " + (", ".join(f"{n:,} {status}" for status, n in sorted(found.items())) or "none")
        for name, found in queues
    ]
    return f"block {counts.head} · " + " · ".join(texts)
