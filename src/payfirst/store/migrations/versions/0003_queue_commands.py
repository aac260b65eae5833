"""What the queue commands need: replacements asked for, the base fee seen, how a debt ended, and their indexes.

Only columns that may be empty and partial indexes are added, so the previous release goes on working. Each index
is of few rows, but building it reads its table once, and writers of that table wait so long.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = (
    # Set by a command that holds no key; the worker that holds the signer clears it with the replacement it stores.
    ("chain_transactions", "replace_requested_at", "timestamptz"),
    # Of the newest block: why a bid is not mined can be said without asking the chain.
    ("chain_heads", "base_fee_wei", "numeric(78, 0)"),
    # A debt that ended with its unit's delivery opens again when that is undone; one that was settled by hand never.
    ("owed", "resolution", "text CHECK (resolution IN ('minted', 'tried_again', 'by_hand'))"),
)

INDEXES = {
    "payment_queue_failed": "payment_queue (id) WHERE status = 'failed'",
    "payment_queue_held": "payment_queue (id) WHERE held_reason IS NOT NULL",
    "mint_queue_owed": "mint_queue (id) WHERE status = 'owed'",
    "mint_queue_held": "mint_queue (id) WHERE held_reason IS NOT NULL",
    "audit_log_subject": "audit_log (subject, id)",
}


def upgrade() -> None:
    for table, column, kind in COLUMNS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    op.execute("UPDATE owed SET resolution = 'minted' WHERE status = 'resolved' AND note = 'minted after all'")
    for name, rest in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {rest}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    for table, column, _ in COLUMNS:
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
