"""`payfirst mints`: the units that payments have paid for."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import asyncpg
import typer

from payfirst import config as configuration
from payfirst.cli import output, payments, queue
from payfirst.cli.output import ActorOption, CsvOption, JsonOption, LimitOption, SinceOption
from payfirst.cli.settings import ConfigOption
from payfirst.errors import OperatorError
from payfirst.lifecycle import MintStatus
from payfirst.store import by_hand, queue_list, wake
from payfirst.store.by_hand import Done
from payfirst.store.database import Connection, Pool, session
from payfirst.store.queue_list import NEWEST, Filter, Page

COLUMNS = (
    "id", "payment_id", "unit", "status", "token_address", "recipient", "mint_id", "tx_hash", "code", "error",
    "held_reason", "attempts", "next_attempt_at", "created_at", "processed_at",
)  # fmt: skip

app = typer.Typer()


@app.command("list")
def list_mints(
    status: Annotated[MintStatus | None, typer.Option(help="Only units of this status.")] = None,
    payer: Annotated[str | None, typer.Option(help="Only what this payer paid for.")] = None,
    payment: Annotated[str | None, typer.Option(help="All units of this payment, whatever else is said.")] = None,
    token: Annotated[str | None, typer.Option(help="Only of this token.")] = None,
    since: SinceOption = None,
    code: Annotated[str | None, typer.Option(help="Only with this error code, such as token_cap_reached.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Only units that an operator holds by themselves.")] = False,
    limit: LimitOption = 50,
    after: Annotated[str | None, typer.Option(help="Go on below this id, as the last page said.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every page; with --csv.")] = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
) -> None:
    """Units, the newest first, a page at a time."""
    loaded = configuration.load(config, role="tool")
    network = loaded.network.network.caip2
    want = Filter(
        source="held" if held else status.value if status is not None else "all",
        status=None if status is None else status.value,
        payer=output.address(payer),
        token=output.address(token),
        code=code,
        since=output.moment(since),
    )
    begin = NEWEST if after is None else output.uuid_of(after)
    of_payment = None if payment is None else output.uuid_of(payment)
    if every:
        if not as_csv:
            raise OperatorError("--all goes with --csv: a table or a JSON document of everything would not fit")

        async def export(pool: Pool) -> None:
            async with session(pool, "export units") as connection:
                pages = queue_list.every_page(connection, network, want, table="mints", after=begin)
                await queue.export(pages, COLUMNS)

        queue.with_pool(loaded, export)
        return

    async def read(pool: Pool) -> Page:
        async with session(pool, "list units") as connection:
            if of_payment is not None:
                return Page(await queue_list.mints_of_payment(connection, of_payment), None)
            return await queue_list.mints(connection, network, want, after=begin, limit=limit)

    page = queue.with_pool(loaded, read)
    if as_json:
        output.print_json({"mints": [dict(row) for row in page.rows], "next": page.next})
    elif as_csv:
        output.CsvWriter(COLUMNS).write(dict(row) for row in page.rows)
    else:
        headings = ("id", "status", "payment", "unit", "recipient", "created (UTC)", "what")
        queue.show_page(page, headings, _cells)


def _cells(row: asyncpg.Record) -> tuple[Any, ...]:
    what = f"held: {row['held_reason']}" if row["held_reason"] else row["code"] or row["error"] or ""
    return (
        row["id"],
        row["status"],
        row["payment_id"],
        row["unit"],
        output.short_address(row["recipient"]),
        f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
        what,
    )


@app.command()
def show(
    queue_id: Annotated[str, typer.Argument(metavar="ID", help="A unit's id.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """The story of a unit is its payment's: what was paid, each transaction, and what happens next."""
    payments.show(str(output.uuid_of(queue_id)), nonce=None, as_json=as_json, config=config)


@app.command()
def retry(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of units.")],
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Try units at once: those that wait, and those that are owed if there is supply again and no refund."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)

    async def act(connection: Connection, subject: uuid.UUID) -> Done:
        return await by_hand.try_again(connection, subject, actor=who)

    queue.each(loaded, [output.uuid_of(i) for i in ids], act, channel=wake.MINTS, as_json=as_json)
