"""`settings`: what an operator set in a running system. It goes before file and environment; see `config/live.py`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass

from payfirst.store.database import Connection

# read_settings: the whole table; a dozen rows at the most.
READ_SETTINGS = "SELECT key, value FROM settings ORDER BY key"

# list_settings: the same for people.
LIST_SETTINGS = "SELECT key, value, updated_by, updated_at FROM settings ORDER BY key"

# set_setting: from now on this value, whatever file and environment say.
SET_SETTING = """
INSERT INTO settings (key, value, updated_by) VALUES ($1, $2::jsonb, $3)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_by = excluded.updated_by, updated_at = now()
"""

# unset_setting: file and environment say again.
UNSET_SETTING = "DELETE FROM settings WHERE key = $1 RETURNING value"

# lock_settings: one change after the other, because a value is judged beside the others.
LOCK_SETTINGS = "LOCK TABLE settings IN SHARE ROW EXCLUSIVE MODE"


@dataclass(frozen=True, slots=True)
class StoredSetting:
    """One row; `value` is JSON's."""

    setting: str
    value: object
    updated_by: str
    updated_at: dt.datetime


async def read(connection: Connection) -> dict[str, object]:
    """What the table holds, by setting."""
    return {row["key"]: json.loads(row["value"]) for row in await connection.fetch(READ_SETTINGS)}


async def read_all(connection: Connection) -> list[StoredSetting]:
    """What the table holds, with who set it and when."""
    rows = await connection.fetch(LIST_SETTINGS)
    return [StoredSetting(r["key"], json.loads(r["value"]), r["updated_by"], r["updated_at"]) for r in rows]


async def lock(connection: Connection) -> Mapping[str, object]:
    """What the table holds, unchanged by others until this transaction ends."""
    await connection.execute(LOCK_SETTINGS)
    return await read(connection)


async def put(connection: Connection, setting: str, value: object, *, by: str) -> None:
    """Set a value; `by` is who does it."""
    await connection.execute(SET_SETTING, setting, json.dumps(value), by)


async def remove(connection: Connection, setting: str) -> object | None:
    """Unset it; the value it had, None where it was not set."""
    found = await connection.fetchval(UNSET_SETTING, setting)
    return None if found is None else json.loads(found)
