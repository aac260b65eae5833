"""`payfirst db`: the tables, up and down."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from payfirst import config as configuration
from payfirst.cli import archiving, settings
from payfirst.cli.settings import ConfigOption
from payfirst.errors import OperatorError
from payfirst.local.postgres import redacted
from payfirst.store import migrate
from payfirst.store import roles as database_roles

app = typer.Typer()
console = Console(highlight=False, soft_wrap=True)


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="A revision, or head.")] = "head", config: ConfigOption = None
) -> None:
    """Bring the tables up to this release. Harmless when they are."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        before = migrate.status(url).current
        migrate.upgrade(url, revision)
        now = migrate.status(url)
        refreshed = now.is_current and asyncio.run(database_roles.refresh(url))
    if now.is_newer:
        console.print(f"{redacted(url)}: {now.current} is a newer release's: nothing to do for this one ({now.head})")
    else:
        console.print(f"{redacted(url)}: {before or 'empty'} → {now.current}")
    if refreshed:
        console.print(f"{', '.join(database_roles.ROLES)} have the rights of this release")


@app.command()
def roles(
    config: ConfigOption = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
) -> None:
    """Make the database roles of API, workers and onlookers, each with only the rights it needs. Harmless again."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        settings.demand_current_schema(url)
        if migrate.status(url).is_newer:  # its tables are not known here, and their rights would be taken back
            raise OperatorError("the tables are a newer release's: run payfirst db roles of that release")
        if sql:
            for statement in asyncio.run(database_roles.script(url)):
                typer.echo(f"{statement};")
            return
        made = asyncio.run(database_roles.apply(url))
    for role in database_roles.ROLES:
        console.print(f"{role}: {'made, without a password' if role in made else 'was there'}, has its rights")
    if made:
        console.print("Give each a password of its own with psql: \\password payfirst_api")


@app.command()
def archive(
    config: ConfigOption = None,
    older_than: Annotated[
        str, typer.Option("--older-than", help="30d, 12h (1h at least) or a time: what ended before.")
    ] = "30d",
    batch: Annotated[int, typer.Option("--batch", min=1, max=10_000, help="Payments a transaction.")] = 500,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Move payments that nothing can change any more, with their units, to the history. API and workers may run.

    Final and minted, or failed and expired, with no debt open. They are found and shown as before. Harmless to stop.
    """
    archiving.archive_old(config, older_than=older_than, batch=batch, dry_run=dry_run, as_json=as_json)


# -1 is a revision, not an option.
@app.command(context_settings={"ignore_unknown_options": True})
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision, -1 for one step, or base for none.")],
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the tables back. What only the newer tables could hold is lost."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        found = migrate.status(url)
        to = migrate.back_to(found, revision)
        before = found.current or "empty"
        if not yes and to != (found.current or "base"):
            typer.confirm(f"Take {redacted(url)} from {before} back to {to}?", abort=True)
        migrate.downgrade(url, to)
        after = migrate.status(url).current
    console.print(f"{redacted(url)}: {before} → {after or 'empty'}")


@app.command()
def status(config: ConfigOption = None) -> None:
    """Where the tables stand; exit code 1 when they are not this release's."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        found = migrate.status(url)
    console.print(f"{redacted(url)}: {found.current or 'empty'}, this release: {found.head}")
    if found.is_newer:
        console.print("a newer release made it: this one runs on it, with a warning")
    if found.pending:
        console.print(f"to do: {', '.join(found.pending)} (payfirst db upgrade)")
    raise typer.Exit(0 if found.is_current else 1)
