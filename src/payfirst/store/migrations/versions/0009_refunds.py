"""Refunds: what a transaction refunds, when it was signed, where it is; and no mint of what is being refunded.

Columns that may be empty and wider checks only, so the previous release goes on working beside this one.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# What refunds are paid from, as the workers saw it last; its row is locked while refunds are stored, so that the
# daily limit and the balance are counted by one at a time.
TREASURIES = """
CREATE TABLE treasuries (
    network     text NOT NULL,
    asset       text NOT NULL CHECK (length(asset) = 42),
    address     text NOT NULL CHECK (length(address) = 42),
    balance     numeric(78, 0),
    held_reason text,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, asset, address)
)
"""

COLUMNS = (
    # Unix seconds: until when the authorization that was signed last can be used; NULL: none was signed.
    ("valid_before", "bigint"),
    ("refunded_block", "bigint"),
    ("attempts", "integer NOT NULL DEFAULT 0"),
    ("next_attempt_at", "timestamptz"),
    ("sent_at", "timestamptz"),
)

# A unit that is being refunded is never minted: not by a worker, not by a command, not by hand. The approval of a
# refund locks the unit's row too, so one of the two sees the other.
NO_MINT_BESIDE_A_REFUND = (
    """
CREATE FUNCTION payfirst_no_mint_beside_a_refund() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM owed o JOIN refunds r ON r.owed_id = o.id
        WHERE o.payment_id = OLD.payment_id AND o.unit = OLD.unit AND r.status IN ('approved', 'sent', 'completed')
    ) THEN
        RAISE EXCEPTION 'unit % of payment % is being refunded: it is not minted any more', OLD.unit, OLD.payment_id
            USING ERRCODE = 'integrity_constraint_violation',
                  HINT = 'payfirst refunds list shows how far the refund is.';
    END IF;
    RETURN NEW;
END $$
""",
    """
CREATE TRIGGER mint_queue_no_mint_beside_a_refund BEFORE UPDATE OF status ON mint_queue
FOR EACH ROW WHEN (OLD.status = 'owed' AND NEW.status IN ('pending', 'sent'))
EXECUTE FUNCTION payfirst_no_mint_beside_a_refund()
""",
)

UPGRADE = (
    TREASURIES,
    *(f"ALTER TABLE refunds ADD COLUMN {name} {kind}" for name, kind in COLUMNS),
    "ALTER TABLE refunds DROP CONSTRAINT refunds_status_check",
    "ALTER TABLE refunds ADD CONSTRAINT refunds_status_check"
    " CHECK (status IN ('waiting', 'approved', 'sent', 'completed', 'cancelled', 'impossible'))",
    "ALTER TABLE refunds ADD CONSTRAINT refund_sent_has_a_transaction"
    " CHECK (status NOT IN ('sent', 'completed') OR tx_hash IS NOT NULL)",
    "ALTER TABLE refunds ADD CONSTRAINT refund_completed_has_evidence"
    " CHECK (status <> 'completed' OR refunded_block IS NOT NULL)",
    # Whichever treasury pays, what is refunded is refunded once.
    "CREATE UNIQUE INDEX refunds_once ON refunds (network, asset, authorization_nonce)",
    "CREATE INDEX refunds_live ON refunds (network, status)"
    " WHERE status IN ('waiting', 'approved', 'sent', 'impossible')",
    "CREATE INDEX refunds_block ON refunds (network, refunded_block) WHERE status = 'completed'",
    "ALTER TABLE chain_transaction_items ADD COLUMN refund_id uuid",
    "ALTER TABLE chain_transaction_items DROP CONSTRAINT one_subject",
    "ALTER TABLE chain_transaction_items ADD CONSTRAINT one_subject"
    " CHECK (num_nonnulls(payment_id, queue_id, refund_id) = 1)",
    "CREATE INDEX chain_transaction_items_refund ON chain_transaction_items (refund_id) WHERE refund_id IS NOT NULL",
    *NO_MINT_BESIDE_A_REFUND,
)

# What the older tables cannot hold goes to the audit log, whole.
DOWNGRADE = (
    "DROP TRIGGER mint_queue_no_mint_beside_a_refund ON mint_queue",
    "DROP FUNCTION payfirst_no_mint_beside_a_refund()",
    "INSERT INTO audit_log (actor, action, subject, details)"
    " SELECT 'payfirst db downgrade', 'refund_item', i.transaction_id::text, to_jsonb(i)"
    " FROM chain_transaction_items i WHERE i.refund_id IS NOT NULL",
    "DELETE FROM chain_transaction_items WHERE refund_id IS NOT NULL",
    "ALTER TABLE chain_transaction_items DROP CONSTRAINT one_subject, DROP COLUMN refund_id",
    "ALTER TABLE chain_transaction_items ADD CONSTRAINT one_subject CHECK (num_nonnulls(payment_id, queue_id) = 1)",
    "DROP INDEX refunds_block, refunds_live, refunds_once",
    "INSERT INTO audit_log (actor, action, subject, details)"
    " SELECT 'payfirst db downgrade', 'refund_' || r.status, r.id::text, to_jsonb(r) FROM refunds r"
    " WHERE r.status IN ('cancelled', 'impossible')",
    "DELETE FROM refunds WHERE status IN ('cancelled', 'impossible')",
    "ALTER TABLE refunds DROP CONSTRAINT refund_completed_has_evidence, DROP CONSTRAINT refund_sent_has_a_transaction,"
    " DROP CONSTRAINT refunds_status_check",
    "ALTER TABLE refunds ADD CONSTRAINT refunds_status_check"
    " CHECK (status IN ('waiting', 'approved', 'sent', 'completed'))",
    *(f"ALTER TABLE refunds DROP COLUMN {name}" for name, _ in COLUMNS),
    "DROP TABLE treasuries",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
