"""The command `payfirst`: each subcommand is a module beside this one."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

import payfirst
from payfirst.cli import db, demo, serve, tokens, up, work
from payfirst.errors import PayfirstError

app = typer.Typer(
    name="payfirst",
    help="An x402 server: payment first, then the mint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(serve.serve)
app.command()(work.work)
app.command()(demo.demo)
app.add_typer(db.app, name="db")
app.add_typer(tokens.app, name="tokens")


@app.command()
def version() -> None:
    """This release."""
    typer.echo(payfirst.__version__)


def main() -> None:
    """Run the command; what the operator can mend is one sentence on stderr and exit code 2."""
    try:
        app()
    except PayfirstError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]payfirst:[/] {error}", markup=True)
        sys.exit(2)
