"""`audit_log`: who changed what by hand, and when. Rows are only ever added."""

from __future__ import annotations

import json
from collections.abc import Mapping

from payfirst.store.database import Connection

# record_action: one line of the log, in the transaction that does what it tells of.
RECORD_ACTION = "INSERT INTO audit_log (actor, action, subject, details) VALUES ($1, $2, $3, $4::jsonb)"


async def record(
    connection: Connection, *, actor: str, action: str, subject: str, details: Mapping[str, object]
) -> None:
    """Note that `actor` did `action` to `subject`; `details` is what JSON can hold, and holds no secret."""
    await connection.execute(RECORD_ACTION, actor, action, subject, json.dumps(details))
