-- title: Who talks to an address
-- answers: The peers of an address or CIDR, in both directions, by port and verdict.
-- parameter: address network: an address or a CIDR
-- parameter: limit integer = 50: how many rows
-- needs: srcaddr, dstaddr, srcport, dstport, protocol, packets, bytes, start, end, action
-- optional: pkt_srcaddr, pkt_dstaddr
-- addresses: peer
-- chart: bars peer bytes
-- The addresses in the packets count as well as those of the interfaces, so that traffic through a NAT gateway is found
-- by its real ends. The port is the lower one of the two, which is the service's in all but odd cases.
WITH theirs AS (
    SELECT
        *,
        srcaddr = $address OR pkt_srcaddr = $address
            OR (contains($address, '/') AND (in_cidr(srcaddr, $address) OR in_cidr(pkt_srcaddr, $address))) AS sent
    FROM flow_logs
    WHERE srcaddr = $address OR dstaddr = $address OR pkt_srcaddr = $address OR pkt_dstaddr = $address
        OR (contains($address, '/') AND (in_cidr(srcaddr, $address) OR in_cidr(dstaddr, $address)
            OR in_cidr(pkt_srcaddr, $address) OR in_cidr(pkt_dstaddr, $address)))
)
SELECT
    CASE WHEN sent THEN coalesce(pkt_dstaddr, dstaddr) ELSE coalesce(pkt_srcaddr, srcaddr) END AS peer,
    CASE WHEN sent THEN 'to' ELSE 'from' END AS direction,
    protocol_name(protocol) AS protocol,
    least(srcport, dstport) AS port,
    action,
    sum(bytes) AS bytes,
    sum(packets) AS packets,
    count(*) AS records,
    utc(min(start)) AS first,
    utc(max("end")) AS last
FROM theirs
GROUP BY ALL
ORDER BY bytes DESC NULLS LAST, peer, direction, port
LIMIT $limit
