"""vnotch: VPC Flow Logs for networks you run yourself.

The tree is read in the order of the data path: packet (capture), flow (flow, window), record (fields, inventory,
record), destination (deliver), log service and state (store), answer (query), and what stands round the path (iam, api,
console, lab). `config`, `agent`, `server` and `cli` alone wire parts together.
"""

__version__ = "0.1.0"
