"""How many rows share a payment or a transaction: said, because PostgreSQL's sample cannot tell.

ANALYZE reads whole pages, and rows of one payment or one transaction lie side by side in them: of ten million payments
it found 34,000 transactions where there were a million, and so expected 1,461 units behind each in place of 50. The
operator's queries then read all of the table instead of the last hour of it. What is said here is a share of the
rows, about what payfirst settles and sells: wrong by a factor that does not grow with the table. It is known from the
next ANALYZE on. No row is touched, and the previous release goes on working.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Of a table and a column: distinct values in each row, as a negative number is read.
SHARES = (
    ("mint_queue", "payment_id", -0.5),
    ("mint_history", "payment_id", -0.5),
    ("mint_queue", "payment_tx_hash", -0.05),
    ("payment_queue", "tx_hash", -0.1),
    ("chain_transaction_items", "transaction_id", -0.02),
)


# The lock that this takes waits for a vacuum, and keeps no statement from a row. PostgreSQL ends an autovacuum that one
# waits for, but only after deadlock_timeout (1 s): who gives way before that would give way for as long as it runs.
LOCK_TIMEOUT = "3s"


def upgrade() -> None:
    _each("SET (n_distinct = {share})")


def downgrade() -> None:
    _each("RESET (n_distinct)")


def _each(change: str) -> None:
    before = op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar_one()
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    for table, column, share in SHARES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} {change.format(share=share)}")
    op.execute(f"SET LOCAL lock_timeout = '{before}'")
