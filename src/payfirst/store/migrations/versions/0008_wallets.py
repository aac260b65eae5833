"""Smart wallets: what was accepted unverified, who burned a transaction's gas, and how small a batch is cut.

Only tables and a column that may be empty are added, so the previous release goes on working.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UPGRADE = (
    # Rows of unsettled payments only; beside payment_queue, so that what keys signed costs nothing more.
    """CREATE TABLE wallet_payments (
        payment_id uuid PRIMARY KEY,
        network    text NOT NULL,
        payer      text NOT NULL CHECK (length(payer) = 42)
    )""",
    """CREATE TABLE quarantined_payers (
        network    text NOT NULL,
        payer      text NOT NULL CHECK (length(payer) = 42),
        burns      integer NOT NULL DEFAULT 0 CHECK (burns >= 0),
        until      timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (network, payer)
    )""",
    # How many payments may share its next transaction; NULL: none of its transactions was mined without effect.
    "ALTER TABLE payment_queue ADD COLUMN share_max integer CHECK (share_max > 0)",
    "ALTER TABLE payment_history ADD COLUMN share_max integer CHECK (share_max > 0)",
)

DOWNGRADE = (
    "ALTER TABLE payment_history DROP COLUMN share_max",
    "ALTER TABLE payment_queue DROP COLUMN share_max",
    "DROP TABLE quarantined_payers",
    "DROP TABLE wallet_payments",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
