"""Growth: cost does not follow history, and the room that dead rows took is used again.

Only indexes and storage parameters change, so the previous release goes on working. Building the indexes reads
`payment_queue`, `mint_queue` and the history once; writers of a table wait so long.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = {
    # Each second watchers ask what has expired; only what has is read, however many wait.
    "payment_queue_expiry": "payment_queue (network, valid_before) WHERE status = 'pending'",
    "payment_queue_reorged": (
        "payment_queue (network, valid_before) WHERE status = 'completed' AND finality = 'reorged'"
    ),
    # Failed payments whose money can still come; those that time has ended are never read.
    "payment_queue_failed_watched": "payment_queue (network, valid_before) INCLUDE (pay_to) WHERE status = 'failed'",
    "payment_queue_failed_at": "payment_queue (processed_at) WHERE status = 'failed'",
    # What ended in the last minutes: rows get this time in the order in which they are written, so pages tell.
    "payment_queue_processed_at": "payment_queue USING brin (processed_at) WITH (pages_per_range = 32)",
    "mint_queue_processed_at": "mint_queue USING brin (processed_at) WITH (pages_per_range = 32)",
    # An audit asks for ids that the live table does not know; a transaction is looked up by hand. Hashes: small.
    "mint_history_mint_id": "mint_history USING hash (mint_id)",
    "mint_history_payment_tx_hash": "mint_history USING hash (payment_tx_hash)",
    "payment_history_tx_hash": "payment_history USING hash (tx_hash)",
}

# A page range without a summary is read by every scan; by itself PostgreSQL summarizes only when it vacuums.
BRIN = (
    "payment_queue_created_at", "payment_queue_settled_block", "payment_queue_processed_at",
    "mint_queue_created_at", "mint_queue_minted_block", "mint_queue_processed_at",
)  # fmt: skip

# Room in each page for what is updated in place: a claim, a reservation, an outcome, a broadcast (HOT updates). A claim
# rewrites every row of the pages that were filled last: with half a page free for it, 98 of 100 claims touch no index,
# which takes a sixth off all that PostgreSQL does for a payment, for 1.6 times the heap until it is archived.
FILLFACTOR = {
    "payment_queue": 50,
    "mint_queue": 50,
    "chain_transaction_items": 85,
    "chain_attempts": 85,
    # A few rows, rewritten all the time.
    "tokens": 20,
    "signers": 20,
    "chain_heads": 20,
    "processes": 20,
}

# After so many dead rows, not after a fifth of all: with years of rows a fifth is millions, and between two rounds
# that many dead entries stand in front of the live ones in each partial index.
AUTOVACUUM = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "20000",
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "100000",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_analyze_threshold": "1000",
    "autovacuum_vacuum_cost_delay": "0",
}
GROWING = ("payment_queue", "mint_queue", "chain_transactions", "chain_attempts", "chain_transaction_items")


def upgrade() -> None:
    for name, rest in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {rest}")
    for name in BRIN:
        op.execute(f"ALTER INDEX {name} SET (autosummarize = on)")
    for table, percent in FILLFACTOR.items():
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")
    values = ", ".join(f"{name} = {value}" for name, value in AUTOVACUUM.items())
    for table in GROWING:
        op.execute(f"ALTER TABLE {table} SET ({values})")


def downgrade() -> None:
    for table in GROWING:
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(AUTOVACUUM)})")
    for table in FILLFACTOR:
        op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    for name in BRIN:
        op.execute(f"ALTER INDEX {name} RESET (autosummarize)")
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
