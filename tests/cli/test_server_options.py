"""Options of `vnotch server`, as clients feel them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.cli.running import RunningServer, run


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path, "--quota", "rules-per-security-group=2", "--quota", "prefix-lists=1")
    yield running
    running.stop()


def test_quotas_that_are_given_hold(strict: RunningServer) -> None:
    ec2 = strict.endpoint.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group_id = ec2.create_security_group(GroupName="web", Description="web", VpcId=vpc_id)["GroupId"]

    def allow(port: int) -> None:
        ec2.authorize_security_group_ingress(
            GroupId=group_id, IpProtocol="tcp", FromPort=port, ToPort=port, CidrIp="192.0.2.0/24"
        )

    allow(80)
    allow(443)
    with pytest.raises(ClientError, match="RulesPerSecurityGroupLimitExceeded"):
        allow(8080)

    def make_list(name: str) -> None:
        ec2.create_managed_prefix_list(PrefixListName=name, MaxEntries=5, AddressFamily="IPv4")

    make_list("one")
    with pytest.raises(ClientError, match="PrefixListLimitExceeded"):
        make_list("two")


def test_alerts_that_are_set_are_shown_without_their_urls(tmp_path: Path) -> None:
    running = RunningServer(tmp_path, "--alert", "rejects,log-group=flow,count=5=http://127.0.0.1:9/secret")
    try:
        shown = run("alerts", "--data-dir", running.data_dir)
        answer = json.loads(run("alerts", "--data-dir", running.data_dir, "--json").stdout)
    finally:
        running.stop()
    assert "rejects,log-group=flow,count=5,seconds=60,by=source" in shown.stdout
    assert "secret" not in shown.stdout
    assert [alert["state"] for alert in answer["alerts"]] == ["waiting"]
    assert answer["webhooks"] == {"called": 0, "failed": 0, "dropped": 0}
