-- title: Rejected traffic
-- answers: What was rejected most, by destination port or by source address.
-- parameter: by = port (port, source): what to group by
-- parameter: limit integer = 20: how many rows
-- needs: srcaddr, dstaddr, dstport, protocol, packets, start, end, action
-- addresses: rejected
-- chart: bars rejected records
SELECT
    CASE $by WHEN 'source' THEN srcaddr ELSE protocol_name(protocol) || '/' || dstport END AS rejected,
    count(*) AS records,
    sum(packets) AS packets,
    count(DISTINCT srcaddr) AS sources,
    count(DISTINCT dstaddr) AS destinations,
    count(DISTINCT dstport) AS ports,
    utc(min(start)) AS first,
    utc(max("end")) AS last
FROM flow_logs
WHERE action = 'REJECT'
GROUP BY 1
ORDER BY records DESC, rejected
LIMIT $limit
