-- Expected: no row.
-- Exact: joined on payment_id, so that the mints of other payments in the same transaction do not hide a payment
-- that has none, or fewer than it paid for.
SELECT pq.id as payment_id, pq.status, COUNT(mq.id) as mint_count
FROM payment_queue pq
LEFT JOIN mint_queue mq ON mq.payment_id = pq.id
WHERE pq.status = 'completed'
AND pq.payment_type = 'mint'
AND pq.processed_at > NOW() - INTERVAL '10 minutes'
GROUP BY pq.id, pq.status
HAVING COUNT(mq.id) <> pq.quantity;
