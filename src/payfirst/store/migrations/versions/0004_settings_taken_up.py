"""Each process says which of the settings in the table it has taken up, and which it refuses."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # `{"taken": {setting: value}, "refused": {setting: what is expected}}`; one of the release before says nothing.
    op.execute("ALTER TABLE processes ADD COLUMN settings jsonb NOT NULL DEFAULT '{}'")


def downgrade() -> None:
    op.execute("ALTER TABLE processes DROP COLUMN settings")
