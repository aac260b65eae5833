"""The never-reuse key in half its width: the payer, and 16 bytes that stand for nonce, asset and network.

An insert changes a random page of the key, and the first change of a page after a checkpoint logs all of it: with half
as many pages that happens half as often. The rows stay whole. No authorization is taken or looked up while the index is
built. The previous release goes on working, but finds an authorization among all of its payer's, which the first
half of the index gives it: a roll-back that lasts wants `payfirst db downgrade 0010`.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # First what wants the table to itself: who has to give way for somebody does it before the work, not after it.
    op.execute("ALTER TABLE authorizations DROP CONSTRAINT authorizations_pkey")
    op.execute(
        "CREATE UNIQUE INDEX authorizations_once ON authorizations"
        " (payer, substring(sha256(authorization_nonce || asset || network::bytea) FROM 1 FOR 16))"
    )


def downgrade() -> None:
    op.execute(
        "ALTER TABLE authorizations ADD CONSTRAINT authorizations_pkey"
        " PRIMARY KEY (payer, authorization_nonce, asset, network)"
    )
    op.execute("DROP INDEX authorizations_once")
