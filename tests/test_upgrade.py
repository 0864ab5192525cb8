"""What the release before has stored is there, whole, after an upgrade: state, log events and keys, by the API.

`data/backup-0.1.0.tar.xz` is a backup that release 0.1.0 made (before the state had revisions): a network with a flow
log, users and roles, two log groups with 1,000 records and 301 texts, a metric filter, an alarm and a saved query.
"""

from __future__ import annotations

import tarfile
import time
from pathlib import Path
from typing import Any

from tests.cli.running import RunningServer, run

ARCHIVE = Path(__file__).parent / "data" / "backup-0.1.0.tar.xz"
NOW = 1795900000
KEY = "AKIAQLKMCXLFPJRDXOYT"


def record(interface_id: str, number: int) -> str:
    part = number % 500
    action = "443 6 12 4711 {} {} ACCEPT" if part % 2 else "22 6 12 4711 {} {} REJECT"
    times = action.format(NOW - 60, NOW)
    return f"2 123456789012 {interface_id} 10.0.0.{part % 250} 10.0.1.7 {40000 + number} {times} OK"


def messages(logs: Any, group: str) -> list[str]:
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    return [event["message"] for page in pages for event in page["events"]]


def test_a_backup_of_the_release_before_is_put_back_and_served(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    done = run("restore", str(tmp_path / "backup-0.1.0"), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    server = RunningServer(tmp_path)
    assert "raised from the schema of before revisions" in server.log.read_text()
    assert server.endpoint.access_key_id == KEY
    check_network(server.endpoint)
    check_events(server.endpoint)
    server.stop()
    server.start()  # it is at the newest revision now
    check_network(server.endpoint)
    check_more_events(server.endpoint)
    server.stop()
    assert server.log.read_text().count("raised from") == 1
    assert "Traceback" not in server.log.read_text()


def check_network(endpoint: Any) -> None:
    ec2, iam = endpoint.client("ec2"), endpoint.client("iam")
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    assert (vpc["CidrBlock"], vpc["Tags"]) == ("10.0.0.0/16", [{"Key": "Name", "Value": "net"}])
    [interface] = ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert interface["PrivateIpAddress"] == "10.0.0.10"
    assert [group["GroupName"] for group in interface["Groups"]] == ["web"]
    rules = ec2.describe_security_group_rules()["SecurityGroupRules"]
    assert [rule["FromPort"] for rule in rules if not rule["IsEgress"] and "CidrIpv4" in rule] == [443]
    [flow_log] = ec2.describe_flow_logs()["FlowLogs"]
    assert (flow_log["ResourceId"], flow_log["LogGroupName"]) == (vpc["VpcId"], "/vpc/flow-logs")
    assert flow_log["DeliverLogsPermissionArn"] == "arn:aws:iam::123456789012:role/flow-logs"
    assert [user["UserName"] for user in iam.get_group(GroupName="team")["Users"]] == ["ana"]
    attached = iam.list_attached_group_policies(GroupName="team")["AttachedPolicies"]
    assert [policy["PolicyName"] for policy in attached] == ["AdministratorAccess"]


def check_events(endpoint: Any) -> None:
    logs, cloudwatch = endpoint.client("logs"), endpoint.client("cloudwatch")
    groups = {group["logGroupName"]: group for group in logs.describe_log_groups()["logGroups"]}
    assert groups.keys() == {"/vpc/flow-logs", "kept", "other"}
    assert groups["kept"]["retentionInDays"] == 30
    [stream] = logs.describe_log_streams(logGroupName="/vpc/flow-logs")["logStreams"]
    interface_id = stream["logStreamName"].removesuffix("-all")
    assert (stream["firstEventTimestamp"], stream["lastEventTimestamp"]) == (NOW * 1000, (NOW + 1) * 1000)
    assert messages(logs, "/vpc/flow-logs") == [record(interface_id, number) for number in range(1000)]
    assert messages(logs, "other") == [*(f"text {number} €" for number in range(300)), "a small one"]
    # A pattern on columns is asked of typed columns.
    pattern = '[version, account, eni, source, destination, srcport, destport="22", rest...]'
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName="/vpc/flow-logs", filterPattern=pattern)
    assert sum(len(page["events"]) for page in pages) == 500
    [metric_filter] = logs.describe_metric_filters()["metricFilters"]
    assert metric_filter["filterPattern"] == pattern
    assert [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"]] == ["a"]
    assert [found["name"] for found in logs.describe_query_definitions()["queryDefinitions"]] == ["q"]


def check_more_events(endpoint: Any) -> None:
    """What is stored from now on stands beside what the release before has stored."""
    logs = endpoint.client("logs")
    [stream] = logs.describe_log_streams(logGroupName="/vpc/flow-logs")["logStreams"]
    interface_id = stream["logStreamName"].removesuffix("-all")
    new = record(interface_id, 7)
    logs.put_log_events(
        logGroupName="/vpc/flow-logs", logStreamName=stream["logStreamName"],
        logEvents=[{"timestamp": int(time.time() * 1000), "message": new}],
    )  # fmt: skip
    found = messages(logs, "/vpc/flow-logs")
    assert sorted(found) == sorted([new, *(record(interface_id, number) for number in range(1000))])
