"""The whole path to an HTTPS endpoint on real packets: namespaces, eBPF, agent, the Firehose protocol.

The network is that of `spine`, the endpoint the receiver that holds each request to the specification.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from firehose_receiver import Receiver
from spine import Network, Spine, running, until
from test_bucket_spine import ours

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ARN = "arn:aws:firehose:us-east-1:123456789012:deliverystream/flow-logs"


class FirehoseSpine(Spine):
    def __init__(self, folder: Path, network: Network, receiver: Receiver) -> None:
        super().__init__(folder, network)
        self.receiver = receiver
        self.streams = folder / "streams.toml"
        text = f'[flow-logs]\nurl = "{receiver.url}"\naccess_key = "{receiver.key}"\nattributes = {{ team = "net" }}\n'
        self.streams.write_text(text)
        self.streams.chmod(0o600)

    def settings_of(self, name: str) -> tuple[list[str], dict[str, str]]:
        arguments = ["--delivery-streams", str(self.streams)] if name == "server" else []
        return arguments, {"AWS_CA_BUNDLE": str(self.receiver.certificate)}

    def make_firehose_flow_log(self) -> None:
        ec2 = self.endpoint.client("ec2")
        ec2.delete_flow_logs(FlowLogIds=[self.flow_log])
        vpc = ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.77.0.0/16"]}])["Vpcs"][0]["VpcId"]

        def create(arn: str) -> dict[str, list[dict[str, dict[str, str]]]]:
            return dict(
                ec2.create_flow_logs(
                    ResourceIds=[vpc], ResourceType="VPC", TrafficType="ALL", LogDestination=arn,
                    LogDestinationType="kinesis-data-firehose", MaxAggregationInterval=5,
                )
            )  # fmt: skip

        refused = create(ARN + "-unknown")["Unsuccessful"]
        assert refused[0]["Error"]["Message"] == "LogDestination: flow-logs-unknown does not exist"
        made = create(ARN)
        assert made["Unsuccessful"] == []
        self.flow_log = str(made["FlowLogIds"][0])
        (described,) = ec2.describe_flow_logs(FlowLogIds=[self.flow_log])["FlowLogs"]
        assert described["LogDestination"] == ARN
        assert "LogGroupName" not in described


@pytest.fixture
def spine(tmp_path: Path) -> Iterator[FirehoseSpine]:
    receiver = Receiver(tmp_path)
    try:
        with running(FirehoseSpine(tmp_path, Network(), receiver)) as spine:
            spine.make_firehose_flow_log()
            yield spine
    finally:
        receiver.close()


def test_exactly_the_packets_sent_arrive_whatever_the_endpoint_answers(spine: FirehoseSpine) -> None:
    until("both interfaces are attached", lambda: spine.binding_states() == {"attached"})
    receiver = spine.receiver
    receiver.answers = [(503, None), (200, b""), (429, None)]
    spine.network.link_up()
    spine.send(300)
    until("the first records arrive", lambda: receiver.messages)
    spine.kill("agent")
    spine.send(200)
    spine.start_agent()
    spine.send(100)
    until("the agent has what was sent", lambda: sum(spine.in_records().values()) >= 2 * spine.sent)
    receiver.answers = [(403, None)] * 3
    spine.send(50)
    until("a refused key shows as AWS shows it", lambda: spine.delivery() == ("FAILED", "Access error"))
    until("and passes", lambda: spine.delivery() == ("SUCCESS", None))
    until("the agent has what was sent", lambda: sum(spine.in_records().values()) >= 2 * spine.sent)
    ledger = spine.in_records()
    agent = spine.processes["agent"]
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0, "with --flush everything is delivered at the end"
    assert receiver.faults == []
    fields = [message.split(" ") for message in receiver.messages]
    assert ours((f[2], *f[3:8], *f[8:10]) for f in fields if f[13] == "OK") == spine.wanted
    assert {eni: sum(int(f[8]) for f in fields if f[2] == eni and f[13] == "OK") for eni in ledger} == ledger
