"""Cheaper rows: an index less to write in each payment's life, and signed bytes that nobody tries to compress.

Half of the signed bytes are signatures and nonces: compressing a batch of 200 payments took PostgreSQL about as long as
storing all its other rows. Only what is written from now on is kept so; nothing is rewritten. The index by payer is
of no use to any statement: the unsettled are counted from the indexes of `pending` and `sent` payments. The previous
release goes on working without it.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE chain_attempts ALTER COLUMN signed_bytes SET STORAGE EXTERNAL")
    op.execute("DROP INDEX payment_queue_unresolved_by_payer")


def downgrade() -> None:
    op.execute(
        "CREATE INDEX payment_queue_unresolved_by_payer ON payment_queue (payer) WHERE status IN ('pending', 'sent')"
    )
    op.execute("ALTER TABLE chain_attempts ALTER COLUMN signed_bytes SET STORAGE EXTENDED")
