"""What workers say of changed payments arrives whole, however many there are, and on a link that lives."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterable

from faults.rig.postgres_proxy import postgres_proxy

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


CHECK_S = 0.2
CHECKS = 5


async def test_a_listener_whose_link_has_died_in_silence_makes_another(database_url: str, pool: Pool) -> None:
    """Nothing tells it, so it asks; until then, however often it asks, it stays with the link that it has."""
    heard: set[uuid.UUID] = set()
    connections = 0

    def connected() -> None:
        nonlocal connections
        connections += 1

    async with postgres_proxy(database_url) as wire, asyncio.timeout(10):
        listening = asyncio.create_task(
            wake.listen_to_changes(wire.url, changed=heard.update, connected=connected, check_s=CHECK_S)
        )
        while wire.seen.count("SELECT 1") < CHECKS:  # noqa: ASYNC110 - a wire has no event
            await asyncio.sleep(0.01)
        assert connections == 1
        wire.freeze()
        while connections == 1:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        said = uuid.uuid4()
        async with pool.acquire() as connection:
            await wake.say_changed(connection, [said])
        while said not in heard:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        assert connections == 2
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
