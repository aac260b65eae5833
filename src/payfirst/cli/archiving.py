"""`payfirst db archive`: what nothing can move any more goes to the history, in batches, while the rest goes on."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.console import Console

from payfirst import config as configuration
from payfirst.cli import output, settings
from payfirst.errors import OperatorError
from payfirst.store import archive, database
from payfirst.store.archive import Batch, Span
from payfirst.store.database import Pool
from payfirst.units import uuid7

# The operator's queries look back an hour.
AGE_MIN = dt.timedelta(hours=1)
SAY_S = 5.0
FIRST = uuid.UUID(int=0)
INTERRUPTED = 130

console = Console(highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Tally:
    """What was moved, or would be."""

    completed: int = 0
    failed: int = 0
    units: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.completed += batch.completed
        self.failed += batch.failed
        self.units += batch.units

    @property
    def document(self) -> dict[str, int]:
        """As `--json` prints it."""
        return {"completed": self.completed, "failed": self.failed, "units": self.units}

    def __str__(self) -> str:
        payments = self.completed + self.failed
        return f"{payments:,} payments ({self.failed:,} failed) with {self.units:,} units"


def archive_old(config: Path | None, *, older_than: str, batch: int, dry_run: bool, as_json: bool) -> None:
    """Move, or count, what is older. The exit code is 130 when it was interrupted."""
    before = output.moment(older_than, option="--older-than")
    assert before is not None  # noqa: S101 - a text was given
    if before > dt.datetime.now(dt.UTC) - AGE_MIN:
        raise OperatorError("--older-than must be 1h at least: the operator's queries look back an hour")
    loaded = configuration.load(config, role="tool")
    tally = Tally()
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        span = Span(
            loaded.network.network.caip2,
            after=FIRST,
            # An id begins with the time of acceptance; what is accepted later cannot have ended earlier.
            below=uuid7(now_ms=int(before.timestamp() * 1000), random_bits=0),
            before=before,
        )
        try:
            asyncio.run(_run(url, span, tally, batch=batch, dry_run=dry_run, quiet=as_json))
        except KeyboardInterrupt:
            console.print(f"Interrupted: {tally} have been moved, whole batches only. Run it again to go on.")
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        output.print_json({**tally.document, "dryRun": dry_run})
    elif dry_run:
        console.print(f"{tally} would move to the history")
    else:
        console.print(f"{tally} moved to the history in {time.monotonic() - tally.began:.1f} s")


async def _run(url: str, span: Span, tally: Tally, *, batch: int, dry_run: bool, quiet: bool) -> None:
    pool = await database.connect(url, name="archive", size=1)
    said = time.monotonic()
    async with pool:
        while True:
            began = time.monotonic()
            done = await _one(pool, span, limit=batch, dry_run=dry_run)
            tally.add(done)
            if done.last is None:
                return
            span = Span(span.network, done.last, span.below, span.before)
            now = time.monotonic()
            if now - said >= SAY_S and not quiet:
                said = now
                console.print(f"{tally} so far, accepted before {_accepted_at(done.last):%Y-%m-%d %H:%M}")
            # Half of the time is the others'.
            await asyncio.sleep(0 if dry_run else now - began)


async def _one(pool: Pool, span: Span, *, limit: int, dry_run: bool) -> Batch:
    if dry_run:
        async with database.session(pool, "count what can be archived") as connection:
            return await archive.find(connection, span, limit=limit)
    async with database.transaction(pool, "archive a batch") as connection:
        return await archive.move(connection, span, limit=limit)


def _accepted_at(payment_id: uuid.UUID) -> dt.datetime:
    return dt.datetime.fromtimestamp((payment_id.int >> 80) / 1000, dt.UTC)
