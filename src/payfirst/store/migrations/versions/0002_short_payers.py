"""Payers that were seen short of money: what admission must know of balances without asking the chain."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# News, not truth: nothing but a refusal rests on it, and it is forgotten.
SHORT_PAYERS = """
CREATE TABLE short_payers (
    network text NOT NULL,
    asset   text NOT NULL CHECK (length(asset) = 42),
    payer   text NOT NULL CHECK (length(payer) = 42),
    balance numeric(78, 0) NOT NULL CHECK (balance >= 0),
    height  bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, asset, payer)
)
"""


def upgrade() -> None:
    op.execute(SHORT_PAYERS)


def downgrade() -> None:
    op.execute("DROP TABLE short_payers")
