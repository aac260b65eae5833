"""Which rows the signers of one process work with, so that no two of them work with the same."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Generic, Protocol, TypeVar


class HasId(Protocol):
    """A row of a queue."""

    @property
    def id(self) -> uuid.UUID:
        """Its key."""
        ...


Row = TypeVar("Row", bound=HasId)


class UnderWay(Generic[Row]):
    """One for each purpose. Between processes the database tells who works with what (`store/claims.py`)."""

    def __init__(self) -> None:
        self._ids: set[uuid.UUID] = set()
        self._taking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def taken(self, take: Callable[[Collection[uuid.UUID]], Awaitable[list[Row]]]) -> AsyncIterator[list[Row]]:
        """What `take` finds besides the rows that it is given; nobody else here is given those until the block ends."""
        async with self._taking:
            rows = await take(self._ids)
            ids = {row.id for row in rows}
            self._ids |= ids
        try:
            yield rows
        finally:
            self._ids -= ids
