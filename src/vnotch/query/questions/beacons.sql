-- title: Beacons
-- answers: Pairs of addresses with new connections at regular intervals, as software that calls home makes them.
-- parameter: connections integer = 10: how many connections at least
-- parameter: jitter number = 0.1: how irregular at most: deviation of the intervals by their mean
-- parameter: limit integer = 50: how many rows
-- needs: srcaddr, dstaddr, srcport, dstport, protocol, bytes, start, action
-- addresses: source, destination
-- chart: bars source connections
-- A connection of several records counts once, at its first, so that the aggregation interval makes no beacon.
WITH opened AS (
    SELECT srcaddr, dstaddr, protocol, dstport, srcport, min(start) AS start, sum(bytes) AS bytes
    FROM flow_logs
    WHERE action = 'ACCEPT' AND protocol IN (6, 17) AND dstport < srcport
    GROUP BY ALL
),
gaps AS (
    SELECT *, start - lag(start) OVER (PARTITION BY srcaddr, dstaddr, protocol, dstport ORDER BY start) AS gap
    FROM opened
)
SELECT
    srcaddr AS source,
    dstaddr AS destination,
    protocol_name(protocol) AS protocol,
    dstport,
    count(*) AS connections,
    round(avg(gap), 1) AS every_seconds,
    round(stddev_pop(gap) / avg(gap), 3) AS jitter,
    sum(bytes) AS bytes,
    utc(min(start)) AS first,
    utc(max(start)) AS last
FROM gaps
GROUP BY ALL
HAVING count(*) >= $connections AND avg(gap) > 0 AND stddev_pop(gap) / avg(gap) <= $jitter
ORDER BY jitter, connections DESC, source, destination
LIMIT $limit
