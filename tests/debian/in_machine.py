"""Run by the packaged interpreter inside the machine of `machine.py`.

python3 in_machine.py resources     makes a VPC, a flow log and an ENI on vn-a, and waits until it is captured
python3 in_machine.py send N        N frames from vn-b
python3 in_machine.py records N     waits until the records of these frames add up to N packets
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from botocore.exceptions import EndpointConnectionError

from vnotch.cli.endpoint import Endpoint
from vnotch.config import Folders

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "vpc-flow-logs.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:*", "Resource": "*"}]}


def resources(endpoint: Endpoint) -> None:
    ec2, iam = endpoint.client("ec2"), endpoint.client("iam")
    iam.create_role(RoleName="logs", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="logs", PolicyName="deliver", PolicyDocument=json.dumps(POLICY))
    vpc = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.1.0/24")["Subnet"]["SubnetId"]
    eni = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    made = ec2.create_flow_logs(
        ResourceIds=[vpc],
        ResourceType="VPC",
        TrafficType="ALL",
        LogGroupName="group",
        DeliverLogsPermissionArn="arn:aws:iam::123456789012:role/logs",
        MaxAggregationInterval=1,
    )
    assert made["Unsuccessful"] == [], made
    path = f"/vnotch/v1/network-interfaces/{eni}/binding"
    agent = socket.gethostname().split(".")[0]
    rest = {"instance_id": None, "interface_type": None, "enforce": False}
    endpoint.request("PUT", path, {"agent": agent, "device": "vn-a", **rest})
    for _ in range(100):
        found = endpoint.request("GET", path)
        if found["state"] == "attached":
            return
        time.sleep(0.2)
    raise SystemExit(f"not attached: {found}")


def send(count: int) -> None:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + bytes([10, 99, 1, 9, 198, 51, 100, 1])
    frame = bytes([2] * 6 + [4] * 6) + b"\x08\x00" + header + struct.pack("!HHHH", 1000, 9, 8, 0)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("vn-b", 0))
        for _ in range(count):
            raw.send(frame)


def packets(logs: Any) -> int | None:
    """In the records so far; None where there is no group yet, or no server for a moment, as after an upgrade."""
    try:
        if not logs.describe_log_groups(logGroupNamePrefix="group")["logGroups"]:
            return None
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName="group")
        lines = [event["message"].split() for page in pages for event in page["events"]]
    except EndpointConnectionError:
        return None
    return sum(int(fields[8]) for fields in lines if fields[4] == "198.51.100.1")


def records(endpoint: Endpoint, wanted: int) -> None:
    logs = endpoint.client("logs")
    for _ in range(150):
        if (counted := packets(logs)) == wanted:
            return
        time.sleep(0.2)
    raise SystemExit(f"{counted} packets in the records, {wanted} were sent")


if __name__ == "__main__":
    found = Endpoint.find(Folders(Path("/var/lib/vnotch")))
    match sys.argv[1:]:
        case ["resources"]:
            resources(found)
        case ["send", count]:
            send(int(count))
        case ["records", count]:
            records(found, int(count))
