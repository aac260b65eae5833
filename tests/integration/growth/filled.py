"""Tables with history: settled and minted payments of the last month, and as many live rows as are asked for."""

from __future__ import annotations

import asyncpg

NETWORK = "eip155:84532"
ADDRESS = "0x" + "ab" * 20
PAYMENTS_A_TRANSACTION = 20

# Of the newest `live` payments a quarter each is pending, sent, completed without its mints sent, and failed.
FILL = (
    "SET session_replication_role = replica",  # the rows are right, and looking costs more than writing
    """
INSERT INTO chain_heads (network, head_height, head_hash, head_time, cursor_height, cursor_hash, cursor_time,
                         final_height)
VALUES ('{network}', {n} + 10, '0x', extract(epoch FROM now()), {n} + 9, '0x', extract(epoch FROM now()), {n} + 1)
""",
    "INSERT INTO tokens (network, address, price, max_mint_count) VALUES ('{network}', '{address}', 1, 1000000000)",
    "INSERT INTO signers (network, address, purpose, next_nonce) VALUES ('{network}', '{address}', 'settle', {n})",
    """
CREATE TEMPORARY TABLE filling AS
SELECT i, now() - ({n} - i) * interval '30 days' / {n} AS at, '0x' || lpad(to_hex(i), 64, '0') AS key,
       '0xcc' || lpad(to_hex(i / {batch}), 62, '0') AS tx,
       '0x' || substr(md5((i % ({n} / 10))::text), 1, 32) || '00000000' AS payer,
       i > {n} - {live} AS is_live, i % 4 AS part,
       (lpad(to_hex((extract(epoch FROM now() - ({n} - i) * interval '30 days' / {n}) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(i::text), 1, 3) || 'a' || substr(md5(i::text), 4, 15))::uuid AS id
FROM generate_series(1, {n}) AS i
""",
    """
INSERT INTO payment_queue (id, network, token_address, asset, payer, pay_to, amount, quantity, recipient,
    authorization_nonce, valid_after, valid_before, signature, accepted_height, created_at, processed_at, status,
    finality, tx_hash, settled_block, settled_block_hash, settled_log_index)
SELECT id, '{network}', '{address}', '{address}', payer, '{address}', 20000, 2, payer, key, 0,
       extract(epoch FROM at + interval '1 hour')::bigint, decode(repeat('ab', 65), 'hex'), i, at,
       CASE WHEN status <> 'pending' THEN at + interval '2 seconds' END, status,
       CASE WHEN status = 'completed' AND NOT is_live THEN 'final' ELSE 'open' END,
       CASE WHEN status IN ('sent', 'completed') THEN tx END,
       CASE WHEN status = 'completed' THEN i END, CASE WHEN status = 'completed' THEN key END,
       CASE WHEN status = 'completed' THEN 1 END
FROM (
    SELECT *, CASE WHEN NOT is_live THEN CASE WHEN i % 50 = 0 THEN 'failed' ELSE 'completed' END
                   ELSE (ARRAY['pending', 'sent', 'completed', 'failed'])[part + 1] END AS status FROM filling
) f ORDER BY i
""",
    """
INSERT INTO authorizations SELECT network, decode(substr(asset, 3), 'hex'), decode(substr(payer, 3), 'hex'),
    decode(substr(authorization_nonce, 3), 'hex'), id FROM payment_queue
""",
    """
INSERT INTO mint_queue (id, payment_id, unit, payment_tx_hash, network, token_address, recipient, mint_id, status,
    mint_tx_hash, minted_block, created_at, processed_at)
SELECT md5(p.id::text || u)::uuid, p.id, u, p.tx_hash, p.network, p.token_address, p.recipient,
       '0x' || md5(p.id::text || u) || md5(u || p.id::text), CASE WHEN f.is_live THEN 'pending' ELSE 'completed' END,
       CASE WHEN NOT f.is_live THEN p.tx_hash END, CASE WHEN NOT f.is_live THEN p.settled_block + 1 END,
       p.processed_at, CASE WHEN NOT f.is_live THEN p.processed_at + interval '2 seconds' END
FROM payment_queue p JOIN filling f USING (id) CROSS JOIN generate_series(0, 1) AS u
WHERE p.status = 'completed' ORDER BY p.id, u
""",
    """
INSERT INTO chain_transactions (network, signer, account_nonce, purpose, state, signer_epoch, to_address, gas_limit,
    item_count, mined_hash, mined_block, created_at)
SELECT '{network}', '{address}', i, 'settle',
       CASE WHEN i * {batch} > {n} - {live} THEN 'sent' ELSE 'final' END, 1, '{address}', 1, {batch},
       '0xcc' || lpad(to_hex(i), 62, '0'), i, now()
FROM generate_series(0, {n} / {batch}) AS i
""",
    """
INSERT INTO chain_attempts (hash, transaction_id, signed_bytes, max_fee_per_gas_wei, max_priority_fee_per_gas_wei)
SELECT '0xcc' || lpad(to_hex(account_nonce), 62, '0'), id, decode(repeat('ab', 1000), 'hex'), 1, 1
FROM chain_transactions
""",
    """
INSERT INTO chain_transaction_items (transaction_id, position, payment_id, outcome)
SELECT t.id, f.i % {batch}, f.id, 'done' FROM filling f JOIN chain_transactions t ON t.account_nonce = f.i / {batch}
""",
    """
INSERT INTO chain_transaction_items (transaction_id, position, queue_id, outcome)
SELECT i.transaction_id, 100 + 2 * i.position + m.unit, m.id, 'done'
FROM chain_transaction_items i JOIN mint_queue m ON m.payment_id = i.payment_id
""",
    "INSERT INTO audit_log (actor, action, subject) SELECT 'someone', 'hold', id FROM filling WHERE i % 10 = 0",
    "DROP TABLE filling",
    "SET session_replication_role = DEFAULT",
)


async def fill(url: str, *, payments: int, live: int) -> None:
    """So many payments of two units each, as PostgreSQL knows them after its next look (ANALYZE)."""
    connection = await asyncpg.connect(url)
    try:
        for statement in FILL:
            await connection.execute(
                statement.format(n=payments, live=live, batch=PAYMENTS_A_TRANSACTION, network=NETWORK, address=ADDRESS)
            )
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()
