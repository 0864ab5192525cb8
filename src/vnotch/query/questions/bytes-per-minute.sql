-- title: Bytes per minute
-- answers: How much traffic there was over time, accepted and rejected.
-- parameter: minutes integer = 1: minutes of one row
-- needs: bytes, end, action
-- chart: time minute bytes
-- A record counts where it ends. Traffic between two interfaces that both have flow logs is in the records of both.
SELECT
    utc("end" // (60 * $minutes) * (60 * $minutes)) AS minute,
    sum(bytes) AS bytes,
    sum(bytes) FILTER (action = 'REJECT') AS rejected_bytes,
    count(*) AS records
FROM flow_logs
WHERE bytes IS NOT NULL
GROUP BY 1
ORDER BY 1
