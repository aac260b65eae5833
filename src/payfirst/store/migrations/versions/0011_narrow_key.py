"""The never-reuse key in half its width: the payer, and 16 bytes that stand for nonce, asset and network.

An insert changes a random page of the key, and the first change of a page after a checkpoint logs the whole page: half
as many pages are half as many of those. The rows stay whole. Authorizations are not taken while the index is built,
about two seconds for each million of them. The previous release goes on working: it finds an authorization by its
payer, the first half of the index.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE UNIQUE INDEX authorizations_once ON authorizations"
        " (payer, substring(sha256(authorization_nonce || asset || network::bytea) FROM 1 FOR 16))"
    )
    op.execute("ALTER TABLE authorizations DROP CONSTRAINT authorizations_pkey")


def downgrade() -> None:
    op.execute(
        "ALTER TABLE authorizations ADD CONSTRAINT authorizations_pkey"
        " PRIMARY KEY (payer, authorization_nonce, asset, network)"
    )
    op.execute("DROP INDEX authorizations_once")
