-- Expected: mint_count is 0 for pending, sent and failed; for completed it is the number of units paid for.
-- Exact: joined on payment_id. Payments settled in one batch share a tx_hash, so joined on that each mint of the
-- batch is counted once for every payment in it.
SELECT
  pq.status as payment_status,
  COUNT(mq.id) as mint_count
FROM payment_queue pq
LEFT JOIN mint_queue mq ON mq.payment_id = pq.id
WHERE pq.payment_type = 'mint'
AND pq.created_at > NOW() - INTERVAL '1 hour'
GROUP BY pq.status;
