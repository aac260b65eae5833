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

# Two that change the tables at once go one after the other, each until it is through. The lock is the connection's and
# not a transaction's, or one that goes up and one that goes down would take turns for ever.
_MIGRATION_LOCK = 7_402_402
# A migration that waits for a table stands in front of everybody who wants it after that, and one that has locked a
# table and waits for another may wait for somebody who waits for the first. So it gives way, before PostgreSQL looks
# for deadlocks (after a second) and picks a buyer's request, and begins that revision anew. Each is a transaction of
# its own, so that what the first has locked is free again before the next waits for something else.
LOCK_TIMEOUT_MS = 400
AGAIN_S = 0.5
GIVE_UP_S = 120.0
_GAVE_WAY = frozenset({"55P03", "40P01"})  # lock not available, deadlock detected

VERSION_TABLE = "payfirst_version"

# The revisions to go through, in their order, from where the tables stand (None: nowhere).
Steps: TypeAlias = Callable[[str | None], Sequence[str]]
_Move: TypeAlias = Callable[[Config, str], None]


class TablesInUse(OperatorError):
    """Somebody held the tables all the time; they stand at the last revision that was gone through."""


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
            stands = await _alone(connection)
            for revision in steps(stands):
                await _once_it_may(connection, move, revision, f"they stand at {stands or 'no revision'}", again)
                stands = revision
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def _closing(connection: AsyncConnection) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await connection.close()


async def _alone(connection: AsyncConnection) -> str | None:
    """Wait until nobody else changes the tables, and for as long as the connection lives; then, where they stand."""
    async with connection.begin():
        await connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
    async with connection.begin():  # what the other did is seen by a transaction that begins after it
        return await connection.run_sync(_standing)


def _standing(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


async def _once_it_may(connection: AsyncConnection, move: _Move, revision: str, stand: str, again: str) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + GIVE_UP_S
    while True:
        try:
            async with connection.begin():
                await connection.run_sync(_step, move, revision)
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _GAVE_WAY:
                raise
            if loop.time() >= until:
                sentence = (
                    f"the tables were in use for {GIVE_UP_S:.0f} s; {stand}, and nothing is half done: end what holds"
                    " them (SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start), and run"
                    f" {again}"
                )
                raise TablesInUse(sentence) from error
        await asyncio.sleep(AGAIN_S)


def _step(connection: Connection, move: _Move, revision: str) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'"))
    config = Config()
    config.set_main_option("script_location", "payfirst:store/migrations")
    config.attributes["connection"] = connection
    move(config, revision)
