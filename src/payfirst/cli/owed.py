"""`payfirst owed`: what was paid for and not delivered, or delivered and no longer paid for."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from payfirst import config as configuration
from payfirst.cli import output, queue
from payfirst.cli.output import ActorOption, CsvOption, JsonOption, LimitOption
from payfirst.cli.settings import ConfigOption
from payfirst.errors import OperatorError
from payfirst.store import by_hand, queue_list
from payfirst.store.by_hand import Done
from payfirst.store.database import Connection, Pool, session
from payfirst.units import AtomicAmount, format_units

COLUMNS = (
    "id", "status", "direction", "payment_id", "unit", "reason", "asset", "amount", "beneficiary", "resolution", "note",
    "created_at", "resolved_at",
)  # fmt: skip
ID_MAX = 2**63 - 1

app = typer.Typer()


class Status(Enum):
    """Which debts to list."""

    OPEN = "open"
    REFUNDED = "refunded"
    RESOLVED = "resolved"
    ALL = "all"


class Direction(Enum):
    """To whom."""

    TO_BUYER = "to_buyer"
    TO_SELLER = "to_seller"


@app.command("list")
def list_owed(
    status: Annotated[Status, typer.Option(help="Which debts.")] = Status.OPEN,
    direction: Annotated[Direction | None, typer.Option(help="To whom.")] = None,
    limit: LimitOption = 50,
    after: Annotated[int, typer.Option(help="Go on below this id, as the last page said.", min=1)] = ID_MAX,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
) -> None:
    """Debts, the newest first, a page at a time."""
    loaded = configuration.load(config, role="tool")

    async def read(pool: Pool) -> list[Any]:
        async with session(pool, "list debts") as connection:
            return await queue_list.owed(
                connection,
                loaded.network.network.caip2,
                status=None if status is Status.ALL else status.value,
                direction=None if direction is None else direction.value,
                after=after,
                limit=limit,
            )

    rows = queue.with_pool(loaded, read)
    following = rows[-1]["id"] if len(rows) == limit else None
    if as_json:
        output.print_json({"owed": [dict(row) for row in rows], "next": following})
        return
    if as_csv:
        output.CsvWriter(COLUMNS).write(rows)
        return
    output.print_table(
        ("id", "status", "to", "amount", "payment", "unit", "reason", "since (UTC)", "note"),
        [_cells(row, loaded.asset.decimals) for row in rows],
    )
    if following is not None:
        output.say(f"more: --after {following}")


def _cells(row: Any, decimals: int) -> tuple[object, ...]:
    return (
        row["id"],
        row["status"],
        output.short_address(row["beneficiary"]),
        format_units(AtomicAmount(int(row["amount"])), decimals=decimals),
        row["payment_id"],
        row["unit"],
        row["reason"],
        f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
        row["note"],
    )


@app.command()
def resolve(
    ids: Annotated[list[int], typer.Argument(metavar="ID…", help="Ids of debts, as owed list shows them.")],
    note: Annotated[str, typer.Option(help="How it was settled, such as the hash of your refund.")],
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Note that you have settled debts outside payfirst. Their units are not tried again."""
    loaded, who, words = configuration.load(config, role="tool"), output.actor(actor), note.strip()
    if not words:
        raise OperatorError("--note needs words: how was it settled?")

    async def act(connection: Connection, owed_id: int) -> Done:
        return await by_hand.resolve(connection, owed_id, note=words, actor=who)

    queue.each(loaded, ids, act, channel=None, as_json=as_json)
