"""The pool, and what its failures mean."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import asyncpg
import asyncpg.pool

from payfirst.errors import OperatorError, StoreUnavailable
from payfirst.store.connecting import CONNECT_TIMEOUT_S, open_connection

STATEMENT_TIMEOUT_S = 30.0
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
    # What the driver says of a connection that the server has just ended, if it had not noticed yet.
    asyncpg.InternalClientError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A standby that is not promoted yet: after a failover a name or a proxy may lead to it for a while.
    asyncpg.ReadOnlySQLTransactionError,
)


_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:]*)(:[0-9]+)?")


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
    connect_one: Any = open_connection  # by the driver's types it would have to name each option
    try:
        return await asyncpg.create_pool(
            url,
            connect=connect_one,
            min_size=min(2, size),
            max_size=size,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={
                "application_name": f"payfirst {name}",
                "jit": "off",
                "idle_in_transaction_session_timeout": f"{TRANSACTION_IDLE_S}s",
            },
            reset=_leave_as_it_is,
        )
    except (*UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        raise database_not_there(url, error) from error


async def _leave_as_it_is(_connection: Connection) -> None:
    """What a pool runs on a connection that is given back, after it has rolled back what was left open.

    By default that is a statement which forgets settings, locks, cursors and listeners of the session, with a round
    trip of its own each time. Nothing here makes any: a test says so.
    """


def database_not_there(url: str, error: BaseException) -> DatabaseNotThere:
    """The error that names the server and what the driver says, both without the password."""
    credentials, _, rest = url.partition("://")[2].rpartition("@")
    hosts, path = re.match(r"([^/?#]*)(/[^?#]*)?", rest).groups("")  # type: ignore[union-attr]  # it matches anything
    where = ",".join(h if _HOST.fullmatch(h) else h.partition(":")[0] + ":***" for h in hosts.split(","))
    said = str(error)
    # A driver that cannot read a URL may quote the part of it that it stumbled over.
    passwords = [*re.split("[:/?#]", credentials)[1:], *re.findall(r":([^/?#:]*)", rest)]
    passwords += re.findall(r"password=([^&#]*)", url)
    for password in sorted((p for p in passwords if not p.isdigit() and p), key=len, reverse=True):
        said = said.replace(password, "***")
    return DatabaseNotThere(
        f"no connection to the database at {where}{path}: {said}."
        " Check database.url or DATABASE_URL, and that the server runs."
    )


@contextlib.asynccontextmanager
async def transaction(pool: Pool, doing: str, *, lock_timeout_s: int | None = None) -> AsyncIterator[Connection]:
    """One transaction on one connection; its failures are StoreUnavailable where PostgreSQL is away.

    `lock_timeout_s`: how long each statement may wait for a row or table that somebody else has locked.
    """
    async with session(pool, doing) as connection, connection.transaction():
        if lock_timeout_s is not None:
            await connection.execute(f"SET LOCAL lock_timeout = '{lock_timeout_s}s'")
        yield connection


@contextlib.asynccontextmanager
async def session(pool: Pool, doing: str) -> AsyncIterator[Connection]:
    """One connection, each statement its own transaction."""
    with store_errors(doing):
        async with contextlib.AsyncExitStack() as acquired:
            try:
                connection = await acquired.enter_async_context(pool.acquire(timeout=CONNECT_TIMEOUT_S))
            except asyncpg.PostgresError as error:
                # Whatever the words (a password that was changed, a database that is closed): nothing was asked yet.
                raise StoreUnavailable(f"{doing}: {type(error).__name__}: {error}") from error
            yield connection
