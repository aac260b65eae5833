"""Migrations up and down, and where a database stands. Looking is cheap: every command does it when it starts."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncpg

from payfirst.errors import OperatorError
from payfirst.store.connecting import open_connection
from payfirst.store.database import UNAVAILABLE, database_not_there

SERVER_VERSION_MIN = 150_000  # PostgreSQL 15: NULLS NOT DISTINCT
VERSIONS = Path(__file__).parent / "migrations" / "versions"

# current_revision: where the tables stand; alembic keeps one row.
CURRENT_REVISION = "SELECT version_num FROM payfirst_version"

_REVISION = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_DOWN_REVISION = re.compile(r'^down_revision = (?:"(\w+)"|None)$', re.MULTILINE)

T = TypeVar("T")


class DatabaseTooOld(OperatorError):
    """The server lacks what the tables need."""


class SchemaIsNewer(OperatorError):
    """The tables are those of a newer release, and only that release can change them."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands: `current` and `head` are revision names, None before the first upgrade."""

    current: str | None
    head: str
    pending: tuple[str, ...]

    @property
    def is_current(self) -> bool:
        """Whether the tables are those this release was written for."""
        return self.current == self.head

    @property
    def is_newer(self) -> bool:
        """Whether a newer release has upgraded the tables. They keep what this one uses, so it runs on them too."""
        return self.current is not None and not self.is_current and not self.pending


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` (postgresql://…) up to `revision`; to head is nothing to do where it is beyond that.

    Raises DatabaseTooOld below PostgreSQL 15, DatabaseNotThere when no connection can be made, and SchemaIsNewer.
    """
    from payfirst.store import alembic_run

    found = status(url)
    if found.is_newer:
        if revision == "head":
            return
        raise _newer(found)
    _apart(alembic_run.upgrade(url, revision))


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision` (`-1`, `base` or a revision name). Raises SchemaIsNewer."""
    from payfirst.store import alembic_run

    found = status(url)
    if found.is_newer:
        raise _newer(found)
    _apart(alembic_run.downgrade(url, revision))


def status(url: str) -> SchemaStatus:
    """Where the database at `url` stands; reads only. Raises DatabaseTooOld and DatabaseNotThere."""
    current = _apart(_current(url))
    order = revisions()
    if current is not None and current not in order:
        return SchemaStatus(current, order[-1], ())
    done = 0 if current is None else order.index(current) + 1
    return SchemaStatus(current, order[-1], order[done:])


def _newer(found: SchemaStatus) -> SchemaIsNewer:
    return SchemaIsNewer(
        f"the database is at {found.current}, which this release (up to {found.head}) does not know:"
        " run this with the release that upgraded it"
    )


def revisions() -> tuple[str, ...]:
    """The names of this release's revisions, the first one first, as their files say."""
    after: dict[str | None, str] = {}
    for path in VERSIONS.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        revision, down = _REVISION.search(source), _DOWN_REVISION.search(source)
        if revision is None or down is None:
            raise ValueError(f"{path.name} names no revision and the one before it")
        if down.group(1) in after:
            raise ValueError(f"{path.name} and {after[down.group(1)]} both come after {down.group(1)}")
        after[down.group(1)] = revision.group(1)
    order: list[str] = []
    while (following := after.get(order[-1] if order else None)) is not None:
        order.append(following)
    return tuple(order)


async def _current(url: str) -> str | None:
    try:
        connection = await open_connection(url)
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise database_not_there(url, error) from error
    try:
        version = int(await connection.fetchval("SHOW server_version_num"))
        if version < SERVER_VERSION_MIN:
            raise DatabaseTooOld(f"PostgreSQL 15 or later is needed; this server is {version // 10_000}")
        found: str | None = await connection.fetchval(CURRENT_REVISION)
        return found
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()


def _apart(work: Coroutine[None, None, T]) -> T:
    """Run it in a thread of its own, because callers may stand inside a running event loop."""
    done: list[T] = []
    failure: list[BaseException] = []

    def main() -> None:
        try:
            done.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, just below
            failure.append(error)

    thread = threading.Thread(target=main, name="payfirst-migrate")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return done[0]
