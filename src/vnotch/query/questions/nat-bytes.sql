-- title: Bytes through NAT gateways
-- answers: Which addresses use NAT gateways, to which addresses of the internet, and how much.
-- parameter: limit integer = 50: how many rows
-- needs: interface_id, srcaddr, dstaddr, pkt_srcaddr, pkt_dstaddr, bytes
-- addresses: inside, outside
-- chart: bars inside bytes
-- At a NAT gateway's interface the record has the gateway's own address where the packet has the far end's (VPC user
-- guide, "Traffic through a NAT gateway"). The side towards the internet is not counted again.
WITH pairs AS (
    SELECT
        interface_id,
        CASE WHEN dstaddr <> pkt_dstaddr THEN srcaddr ELSE dstaddr END AS inside,
        CASE WHEN dstaddr <> pkt_dstaddr THEN pkt_dstaddr ELSE pkt_srcaddr END AS outside,
        sum(bytes) FILTER (dstaddr <> pkt_dstaddr) AS sent,
        sum(bytes) FILTER (dstaddr = pkt_dstaddr) AS received,
        sum(bytes) AS bytes
    FROM flow_logs
    WHERE (dstaddr <> pkt_dstaddr AND srcaddr = pkt_srcaddr) OR (srcaddr <> pkt_srcaddr AND dstaddr = pkt_dstaddr)
    GROUP BY 1, 2, 3
)
SELECT interface_id, inside, outside, coalesce(sent, 0) AS sent, coalesce(received, 0) AS received, bytes
FROM pairs
WHERE is_private(inside) AND NOT is_private(outside)
ORDER BY bytes DESC, inside, outside
LIMIT $limit
