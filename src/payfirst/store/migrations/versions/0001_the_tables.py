"""The tables: payments, mints, transactions, and the constraints that keep payment first."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PAYMENT_QUEUE = """
CREATE TABLE payment_queue (
    id                  uuid PRIMARY KEY,
    payment_type        text NOT NULL DEFAULT 'mint' CHECK (payment_type IN ('mint', 'deploy', 'settle')),
    network             text NOT NULL,
    token_address       text NOT NULL CHECK (length(token_address) = 42),
    asset               text NOT NULL CHECK (length(asset) = 42),
    payer               text NOT NULL CHECK (length(payer) = 42),
    pay_to              text NOT NULL CHECK (length(pay_to) = 42),
    amount              numeric(78, 0) NOT NULL CHECK (amount >= 0),
    quantity            integer NOT NULL CHECK (quantity > 0),
    recipient           text NOT NULL CHECK (length(recipient) = 42),
    authorization_nonce text NOT NULL CHECK (length(authorization_nonce) = 66),
    valid_after         bigint NOT NULL,
    valid_before        bigint NOT NULL,
    signature           bytea NOT NULL,
    status              text NOT NULL DEFAULT 'pending'
                        CHECK (status IN ('pending', 'sent', 'completed', 'failed')),
    finality            text NOT NULL DEFAULT 'open' CHECK (finality IN ('open', 'reorged', 'final', 'lost')),
    tx_hash             text CHECK (length(tx_hash) = 66),
    settled_block       bigint,
    settled_block_hash  text,
    settled_log_index   integer,
    settled_by_us       boolean,
    error               text,
    error_code          text,
    result              jsonb,
    accepted_height     bigint NOT NULL,
    supply_reserved     boolean NOT NULL DEFAULT false,
    attempts            integer NOT NULL DEFAULT 0,
    suspected_code      text,
    suspected_height    bigint,
    held_reason         text,
    next_attempt_at     timestamptz,
    lease_owner         text,
    lease_epoch         bigint,
    lease_until         timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now(),
    processed_at        timestamptz,
    -- mint_queue refers to this pair: a mint exists only beside a completed payment.
    CONSTRAINT payment_queue_id_status UNIQUE (id, status),
    CONSTRAINT sent_has_a_transaction CHECK (status <> 'sent' OR tx_hash IS NOT NULL),
    CONSTRAINT pending_has_no_transaction CHECK (status <> 'pending' OR tx_hash IS NULL),
    CONSTRAINT completed_has_evidence CHECK (status <> 'completed' OR (
        tx_hash IS NOT NULL AND settled_block IS NOT NULL
        AND settled_block_hash IS NOT NULL AND settled_log_index IS NOT NULL))
)
"""

# Bytes, not text: this index is kept for ever, and half its size is half its cost.
AUTHORIZATIONS = """
CREATE TABLE authorizations (
    network             text NOT NULL,
    asset               bytea NOT NULL,
    payer               bytea NOT NULL,
    authorization_nonce bytea NOT NULL,
    payment_id          uuid NOT NULL,
    PRIMARY KEY (payer, authorization_nonce, asset, network)
)
"""

MINT_QUEUE = """
CREATE TABLE mint_queue (
    id              uuid PRIMARY KEY,
    payment_id      uuid NOT NULL,
    payment_status  text NOT NULL DEFAULT 'completed' CHECK (payment_status = 'completed'),
    unit            integer NOT NULL CHECK (unit >= 0),
    payment_tx_hash text NOT NULL,
    network         text NOT NULL,
    token_address   text NOT NULL CHECK (length(token_address) = 42),
    recipient       text NOT NULL CHECK (length(recipient) = 42),
    mint_id         text NOT NULL UNIQUE CHECK (length(mint_id) = 66),
    status          text NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'sent', 'completed', 'owed')),
    mint_tx_hash    text,
    minted_block    bigint,
    error           text,
    error_code      text,
    attempts        integer NOT NULL DEFAULT 0,
    suspected_code  text,
    suspected_height bigint,
    held_reason     text,
    next_attempt_at timestamptz,
    lease_owner     text,
    lease_epoch     bigint,
    lease_until     timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    processed_at    timestamptz,
    UNIQUE (payment_id, unit),
    CONSTRAINT payment_first FOREIGN KEY (payment_id, payment_status)
        REFERENCES payment_queue (id, status),
    CONSTRAINT minted_has_a_transaction
        CHECK (status NOT IN ('sent', 'completed') OR mint_tx_hash IS NOT NULL)
)
"""

TRANSACTIONS = """
CREATE TABLE chain_transactions (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    network             text NOT NULL,
    signer              text NOT NULL CHECK (length(signer) = 42),
    account_nonce       bigint NOT NULL CHECK (account_nonce >= 0),
    purpose             text NOT NULL CHECK (purpose IN ('settle', 'mint', 'refund')),
    state               text NOT NULL DEFAULT 'sent'
                        CHECK (state IN ('sent', 'confirmed', 'final', 'displaced')),
    signer_epoch        bigint NOT NULL,
    to_address          text NOT NULL,
    gas_limit           bigint NOT NULL,
    item_count          integer NOT NULL,
    mined_hash          text,
    mined_block         bigint,
    mined_block_hash    text,
    succeeded           boolean,
    gas_used            bigint,
    gas_price_wei       numeric(78, 0),
    created_at          timestamptz NOT NULL DEFAULT now(),
    confirmed_at        timestamptz,
    -- No account nonce is ever given to two transactions.
    UNIQUE (network, signer, account_nonce)
)
"""

ATTEMPTS = """
CREATE TABLE chain_attempts (
    hash                         text PRIMARY KEY CHECK (length(hash) = 66),
    transaction_id               bigint NOT NULL REFERENCES chain_transactions (id),
    signed_bytes                 bytea NOT NULL,
    max_fee_per_gas_wei          numeric(78, 0) NOT NULL,
    max_priority_fee_per_gas_wei numeric(78, 0) NOT NULL,
    is_noop                      boolean NOT NULL DEFAULT false,
    broadcast_count              integer NOT NULL DEFAULT 0,
    last_broadcast_at            timestamptz,
    last_error                   text,
    created_at                   timestamptz NOT NULL DEFAULT now()
)
"""

ITEMS = """
CREATE TABLE chain_transaction_items (
    transaction_id bigint NOT NULL REFERENCES chain_transactions (id),
    position       integer NOT NULL CHECK (position >= 0),
    payment_id     uuid,
    queue_id       uuid,
    outcome        text CHECK (outcome IN ('done', 'reverted', 'elsewhere')),
    PRIMARY KEY (transaction_id, position),
    CONSTRAINT one_subject CHECK (num_nonnulls(payment_id, queue_id) = 1)
)
"""

SIGNERS = """
CREATE TABLE signers (
    network       text NOT NULL,
    address       text NOT NULL CHECK (length(address) = 42),
    purpose       text NOT NULL CHECK (purpose IN ('settle', 'mint', 'refund')),
    next_nonce    bigint NOT NULL CHECK (next_nonce >= 0),
    epoch         bigint NOT NULL DEFAULT 0,
    lease_owner   text,
    lease_until   timestamptz,
    paused_reason text,
    balance_wei   numeric(78, 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, address)
)
"""

TOKENS = """
CREATE TABLE tokens (
    network        text NOT NULL,
    address        text NOT NULL CHECK (length(address) = 42),
    price          numeric(78, 0) NOT NULL CHECK (price > 0),
    status         text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused')),
    name           text,
    symbol         text,
    mint_amount    numeric(78, 0),
    max_mint_count numeric(78, 0),
    minted         numeric(78, 0) NOT NULL DEFAULT 0,
    reserved       bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    held_reason    text,
    synced_height  bigint,
    synced_at      timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (network, address)
)
"""

CHAIN_HEADS = """
CREATE TABLE chain_heads (
    network          text PRIMARY KEY,
    head_height      bigint NOT NULL,
    head_hash        text NOT NULL,
    head_time        bigint NOT NULL,
    head_seen_at     timestamptz NOT NULL DEFAULT now(),
    cursor_height    bigint NOT NULL,
    cursor_hash      text NOT NULL,
    cursor_time      bigint NOT NULL,
    final_height     bigint NOT NULL DEFAULT 0,
    settled_per_s    double precision NOT NULL DEFAULT 0
)
"""

# The scanned blocks that a reorg could still take: where the chain's hash differs from ours is the fork.
CHAIN_BLOCKS = """
CREATE TABLE chain_blocks (
    network    text NOT NULL,
    height     bigint NOT NULL,
    hash       text NOT NULL,
    block_time bigint NOT NULL,
    PRIMARY KEY (network, height)
)
"""

OWED = """
CREATE TABLE owed (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    direction   text NOT NULL CHECK (direction IN ('to_buyer', 'to_seller')),
    network     text NOT NULL,
    payment_id  uuid NOT NULL,
    unit        integer,
    reason      text NOT NULL,
    asset       text NOT NULL,
    amount      numeric(78, 0) NOT NULL,
    beneficiary text NOT NULL,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'refunded', 'resolved')),
    note        text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    UNIQUE NULLS NOT DISTINCT (payment_id, unit, reason)
)
"""

REFUNDS = """
CREATE TABLE refunds (
    id                  uuid PRIMARY KEY,
    owed_id             bigint NOT NULL UNIQUE REFERENCES owed (id),
    network             text NOT NULL,
    asset               text NOT NULL,
    treasury            text NOT NULL,
    beneficiary         text NOT NULL,
    amount              numeric(78, 0) NOT NULL,
    -- Derived from what is refunded, so that a lost row cannot refund twice.
    authorization_nonce text NOT NULL,
    status              text NOT NULL DEFAULT 'waiting'
                        CHECK (status IN ('waiting', 'approved', 'sent', 'completed')),
    tx_hash             text,
    error               text,
    approved_by         text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    processed_at        timestamptz,
    UNIQUE (network, asset, treasury, authorization_nonce)
)
"""

SETTINGS = """
CREATE TABLE settings (
    key        text PRIMARY KEY,
    value      jsonb NOT NULL,
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""

AUDIT_LOG = """
CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,
    action  text NOT NULL,
    subject text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
)
"""

PROCESSES = """
CREATE TABLE processes (
    id           uuid PRIMARY KEY,
    role         text NOT NULL CHECK (role IN ('api', 'worker')),
    network      text NOT NULL,
    host         text NOT NULL,
    pid          integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    stats        jsonb NOT NULL DEFAULT '{}'
)
"""

INDEXES = (
    # Live rows only: what is settled and minted leaves these indexes, so history costs nothing.
    "CREATE INDEX payment_queue_pending ON payment_queue (network, id) WHERE status = 'pending'",
    "CREATE INDEX payment_queue_sent ON payment_queue (processed_at) WHERE status = 'sent'",
    "CREATE INDEX payment_queue_unresolved_by_payer ON payment_queue (payer) WHERE status IN ('pending', 'sent')",
    "CREATE INDEX payment_queue_not_final ON payment_queue (network, settled_block)"
    " WHERE status = 'completed' AND finality IN ('open', 'reorged')",
    # One Transfer log pays for one payment.
    "CREATE UNIQUE INDEX payment_queue_evidence"
    " ON payment_queue (network, settled_block_hash, settled_log_index) WHERE settled_log_index IS NOT NULL",
    "CREATE INDEX payment_queue_tx_hash ON payment_queue (tx_hash) WHERE tx_hash IS NOT NULL",
    "CREATE INDEX payment_queue_created_at ON payment_queue USING brin (created_at)",
    "CREATE INDEX mint_queue_pending ON mint_queue (network, token_address, id) WHERE status = 'pending'",
    "CREATE INDEX mint_queue_sent ON mint_queue (processed_at) WHERE status = 'sent'",
    "CREATE INDEX mint_queue_minted_block ON mint_queue USING brin (minted_block)",
    "CREATE INDEX mint_queue_payment_tx_hash ON mint_queue (payment_tx_hash)",
    "CREATE INDEX mint_queue_created_at ON mint_queue USING brin (created_at)",
    "CREATE INDEX chain_transactions_sent ON chain_transactions (network, signer, account_nonce) WHERE state = 'sent'",
    "CREATE INDEX chain_transactions_not_final ON chain_transactions (network, mined_block) WHERE state = 'confirmed'",
    "CREATE INDEX chain_attempts_transaction ON chain_attempts (transaction_id)",
    "CREATE INDEX chain_transaction_items_payment ON chain_transaction_items (payment_id) WHERE payment_id IS NOT NULL",
    "CREATE INDEX chain_transaction_items_queue ON chain_transaction_items (queue_id) WHERE queue_id IS NOT NULL",
    "CREATE INDEX owed_open ON owed (created_at) WHERE status = 'open'",
)

# Also for a status that is changed by hand: a failed payment names no transaction (its siblings in the same
# batch may have mints under that hash) and gives back the supply it held.
ON_FAILED = (
    """
CREATE FUNCTION payfirst_on_failed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.tx_hash := NULL;
    NEW.lease_owner := NULL;
    NEW.lease_until := NULL;
    IF OLD.supply_reserved THEN
        UPDATE tokens SET reserved = reserved - OLD.quantity
        WHERE network = OLD.network AND address = OLD.token_address;
        NEW.supply_reserved := false;
    END IF;
    RETURN NEW;
END $$
""",
    """
CREATE TRIGGER payment_queue_on_failed BEFORE UPDATE OF status ON payment_queue
FOR EACH ROW WHEN (NEW.status = 'failed' AND OLD.status <> 'failed') EXECUTE FUNCTION payfirst_on_failed()
""",
)

# Checked at COMMIT, when the mints of the same transaction are there.
UNITS_COMPLETE = (
    """
CREATE FUNCTION payfirst_units_complete() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject uuid;
    wanted integer;
    found_units integer;
BEGIN
    IF TG_TABLE_NAME = 'mint_queue' THEN subject := OLD.payment_id; ELSE subject := NEW.id; END IF;
    SELECT quantity INTO wanted FROM payment_queue
    WHERE id = subject AND status = 'completed' AND payment_type = 'mint';
    IF wanted IS NULL THEN RETURN NULL; END IF;
    SELECT count(*) INTO found_units FROM mint_queue WHERE payment_id = subject;
    IF found_units <> wanted THEN
        RAISE EXCEPTION 'payment % is completed with % of its % mint rows', subject, found_units, wanted
            USING ERRCODE = 'integrity_constraint_violation',
                  HINT = 'A completed payment and all its mint rows belong in one transaction.';
    END IF;
    RETURN NULL;
END $$
""",
    """
CREATE CONSTRAINT TRIGGER payment_queue_units_complete AFTER INSERT OR UPDATE OF status ON payment_queue
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
WHEN (NEW.status = 'completed' AND NEW.payment_type = 'mint') EXECUTE FUNCTION payfirst_units_complete()
""",
    """
CREATE CONSTRAINT TRIGGER mint_queue_units_complete AFTER DELETE OR UPDATE OF payment_id ON mint_queue
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION payfirst_units_complete()
""",
)

# One look a statement, not one a row: units are numbered from 0, so a unit below the quantity, unique in its
# payment, can never be one too many.
NO_UNIT_TOO_MANY = (
    """
CREATE FUNCTION payfirst_no_unit_too_many() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    offender uuid;
BEGIN
    SELECT p.id INTO offender
    FROM (SELECT payment_id, max(unit) AS unit FROM inserted GROUP BY payment_id) m
    JOIN payment_queue p ON p.id = m.payment_id WHERE m.unit >= p.quantity LIMIT 1;
    IF offender IS NOT NULL THEN
        RAISE EXCEPTION 'payment % has no such unit: more mint rows than it paid for', offender
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$
""",
    """
CREATE TRIGGER mint_queue_no_unit_too_many AFTER INSERT ON mint_queue
REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION payfirst_no_unit_too_many()
""",
)

# Moved, not partitioned: the unique keys and the foreign key above cannot be partitioned by time.
HISTORY = (
    "CREATE TABLE payment_history (LIKE payment_queue, archived_at timestamptz NOT NULL DEFAULT now(),"
    " PRIMARY KEY (id))",
    "CREATE TABLE mint_history (LIKE mint_queue, archived_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id))",
    "CREATE INDEX mint_history_payment ON mint_history (payment_id)",
)


TABLES = {
    "payment_queue": PAYMENT_QUEUE,
    "authorizations": AUTHORIZATIONS,
    "mint_queue": MINT_QUEUE,
    "chain_transactions": TRANSACTIONS,
    "chain_attempts": ATTEMPTS,
    "chain_transaction_items": ITEMS,
    "signers": SIGNERS,
    "tokens": TOKENS,
    "chain_heads": CHAIN_HEADS,
    "chain_blocks": CHAIN_BLOCKS,
    "owed": OWED,
    "refunds": REFUNDS,
    "settings": SETTINGS,
    "audit_log": AUDIT_LOG,
    "processes": PROCESSES,
}


def upgrade() -> None:
    triggers = (*ON_FAILED, *UNITS_COMPLETE, *NO_UNIT_TOO_MANY)
    for statement in (*TABLES.values(), *INDEXES, *triggers, *HISTORY):
        op.execute(statement)


def downgrade() -> None:
    for table in ("mint_history", "payment_history", *reversed(TABLES)):
        op.execute(f"DROP TABLE {table}")
    for function in ("payfirst_on_failed", "payfirst_units_complete", "payfirst_no_unit_too_many"):
        op.execute(f"DROP FUNCTION {function}()")
