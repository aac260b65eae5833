"""What the commands that list things share: tables for people, JSON and CSV for programs, and who is acting."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import getpass
import json
import os
import re
import socket
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from payfirst.errors import OperatorError
from payfirst.units import Address, checksum_address, parse_address, utc_text

console = Console(highlight=False, soft_wrap=True)

ActorOption = Annotated[
    str | None, typer.Option("--actor", help="Who does this, for the audit log. Default: user@host.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="CSV, for spreadsheets.")]
SinceOption = Annotated[
    str | None, typer.Option(help="Only what is newer: 15m, 2h, 3d, or a time such as 2026-01-31T12:00 (UTC).")
]
LimitOption = Annotated[int, typer.Option(help="Rows of one page.", min=1, max=10_000)]

_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_SPAN_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# A cell that begins so is a formula to a spreadsheet, and contracts choose the letters of their errors.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def actor(given: str | None) -> str:
    """Who is acting: as given, or the operating system's user at this host."""
    if given is not None:
        if not given.strip():
            raise OperatorError("--actor needs a name")
        return given.strip()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in a container
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def moment(text: str | None, *, option: str = "--since") -> dt.datetime | None:
    """The begin of a span such as 2h, or a time as it is written."""
    if text is None:
        return None
    if (span := _SPAN.fullmatch(text)) is not None:
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(span.group(1)) * _SPAN_S[span.group(2)])
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise OperatorError(f"{option} takes 15m, 2h, 3d or a time such as 2026-01-31T12:00, not {text!r}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


def address(text: str | None) -> Address | None:
    """An address as an operator types it, where one is typed."""
    return None if text is None else one_address(text)


def one_address(text: str) -> Address:
    """An address as an operator types it. Raises OperatorError."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise OperatorError(str(error)) from error


def uuid_of(text: str) -> uuid.UUID:
    """An id of a payment or a unit."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise OperatorError(f"that is no id: {text!r} (payfirst payments list shows them)") from None


def printable(value: object) -> str:
    """A value on one line that cannot speak to a terminal: contracts and nodes choose some of the letters."""
    text = _plain_text(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain_text(value: object) -> str:
    plain = plain_value(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain)


def plain_value(value: object) -> object:
    """A value as JSON knows it: names in camelCase, times as RFC 3339, big numbers and ids as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_camel(f.name): plain_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_camel(str(name)): plain_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dt.datetime):
        return utc_text(value)
    if isinstance(value, Decimal):
        return str(int(value))
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def print_json(value: object) -> None:
    """One JSON document."""
    typer.echo(json.dumps(plain_value(value)))


class CsvWriter:
    """CSV on standard output (RFC 4180), a header first; no cell is a formula."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._writer = csv.writer(sys.stdout, lineterminator="\r\n")
        self._writer.writerow([_camel(column) for column in columns])

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append rows; a column that a row does not have stays empty."""
        self._writer.writerows([[_cell(row[column]) for column in self._columns] for row in rows])


def _cell(value: object) -> str:
    text = _plain_text(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table of values as they are."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(printable(value)) for value in row))
    show(table)


def show(table: Table) -> None:
    """Print a table; in a pipe no cell is broken into lines, whatever the width of the terminal behind it."""
    (console if console.is_terminal else Console(highlight=False, width=1_000)).print(table)


def say(text: str) -> None:
    """A line for people."""
    console.print(escape(printable(text)))


def short_address(text: str) -> str:
    """An address from the database in its checksummed form."""
    return checksum_address(parse_address(text))
