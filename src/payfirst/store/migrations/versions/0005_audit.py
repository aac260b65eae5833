"""Audit: money that no payment holds can be owed, and signers are fenced until what the database lost is adopted."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = (
    # Until when rows are trusted to be older than the loss for which a signer was fenced; NULL: none is.
    "ALTER TABLE signers ADD COLUMN fence_cut timestamptz",
    # An attempt that was found on chain, not stored before it was sent.
    "ALTER TABLE chain_attempts ADD COLUMN adopted_at timestamptz",
    # How far database and chain were compared, and when that was begun last.
    "ALTER TABLE chain_heads ADD COLUMN audited_height bigint, ADD COLUMN audited_at timestamptz",
    "CREATE INDEX payment_queue_settled_block ON payment_queue USING brin (settled_block)",
    "ALTER TABLE owed ALTER COLUMN payment_id DROP NOT NULL",
    "ALTER TABLE owed ADD COLUMN authorization_nonce text CHECK (length(authorization_nonce) = 66),"
    " ADD COLUMN tx_hash text CHECK (length(tx_hash) = 66)",
    "ALTER TABLE owed ADD CONSTRAINT owed_for_something CHECK"
    " (payment_id IS NOT NULL OR (authorization_nonce IS NOT NULL AND tx_hash IS NOT NULL))",
    # One key becomes three, because two debts without a payment are two debts. The first keeps its columns: the
    # previous release's ON CONFLICT names them.
    "ALTER TABLE owed DROP CONSTRAINT owed_payment_id_unit_reason_key",
    "CREATE UNIQUE INDEX owed_unit_once ON owed (payment_id, unit, reason)",
    "CREATE UNIQUE INDEX owed_payment_once ON owed (payment_id, reason) WHERE payment_id IS NOT NULL AND unit IS NULL",
    "CREATE UNIQUE INDEX owed_money_once ON owed (network, asset, beneficiary, authorization_nonce)"
    " WHERE payment_id IS NULL",
)

# A debt does not vanish with the table's shape: what the older tables cannot hold goes to the audit log, whole.
DOWNGRADE = (
    "INSERT INTO audit_log (actor, action, subject, details)"
    " SELECT 'payfirst db downgrade', 'owed_without_payment', o.beneficiary, to_jsonb(o) FROM owed o"
    " WHERE o.payment_id IS NULL",
    "DELETE FROM refunds r USING owed o WHERE o.id = r.owed_id AND o.payment_id IS NULL",
    "DELETE FROM owed WHERE payment_id IS NULL",
    "DROP INDEX owed_money_once, owed_payment_once, owed_unit_once",
    "ALTER TABLE owed ADD CONSTRAINT owed_payment_id_unit_reason_key"
    " UNIQUE NULLS NOT DISTINCT (payment_id, unit, reason)",
    "ALTER TABLE owed DROP CONSTRAINT owed_for_something, DROP COLUMN authorization_nonce, DROP COLUMN tx_hash",
    "ALTER TABLE owed ALTER COLUMN payment_id SET NOT NULL",
    "DROP INDEX payment_queue_settled_block",
    "ALTER TABLE chain_heads DROP COLUMN audited_height, DROP COLUMN audited_at",
    "ALTER TABLE chain_attempts DROP COLUMN adopted_at",
    "ALTER TABLE signers DROP COLUMN fence_cut",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
