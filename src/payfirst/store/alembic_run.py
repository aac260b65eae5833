"""Running the migrations: alembic on asyncpg. Imported only when tables are to change, because it loads slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from payfirst.errors import OperatorError
from payfirst.store.connecting import open_connection
from payfirst.store.database import UNAVAILABLE, database_not_there

# Two processes that upgrade at once wait for each other here instead of colliding in the catalogue.
_MIGRATION_LOCK = 7_402_402
# A migration that waits for a table stands in front of everybody who wants it after that, and one that has locked a
# table and waits for another may wait for somebody who waits for the first. So it gives way, before PostgreSQL looks
# for deadlocks (after a second) and picks a buyer's request, and begins anew: all of it is one transaction.
LOCK_TIMEOUT_MS = 400
AGAIN_S = 0.5
GIVE_UP_S = 120.0
_GAVE_WAY = frozenset({"55P03", "40P01"})  # lock not available, deadlock detected


class TablesInUse(OperatorError):
    """Somebody held the tables all the time; nothing was changed."""


async def upgrade(url: str, revision: str) -> None:
    """Bring the database at `url` up to `revision`. Raises DatabaseNotThere and TablesInUse."""
    await _with_connection(url, lambda connection: command.upgrade(_config(connection), revision))


async def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision`. Raises DatabaseNotThere and TablesInUse."""
    await _with_connection(url, lambda connection: command.downgrade(_config(connection), revision))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "payfirst:store/migrations")
    config.attributes["connection"] = connection
    return config


@contextlib.asynccontextmanager
async def _closing(connection: AsyncConnection) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await connection.close()


async def _with_connection(url: str, act: Callable[[Connection], None]) -> None:
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
            await _once_it_may(connection, act)
    finally:
        await engine.dispose()


async def _once_it_may(connection: AsyncConnection, act: Callable[[Connection], None]) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + GIVE_UP_S
    while True:
        try:
            async with connection.begin():
                await connection.run_sync(_locked, act)
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _GAVE_WAY:
                raise
            if loop.time() >= until:
                sentence = (
                    f"the tables were in use for {GIVE_UP_S:.0f} s, and nothing was changed: end what holds them"
                    " (SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start), and try again"
                )
                raise TablesInUse(sentence) from error
        await asyncio.sleep(AGAIN_S)


def _locked(connection: Connection, act: Callable[[Connection], None]) -> None:
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'"))
    act(connection)
