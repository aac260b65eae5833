"""`payfirst db`: the tables, up and down."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from payfirst import config as configuration
from payfirst.cli import settings
from payfirst.cli.settings import ConfigOption
from payfirst.local.postgres import redacted
from payfirst.store import migrate

app = typer.Typer(help="The database's tables.", no_args_is_help=True)
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
        after = migrate.status(url).current
    console.print(f"{redacted(url)}: {before or 'empty'} → {after}")


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision, -1 for one step, or base for none.")],
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the tables back. What only the newer tables could hold is lost."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        before = migrate.status(url).current
        if not yes:
            typer.confirm(f"Take {redacted(url)} from {before} back to {revision}?", abort=True)
        migrate.downgrade(url, revision)
        after = migrate.status(url).current
    console.print(f"{redacted(url)}: {before} → {after or 'empty'}")


@app.command()
def status(config: ConfigOption = None) -> None:
    """Where the tables stand; exit code 1 when they are not this release's."""
    loaded = configuration.load(config, role="tool")
    with settings.database(loaded) as url:
        found = migrate.status(url)
    console.print(f"{redacted(url)}: {found.current or 'empty'}, this release: {found.head}")
    if found.pending:
        console.print(f"to do: {', '.join(found.pending)} (payfirst db upgrade)")
    raise typer.Exit(0 if found.is_current else 1)
