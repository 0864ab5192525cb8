-- title: Unused ports
-- answers: Which of the ports that you keep open no one used, by interface.
-- parameter: ports list = 22,80,443,3306,3389,5432: the ports, parted by commas
-- parameter: limit integer = 200: how many rows
-- needs: interface_id, dstport, protocol, action
-- Flow logs know what came, not what was allowed: name the ports that your rules open. A port is unused where no record
-- of the interface has it as accepted destination port over the time that was read; `rejected` are the attempts.
WITH asked AS (SELECT DISTINCT trim(port)::INTEGER AS port FROM unnest(string_split($ports, ',')) AS list(port)),
used AS (
    SELECT
        interface_id,
        dstport,
        count(*) FILTER (action = 'ACCEPT') AS accepted,
        count(*) FILTER (action = 'REJECT') AS rejected
    FROM flow_logs
    WHERE protocol IN (6, 17) AND dstport IN (SELECT port FROM asked)
    GROUP BY 1, 2
),
interfaces AS (SELECT DISTINCT interface_id FROM flow_logs WHERE interface_id IS NOT NULL)
SELECT interfaces.interface_id, asked.port, coalesce(used.rejected, 0) AS rejected
FROM interfaces CROSS JOIN asked
LEFT JOIN used ON used.interface_id = interfaces.interface_id AND used.dstport = asked.port
WHERE coalesce(used.accepted, 0) = 0
ORDER BY interfaces.interface_id, asked.port
LIMIT $limit
