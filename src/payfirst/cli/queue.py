"""How the commands for payments, mints and debts reach the database, and tell what they did."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import typer

from payfirst.cli import output, settings
from payfirst.config import Config
from payfirst.errors import OperatorError, RetriedError
from payfirst.store import database, wake
from payfirst.store.by_hand import Done
from payfirst.store.database import Connection, Pool
from payfirst.store.queue_list import Page

T = TypeVar("T")

# One hand's work: each id is a transaction of its own.
IDS_MAX = 1_000


def with_pool(config: Config, act: Callable[[Pool], Awaitable[T]]) -> T:
    """Run `act` with two connections to the configured database, whose tables must be this release's."""

    async def run(url: str) -> T:
        pool = await database.connect(url, name="tool", size=2)
        async with pool:
            return await act(pool)

    with settings.database(config) as url:
        settings.demand_current_schema(url)
        try:
            return asyncio.run(run(url))
        except RetriedError as error:
            raise OperatorError(f"{error}. Nothing is known to be changed; try again") from error


def each(
    config: Config,
    subjects: Sequence[T],
    act: Callable[[Connection, T], Awaitable[Done]],
    *,
    channel: str | None,
    as_json: bool,
) -> None:
    """Do one thing to each of `subjects`, each in a transaction of its own; exit code 1 when one could not be done."""
    if len(subjects) > IDS_MAX:
        raise OperatorError(f"at most {IDS_MAX} at a time")

    async def run(pool: Pool) -> list[Done]:
        done = []
        for subject in subjects:
            async with database.transaction(pool, "change what waits") as connection:
                done.append(await act(connection, subject))
        await _announce(pool, channel, {d.payment_id for d in done if d.ok and d.payment_id is not None})
        return done

    results = with_pool(config, run)
    if as_json:
        output.print_json([{"subject": d.subject, "ok": d.ok, "sentence": d.sentence} for d in results])
    else:
        for result in results:
            output.say(f"{result.subject}: {result.sentence}")
    raise typer.Exit(0 if all(d.ok for d in results) else 1)


async def _announce(pool: Pool, channel: str | None, changed: Iterable[uuid.UUID]) -> None:
    """Wake who waits, after the commits; both look by themselves too."""
    with contextlib.suppress(RetriedError):
        async with database.session(pool, "say what changed") as connection:
            await wake.say_changed(connection, changed)
            if channel is not None:
                await wake.send(connection, channel)


def show_page(page: Page, headings: Sequence[str], cells: Callable[[Any], Sequence[object]]) -> None:
    """A page for people, and how to go on."""
    output.print_table(headings, (cells(row) for row in page.rows))
    if page.next is not None:
        looked = " (nothing more was found in the time allowed)" if page.gave_up else ""
        output.say(f"more{looked}: --after {page.next}")


async def export(pages: AsyncIterator[Sequence[Any]], columns: Sequence[str]) -> None:
    """Every row as CSV, a page at a time."""
    writer = output.CsvWriter(columns)
    async for rows in pages:
        writer.write(rows)
