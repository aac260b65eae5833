"""What the subcommands share: where the configuration is, and the database it names."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import structlog
import typer

from payfirst.config import Config
from payfirst.errors import OperatorError
from payfirst.local.postgres import embedded
from payfirst.ops import log
from payfirst.store import migrate

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The TOML file. Default: PAYFIRST_CONFIG, then ./payfirst.toml.", exists=False),
]


class SchemaOutOfDate(OperatorError):
    """The database's tables are not those of this release."""


@contextlib.contextmanager
def database(config: Config) -> Iterator[str]:
    """The URL of the configured database, or of the embedded one, which runs while it is used."""
    if config.database.url:
        yield config.database.url
        return
    with embedded(config.data_dir / "postgres") as url:
        yield url


def operator() -> str:
    """Who runs this command, as audit_log names them: account@host."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's account without a name
        account = str(os.getuid())
    return f"{account}@{socket.gethostname()}"


def demand_current_schema(url: str) -> None:
    """Return if this release can run on the tables: they are its own, or a newer release's. Raises SchemaOutOfDate."""
    found = migrate.status(url)
    if found.is_current:
        return
    if found.is_newer:
        _warn(
            f"The database is at {found.current}, which a newer release made; this one (up to {found.head}) goes on"
            " with what it knows of it"
        )
        return
    raise SchemaOutOfDate(
        f"the database is at {found.current or 'no revision'}, this release needs {found.head}:"
        " run `payfirst db upgrade` first"
    )


def _warn(message: str) -> None:
    """In the log of a process that has one; a command says it on standard error, apart from what it was asked for."""
    if structlog.is_configured():
        log.get_logger().warning("schema_is_newer", message=message)
    else:
        typer.echo(f"payfirst: {message}", err=True)
