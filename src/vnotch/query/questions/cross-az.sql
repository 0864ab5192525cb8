-- title: Traffic between zones
-- answers: Which addresses send how much to another Availability Zone, and what it costs.
-- parameter: usd_per_gb number = 0.01: price of a gigabyte sent, in US dollars (AWS asks it on both sides)
-- parameter: limit integer = 50: how many rows
-- needs: srcaddr, dstaddr, bytes, az_id, flow_direction
-- optional: next_hop_az_id
-- addresses: source, destination
-- chart: bars source bytes
-- The zone of the far end is next-hop-az-id where the format has it (version 11), else it is learnt from the far
-- interface's own records, so that end needs flow logs in what is read.
WITH zones AS (
    SELECT CASE flow_direction WHEN 'egress' THEN srcaddr ELSE dstaddr END AS address, min(az_id) AS az_id
    FROM flow_logs
    WHERE az_id IS NOT NULL AND flow_direction IS NOT NULL
    GROUP BY 1
),
sent AS (
    SELECT srcaddr, dstaddr, az_id, next_hop_az_id, sum(bytes) AS bytes, count(*) AS records
    FROM flow_logs
    WHERE flow_direction = 'egress' AND az_id IS NOT NULL
    GROUP BY ALL
)
SELECT
    srcaddr AS source,
    dstaddr AS destination,
    sent.az_id AS from_az,
    coalesce(next_hop_az_id, zones.az_id) AS to_az,
    sum(bytes) AS bytes,
    sum(records) AS records,
    round(sum(bytes) / 1e9 * $usd_per_gb, 4) AS usd
FROM sent LEFT JOIN zones ON zones.address = sent.dstaddr
WHERE coalesce(next_hop_az_id, zones.az_id) <> sent.az_id
GROUP BY ALL
ORDER BY bytes DESC, source, destination
LIMIT $limit
