-- title: Port scans
-- answers: Sources that tried many ports of one destination, or one port of many destinations.
-- parameter: ports integer = 20: ports of one destination from which on a source is shown
-- parameter: hosts integer = 20: destinations of one port from which on a source is shown
-- parameter: limit integer = 50: how many rows
-- needs: srcaddr, dstaddr, srcport, dstport, protocol, action, start, end
-- addresses: source, example
-- chart: bars source tried
-- Answers of servers go to many ports too. They are accepted, and come from a port lower than the one they go to, so an
-- accepted record counts as an attempt only where it goes to the lower port.
WITH attempts AS (
    SELECT srcaddr, dstaddr, dstport, action, start, "end"
    FROM flow_logs
    WHERE protocol IN (6, 17) AND (action = 'REJECT' OR dstport < srcport)
),
vertical AS (
    SELECT
        srcaddr AS source,
        'ports of one address' AS kind,
        dstaddr AS example,
        count(DISTINCT dstport) AS tried,
        count(DISTINCT dstport) FILTER (action = 'REJECT') AS rejected,
        min(start) AS first_s,
        max("end") AS last_s
    FROM attempts
    GROUP BY srcaddr, dstaddr
    HAVING count(DISTINCT dstport) >= $ports
),
horizontal AS (
    SELECT
        srcaddr AS source,
        'addresses with port ' || dstport AS kind,
        min(dstaddr) AS example,
        count(DISTINCT dstaddr) AS tried,
        count(DISTINCT dstaddr) FILTER (action = 'REJECT') AS rejected,
        min(start) AS first_s,
        max("end") AS last_s
    FROM attempts
    GROUP BY srcaddr, dstport
    HAVING count(DISTINCT dstaddr) >= $hosts AND bool_or(action = 'REJECT')
)
SELECT source, kind, example, tried, rejected, utc(first_s) AS first, utc(last_s) AS last
FROM (FROM vertical UNION ALL FROM horizontal)
ORDER BY tried DESC, source, kind
LIMIT $limit
