"""What workers say of changed payments arrives whole, however many there are."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable

from payfirst.store import wake
from payfirst.store.database import Pool

# More than fit into one NOTIFY, several times over.
MANY = 2_000


async def test_thousands_of_ids_arrive(database_url: str, pool: Pool) -> None:
    """In several payloads below PostgreSQL's limit, in one commit."""
    said = {uuid.uuid4() for _ in range(MANY)}
    heard: set[uuid.UUID] = set()
    connected, all_heard = asyncio.Event(), asyncio.Event()

    def changed(ids: Iterable[uuid.UUID]) -> None:
        heard.update(ids)
        if len(heard) >= MANY:
            all_heard.set()

    notifier = wake.ChangeNotifier(pool)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(notifier.run()),
            group.create_task(wake.listen_to_changes(database_url, changed=changed, connected=connected.set)),
        ]
        async with asyncio.timeout(10):
            await connected.wait()
            notifier.changed(said)
            await all_heard.wait()
        for task in tasks:
            task.cancel()
    assert heard == said
