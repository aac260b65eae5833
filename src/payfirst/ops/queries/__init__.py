"""The operators' queries, as they run them in psql: one file each, with what to expect in its first line.

Where payments share a transaction, a join on `tx_hash` counts every mint of that transaction for each of them; the
`-exact` twins join on `payment_id`.
"""

from __future__ import annotations

from importlib import resources

READ_ONLY = (
    "queue-status",
    "mints-by-payment-status",
    "mints-by-payment-status-exact",
    "unpaid-mints",
    "stuck-in-sent",
    "completed-without-mints",
    "completed-without-mints-exact",
)
# Changes rows: for a rollback only, and never run by payfirst.
ROLLBACK = "rollback-stuck-states"


def text(name: str) -> str:
    """The SQL of one query, as it stands in its file. Raises FileNotFoundError for an unknown name."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
