-- title: Top talkers
-- answers: Which source addresses sent the most.
-- parameter: by = bytes (bytes, packets, records): what to rank by
-- parameter: limit integer = 20: how many addresses
-- needs: srcaddr, packets, bytes
-- addresses: source
-- chart: bars source $by
SELECT
    srcaddr AS source,
    sum(bytes) AS bytes,
    sum(packets) AS packets,
    count(*) AS records
FROM flow_logs
WHERE srcaddr IS NOT NULL
GROUP BY srcaddr
ORDER BY CASE $by WHEN 'packets' THEN sum(packets) WHEN 'records' THEN count(*) ELSE sum(bytes) END DESC, srcaddr
LIMIT $limit
