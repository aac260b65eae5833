"""The pool, and what its failures mean."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import asyncpg
import asyncpg.pool

from payfirst.errors import OperatorError, StoreUnavailable

STATEMENT_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
# A client that says nothing inside a transaction (its machine sleeps) must not hold row locks: the server ends it.
TRANSACTION_IDLE_S = 5

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# What PostgreSQL says when it cannot serve now, as opposed to when it refuses what was asked.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The driver's word for a connection of the pool that was cut in the middle of what it did before.
    asyncpg.InternalClientError,
)


class DatabaseNotThere(OperatorError):
    """No connection to the configured database could be made."""


@contextlib.contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn PostgreSQL's absence into StoreUnavailable; whether the statement took effect is unknown."""
    try:
        yield
    except UNAVAILABLE as error:
        raise StoreUnavailable(f"{doing}: {type(error).__name__}: {error}") from error


async def connect(url: str, *, name: str, size: int) -> Pool:
    """A pool of up to `size` connections whose application_name is `payfirst <name>`.

    Raises DatabaseNotThere with the driver's words.
    """
    try:
        return await asyncpg.create_pool(
            url,
            min_size=min(2, size),
            max_size=size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={
                "application_name": f"payfirst {name}",
                "jit": "off",
                "idle_in_transaction_session_timeout": f"{TRANSACTION_IDLE_S}s",
            },
        )
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise database_not_there(url, error) from error


def database_not_there(url: str, error: BaseException) -> DatabaseNotThere:
    """The error that names the server (without its password) and what the driver says."""
    where = url.rsplit("@", 1)[-1]
    return DatabaseNotThere(
        f"no connection to the database at {where}: {error}."
        " Check database.url or DATABASE_URL, and that the server runs."
    )


@contextlib.asynccontextmanager
async def transaction(pool: Pool, doing: str) -> AsyncIterator[Connection]:
    """One transaction on one connection; its failures are StoreUnavailable where PostgreSQL is away."""
    with store_errors(doing):
        async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection, connection.transaction():
            yield connection


@contextlib.asynccontextmanager
async def session(pool: Pool, doing: str) -> AsyncIterator[Connection]:
    """One connection, each statement its own transaction."""
    with store_errors(doing):
        async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
            yield connection
