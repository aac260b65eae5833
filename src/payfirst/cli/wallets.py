"""`payfirst wallets`: payers that are set apart because their account's code burned gas, and letting them in again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from payfirst import config as configuration
from payfirst.cli import output, queue
from payfirst.cli.output import ActorOption, CsvOption, JsonOption, LimitOption
from payfirst.cli.settings import ConfigOption
from payfirst.errors import OperatorError
from payfirst.store import audit_log, wallets
from payfirst.store.by_hand import Done
from payfirst.store.database import Connection, Pool, session
from payfirst.units import Address, checksum_address, hex_text, parse_address

COLUMNS = ("payer", "burns", "unsettled", "created_at", "until")

app = typer.Typer()


@app.command("list")
def list_quarantined(
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    config: ConfigOption = None,
) -> None:
    """Who is set apart, the longest to come first: settled alone, or refused after a burn of their own."""
    loaded = configuration.load(config, role="tool")
    rows = _read(loaded, limit=limit)
    if as_json:
        output.print_json([dict(row) for row in rows])
    elif as_csv:
        output.CsvWriter(COLUMNS).write(rows)
    elif not rows:
        output.say("No payer is set apart")
    else:
        output.print_table(
            ("payer", "own burns", "new payments", "unsettled", "since (UTC)", "until (UTC)"), map(_cells, rows)
        )


def _cells(row: Any) -> tuple[object, ...]:
    return (
        output.short_address(row["payer"]),
        row["burns"],
        "refused" if row["burns"] else "settled alone",
        row["unsettled"],
        f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
        f"{row['until']:%Y-%m-%d %H:%M:%S}",
    )


@app.command()
def release(
    payers: Annotated[
        list[str] | None, typer.Argument(metavar="ADDRESS…", help="Payers, as wallets list shows them.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Each one that is set apart, up to 1,000 at once.")] = False,
    as_json: JsonOption = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
) -> None:
    """Let payers in again before their time is over. What failed meanwhile stays failed."""
    loaded, who = configuration.load(config, role="tool"), output.actor(actor)
    if bool(payers) == every:
        raise OperatorError("name the payers, or say --all: payfirst wallets list shows them")
    network = loaded.network.network.caip2
    if every:
        wanted = [parse_address(row["payer"]) for row in _read(loaded, limit=queue.IDS_MAX)]
    else:
        wanted = list(dict.fromkeys(output.one_address(text) for text in payers or ()))

    async def act(connection: Connection, payer: Address) -> Done:
        burns = await wallets.release(connection, network=network, payer=payer)
        shown = checksum_address(payer)
        if burns is None:
            return Done(shown, False, "is not set apart (payfirst wallets list)")
        await audit_log.record(
            connection,
            actor=who,
            action="wallets.release",
            subject=hex_text(payer),
            details={"network": network, "burns": burns},
        )
        return Done(shown, True, "no longer set apart; with code in its account it is settled alone as ever")

    queue.each(loaded, wanted, act, channel=None, as_json=as_json)


def _read(loaded: configuration.Config, *, limit: int) -> list[Any]:
    async def read(pool: Pool) -> list[Any]:
        async with session(pool, "list who is set apart") as connection:
            return await wallets.listed(connection, loaded.network.network.caip2, limit=limit)

    return queue.with_pool(loaded, read)
