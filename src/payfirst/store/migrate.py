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
_STEPS_BACK = re.compile(r"-[1-9][0-9]*")

T = TypeVar("T")


class DatabaseTooOld(OperatorError):
    """The server lacks what the tables need."""


class SchemaIsNewer(OperatorError):
    """The tables are those of a newer release, and only that release can change them."""


class RevisionUnknown(OperatorError):
    """No revision of this release has that name, or none where it was looked for."""


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

    Each revision is a transaction of its own, so what was gone through stays where a later one can't have its tables.
    Raises DatabaseTooOld below PostgreSQL 15, DatabaseNotThere when no connection can be made, RevisionUnknown,
    SchemaIsNewer and TablesInUse.
    """
    order = revisions()
    to = order[-1] if revision == "head" else _known(revision, order)

    def steps(stands: str | None) -> tuple[str, ...]:
        if stands is not None and stands not in order:
            if revision == "head":
                return ()
            raise _newer(stands, order[-1])
        return order[_done(stands, order) : _done(to, order)]

    if steps(status(url).current):
        from payfirst.store import alembic_run

        again = "payfirst db upgrade" + ("" if revision == "head" else f" {to}")
        _apart(alembic_run.upgrade(url, steps, again))


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision` (`-1`, `base` or a revision name), as `upgrade` brings it up.

    Raises what `upgrade` and `back_to` do.
    """
    found = status(url)
    order, to = revisions(), back_to(found, revision)

    def steps(stands: str | None) -> tuple[str, ...]:
        if stands is not None and stands not in order:
            raise _newer(stands, order[-1])
        places = ("base", *order)
        return places[_done(to, order) : _done(stands, order)][::-1]

    if steps(found.current):
        from payfirst.store import alembic_run

        _apart(alembic_run.downgrade(url, steps, f"payfirst db downgrade {to}"))


def back_to(found: SchemaStatus, revision: str) -> str:
    """What `revision` (`-1`, `base` or a revision name) is from where a database was found: a name, or `base`.

    Raises RevisionUnknown where it is none, or none before that, and SchemaIsNewer.
    """
    order = revisions()
    if found.is_newer:
        raise _newer(found.current, found.head)
    done = _done(found.current, order)
    if _STEPS_BACK.fullmatch(revision):
        if -int(revision) > done:
            raise RevisionUnknown(f"{revision} goes back too far: the tables stand at {done} of {len(order)} revisions")
        left = done + int(revision)
        return order[left - 1] if left else "base"
    if revision != "base" and _done(_known(revision, order), order) > done:
        raise RevisionUnknown(
            f"{revision} comes after {found.current or 'no revision'}, where the tables stand:"
            f" payfirst db upgrade {revision} goes there"
        )
    return revision


def _known(revision: str, order: tuple[str, ...]) -> str:
    if revision not in order:
        raise RevisionUnknown(f"no revision {revision}: this release has {order[0]} to {order[-1]}")
    return revision


def _done(stands: str | None, order: tuple[str, ...]) -> int:
    """How many revisions are done where the tables stand there."""
    return 0 if stands in (None, "base") else order.index(str(stands)) + 1


def status(url: str) -> SchemaStatus:
    """Where the database at `url` stands; reads only. Raises DatabaseTooOld and DatabaseNotThere."""
    current = _apart(_current(url))
    order = revisions()
    if current is not None and current not in order:
        return SchemaStatus(current, order[-1], ())
    return SchemaStatus(current, order[-1], order[_done(current, order) :])


def _newer(stands: str | None, head: str) -> SchemaIsNewer:
    return SchemaIsNewer(
        f"the database is at {stands}, which this release (up to {head}) does not know:"
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
