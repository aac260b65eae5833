"""Running the migrations: alembic on asyncpg. Imported only when tables are to change, because it loads slowly."""

from __future__ import annotations

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

from payfirst.store.connecting import open_connection
from payfirst.store.database import UNAVAILABLE, database_not_there

# Two processes that upgrade at once wait for each other here instead of colliding in the catalogue.
_MIGRATION_LOCK = 7_402_402


async def upgrade(url: str, revision: str) -> None:
    """Bring the database at `url` up to `revision`. Raises DatabaseNotThere."""
    await _with_connection(url, lambda connection: command.upgrade(_config(connection), revision))


async def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision`. Raises DatabaseNotThere."""
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
        async with _closing(connection), connection.begin():
            await connection.run_sync(_locked, act)
    finally:
        await engine.dispose()


def _locked(connection: Connection, act: Callable[[Connection], None]) -> None:
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    act(connection)
