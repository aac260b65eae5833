"""Evidence that waits: of large payments for more depth, of others until a second endpoint agrees on it."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = (
    # A transaction that was seen in a block at network.confirmations, whose items leave `sent` later. It is read
    # again, and believed, once `block` is deep enough; a reorg takes the row. transaction_id: of ours, if it is.
    "CREATE TABLE waiting_evidence ("
    " network text NOT NULL,"
    " tx_hash text NOT NULL CHECK (length(tx_hash) = 66),"
    " block bigint NOT NULL,"
    " block_hash text NOT NULL CHECK (length(block_hash) = 66),"
    " transaction_id bigint REFERENCES chain_transactions (id),"
    " payment_ids uuid[] NOT NULL,"
    " seen_at timestamptz NOT NULL DEFAULT now(),"
    " PRIMARY KEY (network, tx_hash))",
    "CREATE INDEX waiting_evidence_transaction ON waiting_evidence (transaction_id)",
    # The newest block that is deep enough to be read, as a worker saw it; NULL before one of this release did.
    "ALTER TABLE chain_heads ADD COLUMN confirmable_height bigint",
)

# What waits is found again by the audit: nothing is lost with the table.
DOWNGRADE = (
    "ALTER TABLE chain_heads DROP COLUMN confirmable_height",
    "DROP TABLE waiting_evidence",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
