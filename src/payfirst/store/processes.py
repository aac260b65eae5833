"""`processes`: which API and worker processes live, and what they measured."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Literal

from payfirst.store.database import Connection

Role = Literal["api", "worker"]

# Rows of processes that have been silent for a day say nothing any more.
SILENT_S_MAX = 86_400
# A process beats once a second.
LIVES_S = 10.0

# beat: this process lives, and this is what it measured.
BEAT = """
INSERT INTO processes (id, role, network, host, pid, stats) VALUES ($1, $2, $3, $4, $5, $6::jsonb)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), stats = excluded.stats
"""

# note_settings: which settings of the table this process goes by, and which it refuses.
NOTE_SETTINGS = "UPDATE processes SET settings = $2::jsonb WHERE id = $1"

# leave: this process has stopped in good order.
LEAVE = "DELETE FROM processes WHERE id = $1"

# forget_silent: rows that nobody will renew.
FORGET_SILENT = "DELETE FROM processes WHERE heartbeat_at < now() - $1 * interval '1 second'"

# read_stats: what the live processes of a role measured.
READ_STATS = """
SELECT id, stats FROM processes
WHERE role = $1 AND network = $2 AND heartbeat_at > now() - interval '10 seconds' ORDER BY started_at
"""

# list_processes: every process that was heard of in the last day, and how long ago.
LIST_PROCESSES = """
SELECT id, role, host, pid, stats, settings, extract(epoch FROM now() - started_at)::float8 AS up_s,
       extract(epoch FROM now() - heartbeat_at)::float8 AS silent_s
FROM processes WHERE network = $1 ORDER BY role, started_at
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is."""

    id: uuid.UUID
    role: Role
    network: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A process; `silent_s` since its last heartbeat, `stats` and `settings` as it wrote them."""

    id: uuid.UUID
    role: Role
    host: str
    pid: int
    up_s: float
    silent_s: float
    stats: dict[str, object]
    settings: dict[str, dict[str, object]]

    @property
    def lives(self) -> bool:
        """Whether it was heard of lately."""
        return self.silent_s < LIVES_S


async def beat(connection: Connection, process: Identity, *, stats_json: str) -> None:
    """Say that this process lives."""
    await connection.execute(BEAT, process.id, process.role, process.network, process.host, process.pid, stats_json)


async def note_settings(connection: Connection, process: Identity, *, settings_json: str) -> None:
    """Say which settings of the table this process has taken up, after its first heartbeat."""
    await connection.execute(NOTE_SETTINGS, process.id, settings_json)


async def read_all(connection: Connection, network: str) -> list[Listed]:
    """Every process of a network, the silent ones too."""
    rows = await connection.fetch(LIST_PROCESSES, network)
    return [
        Listed(
            id=row["id"],
            role=row["role"],
            host=row["host"],
            pid=row["pid"],
            up_s=row["up_s"],
            silent_s=row["silent_s"],
            stats=json.loads(row["stats"]),
            settings=json.loads(row["settings"]),
        )
        for row in rows
    ]


async def leave(connection: Connection, process: Identity) -> None:
    """Say that this process stops."""
    await connection.execute(LEAVE, process.id)


async def forget_silent(connection: Connection) -> None:
    """Drop the rows of processes that died long ago."""
    await connection.execute(FORGET_SILENT, SILENT_S_MAX)


async def stats(connection: Connection, *, role: Role, network: str) -> list[tuple[uuid.UUID, str]]:
    """What each live process of a role measured, as JSON text."""
    rows = await connection.fetch(READ_STATS, role, network)
    return [(row["id"], row["stats"]) for row in rows]
