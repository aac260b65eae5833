"""Running the migrations: alembic on asyncpg. Imported only when tables are to change, because it loads slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from payfirst.errors import OperatorError
from payfirst.store.connecting import open_connection
from payfirst.store.database import UNAVAILABLE, database_not_there

# Two that change the tables at once take turns here, a revision each, instead of colliding in the catalogue. It is the
# transaction's lock: a connection's own would be left behind in a pooler that gives each transaction another one.
_MIGRATION_LOCK = 7_402_402
# A migration that waits for a table stands in front of everybody who wants it after that, and one that has locked a
# table and waits for another may wait for somebody who waits for the first. So it gives way, before PostgreSQL looks
# for deadlocks (after a second) and picks a buyer's request, and begins that revision anew. Each is a transaction of
# its own, so that what the first has locked is free again before the next waits for something else.
LOCK_TIMEOUT_MS = 400
AGAIN_S = 0.5
GIVE_UP_S = 120.0
_GAVE_WAY = frozenset({"55P03", "40P01"})  # lock not available, deadlock detected

# version_table: where alembic keeps its one row; no statement, a name.
VERSION_TABLE = "payfirst_version"

# The revisions to go through, in their order, from where the tables stand (None: nowhere).
Steps: TypeAlias = Callable[[str | None], Sequence[str]]
_Move: TypeAlias = Callable[[Config, str], None]


class TablesInUse(OperatorError):
    """Somebody held the tables all the time, or changes them too; they stand at the last revision gone through."""


async def upgrade(url: str, steps: Steps, again: str) -> None:
    """Bring the database at `url` up, a transaction a step; `again` is the command that goes on where this one stops.

    Raises DatabaseNotThere, TablesInUse and what `steps` does.
    """
    await _walk(url, command.upgrade, steps, again)


async def downgrade(url: str, steps: Steps, again: str) -> None:
    """Take the database at `url` back, as `upgrade` brings it up."""
    await _walk(url, command.downgrade, steps, again)


async def _walk(url: str, move: _Move, steps: Steps, again: str) -> None:
    # The driver reads the URL, as it does everywhere else: SQLAlchemy would not know of `sslmode` and its like.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        async_creator=lambda: open_connection(url),
    )
    try:
        try:
            connection = await engine.connect()
        except (*UNAVAILABLE, asyncpg.PostgresError, DBAPIError) as error:
            raise database_not_there(url, getattr(error, "orig", None) or error) from error
        except ValueError as error:
            raise database_not_there(url, error) from None  # its own words may hold the password
        async with _closing(connection):
            left = None
            while left is None or left:
                left = await _once_it_may(connection, move, steps, left, again)
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def _closing(connection: AsyncConnection) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await connection.close()


async def _once_it_may(
    connection: AsyncConnection, move: _Move, steps: Steps, left_before: int | None, again: str
) -> int:
    """Go through one revision, if any is left, and return how many are then; they must be fewer each time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + GIVE_UP_S
    while True:
        try:
            async with connection.begin():
                return await connection.run_sync(_step, move, steps, left_before, again)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _GAVE_WAY:
                raise
            if loop.time() >= until:
                sentence = (
                    f"the tables were in use for {GIVE_UP_S:.0f} s, and nothing is half done: end what holds them"
                    " (SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start), and run"
                    f" {again}; payfirst db status tells where they stand"
                )
                raise TablesInUse(sentence) from error
        await asyncio.sleep(AGAIN_S)


def _step(connection: Connection, move: _Move, steps: Steps, left_before: int | None, again: str) -> int:
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    # Whoever waited for another one begins where that one ended.
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    stands = context.get_current_revision()
    to_do = steps(stands)
    if left_before is not None and len(to_do) > left_before:
        raise TablesInUse(
            f"another process takes the tables the other way, they stand at {stands or 'no revision'}:"
            f" wait until it has ended, and run {again} where that is still wanted"
        )
    if not to_do:
        return 0
    config = Config()
    config.set_main_option("script_location", "payfirst:store/migrations")
    config.attributes["connection"] = connection
    move(config, to_do[0])
    return len(to_do) - 1
