"""Migrations up and down, and where a database stands."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from payfirst.errors import OperatorError
from payfirst.store.database import UNAVAILABLE, database_not_there

SERVER_VERSION_MIN = 150_000  # PostgreSQL 15: NULLS NOT DISTINCT

# Two processes that upgrade at once wait for each other here instead of colliding in the catalogue.
_MIGRATION_LOCK = 7_402_402


class DatabaseTooOld(OperatorError):
    """The server lacks what the tables need."""


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


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` (postgresql://…) up to `revision`.

    Raises DatabaseTooOld below PostgreSQL 15, and DatabaseNotThere when no connection can be made.
    """
    _with_connection(url, lambda connection: command.upgrade(_config(connection), revision))


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision` (`-1`, `base` or a revision name)."""
    _with_connection(url, lambda connection: command.downgrade(_config(connection), revision))


def status(url: str) -> SchemaStatus:
    """Where the database at `url` stands; reads only."""
    found: list[SchemaStatus] = []

    def read(connection: Connection) -> None:
        context = MigrationContext.configure(connection, opts={"version_table": "payfirst_version"})
        current = context.get_current_revision()
        scripts = ScriptDirectory.from_config(_config(connection))
        head = scripts.get_current_head() or ""
        pending = [s.revision for s in scripts.iterate_revisions("head", current or "base")]
        found.append(SchemaStatus(current, head, tuple(reversed(pending))))

    _with_connection(url, read)
    return found[0]


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


def _with_connection(url: str, act: Callable[[Connection], None]) -> None:
    async def run() -> None:
        # The driver reads the URL, as it does everywhere else: SQLAlchemy would not know of `sslmode` and its like.
        engine = create_async_engine(
            "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: asyncpg.connect(url)
        )
        try:
            try:
                connection = await engine.connect()
            except (*UNAVAILABLE, asyncpg.PostgresError, DBAPIError, ValueError) as error:
                raise database_not_there(url, getattr(error, "orig", None) or error) from error
            async with _closing(connection), connection.begin():
                await connection.run_sync(guarded)
        finally:
            await engine.dispose()

    def guarded(connection: Connection) -> None:
        version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        if version < SERVER_VERSION_MIN:
            raise DatabaseTooOld(f"PostgreSQL 15 or later is needed; this server is {version // 10_000}")
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        act(connection)

    # A thread of its own, because callers may stand inside a running event loop.
    failure: list[BaseException] = []

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, just below
            failure.append(error)

    thread = threading.Thread(target=main, name="payfirst-migrate")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
