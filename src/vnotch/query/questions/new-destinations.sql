-- title: New destinations
-- answers: Internet addresses that were first talked to in the last part of the time that was read.
-- parameter: within duration = 1d: how long ago, counted from the last record, is new
-- parameter: limit integer = 50: how many rows
-- needs: srcaddr, dstaddr, dstport, protocol, bytes, start, end, action
-- optional: pkt_dstaddr
-- addresses: destination, sender
-- chart: bars destination bytes
-- What is new is told by what was read: ask over a longer time than `within`, or everything is new.
WITH by_destination AS (
    SELECT
        coalesce(pkt_dstaddr, dstaddr) AS destination,
        min(start) AS first_s,
        max("end") AS last_s,
        sum(bytes) AS bytes,
        count(*) AS records,
        arg_min(srcaddr, start) AS sender,
        arg_min(protocol_name(protocol) || '/' || dstport, start) AS port
    FROM flow_logs
    WHERE action = 'ACCEPT'
    GROUP BY 1
)
SELECT destination, sender, port, bytes, records, utc(first_s) AS first, utc(last_s) AS last
FROM by_destination
WHERE first_s >= (SELECT max(last_s) FROM by_destination) - $within AND NOT is_private(destination)
ORDER BY first_s DESC, destination
LIMIT $limit
