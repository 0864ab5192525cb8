-- title: Long connections
-- answers: Connections that were open longest, by first and last record of the same addresses and ports.
-- parameter: least duration = 1h: how long at least
-- parameter: limit integer = 50: how many rows
-- needs: srcaddr, dstaddr, srcport, dstport, protocol, packets, bytes, start, end, action
-- addresses: source, destination
-- chart: bars source seconds
-- A port that was used again later counts as one connection; few records over a long time tell of that.
SELECT
    srcaddr AS source,
    dstaddr AS destination,
    protocol_name(protocol) AS protocol,
    srcport,
    dstport,
    max("end") - min(start) AS seconds,
    count(*) AS records,
    sum(packets) AS packets,
    sum(bytes) AS bytes,
    utc(min(start)) AS first,
    utc(max("end")) AS last
FROM flow_logs
WHERE action = 'ACCEPT' AND protocol IN (6, 17, 132)
GROUP BY srcaddr, dstaddr, protocol, srcport, dstport
HAVING max("end") - min(start) >= $least
ORDER BY seconds DESC, source, destination, srcport, dstport
LIMIT $limit
