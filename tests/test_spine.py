"""The whole path on real packets: namespaces and veth pairs, eBPF, agent, HTTP, the log service, and boto3 reading.

What was sent, counted by the sender, is what the records must add up to, to the packet, whatever died meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flowlogs_reader import FlowLogsReader
from spine import ADDRESSES, AGENT, FULL, GROUP, INTERVAL_SECONDS, PORT, WITHOUT_PUT, Network, Spine, running, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
def spine(tmp_path: Path) -> Iterator[Spine]:
    with running(Spine(tmp_path, Network())) as spine:
        yield spine


def read_by_flowlogs_reader(client: Any, threads: int) -> dict[str, tuple[int, int]]:
    """As `Spine.counted`, by an unchanged client of AWS's log groups."""
    now = datetime.now(UTC).replace(tzinfo=None)  # the reader compares times without zone
    found: dict[str, tuple[int, int]] = {}
    for record in FlowLogsReader(
        GROUP, boto_client=client, start_time=now - timedelta(hours=1), end_time=now + timedelta(hours=1),
        thread_count=threads, raise_on_error=True,
    ):  # fmt: skip
        if (record.srcaddr, record.dstaddr, record.dstport) == (ADDRESSES["a"], ADDRESSES["b"], PORT):
            packets, size = found.get(record.interface_id, (0, 0))
            found[record.interface_id] = packets + record.packets, size + record.bytes
    return found


def test_exactly_the_packets_sent_are_read_whatever_dies_meanwhile(spine: Spine) -> None:
    until("both interfaces are attached", lambda: spine.binding_states() == {"attached"})
    spine.network.link_up()

    # On first traffic: the group, its streams, the records.
    assert spine.records() == []
    spine.send(400)
    spine.arrives()
    logs = spine.endpoint.client("logs")
    streams = {stream["logStreamName"] for stream in logs.describe_log_streams(logGroupName=GROUP)["logStreams"]}
    assert streams == {f"{eni}-all" for eni in spine.enis.values()}
    assert spine.delivery() == ("SUCCESS", None)

    # By the role, not by the agent's own key.
    calls = [json.loads(line) for line in (spine.folders.root / "access.log").read_text().splitlines()]
    actions = [call["action"] for call in calls]
    assert actions.index("sts:AssumeRole") < actions.index("logs:PutLogEvents")
    puts = [call for call in calls if call["action"] == "logs:PutLogEvents"]
    role_session = f"arn:aws:sts::123456789012:assumed-role/spine/{spine.flow_log}"
    assert {call["principal_arn"] for call in puts} == {role_session}

    # Without permission it fails as on AWS, nothing is lost, and it heals.
    spine.allow(WITHOUT_PUT)
    spine.send(300)
    until("the delivery fails", lambda: spine.delivery() == ("FAILED", "Access error"))
    before = spine.counted()
    spine.kill("server")
    spine.send(200)
    spine.kill("agent")
    spine.send(150)
    spine.start_server()
    spine.start_agent()
    spine.send(100)
    assert spine.counted() == before, "nothing arrives without permission"
    spine.allow(FULL)
    spine.arrives()
    until("the delivery heals", lambda: spine.delivery() == ("SUCCESS", None))

    # A server that dies while batches arrive.
    for _ in range(3):
        spine.send(50)
        spine.kill("server")
        spine.send(50)
        spine.start_server()
    spine.arrives()

    # The ledger agrees with the kernel's own count, and no record comes late.
    def settled() -> bool:
        status = spine.endpoint.agent_status(AGENT)
        if status is None:
            return False
        seen = {(row["slot"], row["direction"]): row["packets"] for row in status["ledger"]["seen"]}
        booked = {(row["slot"], row["direction"]): row["packets"] for row in status["ledger"]["interfaces"]}
        return bool(seen) and seen == booked

    until("the ledger is exact", settled)
    time.sleep(INTERVAL_SECONDS + 1)
    assert spine.counted() == spine.wanted
    assert not any(fields[13] == "SKIPDATA" for fields in spine.records())
    for threads in (0, 2):  # with threads it asks for the streams first
        assert read_by_flowlogs_reader(logs, threads) == spine.wanted
    # A stopped agent leaves no pin.
    spine.stop()
    assert not Path("/run/vnotch/bpf", AGENT).exists()
