"""Instances that a host in lab mode runs, and those that a binding names, as boto3 and such a host see them.

Members, states and codes are those of API RunInstances, DescribeInstances, TerminateInstances, AttachNetworkInterface
and DetachNetworkInterface; texts are those of EC2's error list and of answers that users have published.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.lab_hosts import LabHosts
from vnotch.store import instances

HOST = "/vnotch/v1/lab-hosts/here"


@pytest.fixture
def ec2(api: Any) -> Any:
    routes = [*Agents(api.state, api.accounts).routes(), *LabHosts(api.state, api.accounts).routes()]
    api.serve(Ec2(api.state, api.accounts), routes=routes)
    return api.client("ec2", parameter_validation=False)


@pytest.fixture
def subnet_id(ec2: Any) -> str:
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    return str(ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"])


def ours(api: Any, method: str, path: str, body: Any = None) -> Any:
    """A request to vnotch's own part of the API."""
    content = b"" if body is None else json.dumps(body).encode()
    return api.send("vnotch", content, method=method, path=path, headers={"content-type": "application/json"})


def heard(api: Any, *reports: dict[str, Any], **members: Any) -> dict[str, Any]:
    """What the host in lab mode gets for what it says."""
    answer = ours(api, "PUT", HOST, {"reports": list(reports), **members})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def run(ec2: Any, subnet_id: str, **params: Any) -> list[dict[str, Any]]:
    given = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet_id, **params}
    launched: list[dict[str, Any]] = ec2.run_instances(**given)["Instances"]
    return launched


def described(ec2: Any, instance_id: str) -> dict[str, Any]:
    [reservation] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    [instance] = reservation["Instances"]
    return dict(instance)


def refused(call: Any, **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "x86_64"),
        ("availability-zone-id", "use1-az1"),
        ("launch-index", "0"),
        ("launch-time", "20??-*T*Z"),
        ("network-interface.attachment.attach-time", "20??-*T*Z"),
        ("network-interface.addresses.primary", "true"),
        ("network-interface.attachment.device-index", "0"),
        ("network-interface.attachment.instance-owner-id", "123456789012"),
        ("network-interface.attachment.status", "attaching"),
        ("network-interface.description", "first"),
        ("network-interface.group-name", "default"),
        ("network-interface.mac-address", "02:*"),
        ("network-interface.owner-id", "123456789012"),
        ("network-interface.status", "in-use"),
        ("owner-id", "123456789012"),
        ("source-dest-check", "true"),
        ("tenancy", "default"),
    ],
)
def test_instances_are_filtered_by_themselves_and_their_interfaces(
    api: Any, ec2: Any, subnet_id: str, name: str, value: str
) -> None:
    """API DescribeInstances, Filters."""
    heard(api)
    interface = {"DeviceIndex": 0, "SubnetId": subnet_id, "Description": "first"}
    given = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "NetworkInterfaces": [interface]}
    [launched] = ec2.run_instances(**given)["Instances"]
    for wanted, found in ((value, [launched["InstanceId"]]), ("other", [])):
        rows = ec2.describe_instances(Filters=[{"Name": name, "Values": [wanted]}])["Reservations"]
        assert [row["InstanceId"] for each in rows for row in each["Instances"]] == found


def test_states_are_filtered_by_their_checks(api: Any, ec2: Any, subnet_id: str) -> None:
    """API DescribeInstanceStatus, Filters: the checks of an instance whose interface nobody captures yet begin."""
    heard(api)
    [launched] = run(ec2, subnet_id)
    heard(api, {"instance_id": launched["InstanceId"], "state": "running"})
    for name in ("instance-status.status", "instance-status.reachability", "system-status.reachability"):
        for value, count in (("initializing", 1), ("passed", 0), ("ok", 0)):
            filters = [{"Name": name, "Values": [value]}]
            assert len(ec2.describe_instance_status(Filters=filters)["InstanceStatuses"]) == count


def test_without_a_host_in_lab_mode_nothing_is_launched(ec2: Any, subnet_id: str) -> None:
    params = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet_id}
    assert refused(ec2.run_instances, **params) == "InsufficientInstanceCapacity"
    assert ec2.describe_instances()["Reservations"] == []
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []


def test_an_instance_is_pending_then_running_then_terminated(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web"}]}]
    [launched] = run(ec2, subnet_id, TagSpecifications=tags, PrivateIpAddress="10.0.0.10")
    instance_id = launched["InstanceId"]
    assert launched["State"] == {"Code": 0, "Name": "pending"}
    assert launched["PrivateIpAddress"] == "10.0.0.10"

    [wanted] = heard(api)["instances"]
    assert (wanted["instance_id"], wanted["state"], wanted["tags"]) == (instance_id, "pending", {"Name": "web"})
    assert [interface["ipv4"] for interface in wanted["interfaces"]] == [["10.0.0.10"]]

    heard(api, {"instance_id": instance_id, "state": "running"})
    assert described(ec2, instance_id)["State"] == {"Code": 16, "Name": "running"}
    change = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
    assert change == [
        {
            "InstanceId": instance_id,
            "PreviousState": {"Code": 16, "Name": "running"},
            "CurrentState": {"Code": 32, "Name": "shutting-down"},
        }
    ]
    assert heard(api)["instances"][0]["state"] == "shutting-down"
    assert heard(api, {"instance_id": instance_id, "state": "terminated"})["instances"] == []
    gone = described(ec2, instance_id)
    assert gone["State"] == {"Code": 48, "Name": "terminated"}
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    # Its interface went with it: made by the launch, it is deleted on termination (API RunInstances).
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []


def test_the_interface_of_a_launch_is_described_with_its_attachment(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [launched] = run(ec2, subnet_id)
    [interface] = ec2.describe_network_interfaces(
        Filters=[{"Name": "attachment.instance-id", "Values": [launched["InstanceId"]]}]
    )["NetworkInterfaces"]
    attachment = interface["Attachment"]
    assert interface["Status"] == "in-use"
    assert (attachment["InstanceId"], attachment["DeviceIndex"]) == (launched["InstanceId"], 0)
    assert attachment["DeleteOnTermination"] is True
    shown = described(ec2, launched["InstanceId"])["NetworkInterfaces"]
    assert [item["NetworkInterfaceId"] for item in shown] == [interface["NetworkInterfaceId"]]
    assert refused(ec2.delete_network_interface, NetworkInterfaceId=interface["NetworkInterfaceId"]) in (
        "InvalidParameterValue",
        "InvalidNetworkInterface.InUse",
    )


def test_as_many_as_there_is_room_for_are_launched(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    vpc_id = ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]["VpcId"]
    small = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.9.0/28")["Subnet"]["SubnetId"]  # 16 less 5
    launched = run(ec2, small, MinCount=2, MaxCount=20)
    assert len(launched) == 11
    assert [instance["AmiLaunchIndex"] for instance in launched] == list(range(11))
    assert len(ec2.describe_instances()["Reservations"]) == 1
    params = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "SubnetId": small}
    assert refused(ec2.run_instances, **params) == "InsufficientFreeAddressesInSubnet"


def test_a_launch_with_a_client_token_is_made_once(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [first] = run(ec2, subnet_id, ClientToken="once")
    [again] = run(ec2, subnet_id, ClientToken="once")
    assert first["InstanceId"] == again["InstanceId"]
    other = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 2, "SubnetId": subnet_id, "ClientToken": "once"}
    assert refused(ec2.run_instances, **other) == "IdempotentParameterMismatch"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"MinCount": 0}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-1"}, "InvalidSubnetID.NotFound"),
        ({"SubnetId": None}, "VPCIdNotSpecified"),
        ({"KeyName": "mine"}, "InvalidKeyPair.NotFound"),
        ({"UserData": "IyEvYmluL3No"}, "UnsupportedOperation"),
        ({"InstanceType": "large"}, "InvalidParameterValue"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef1"]}, "InvalidGroup.NotFound"),
        ({"MaxCount": 2, "PrivateIpAddress": "10.0.0.10"}, "InvalidParameterCombination"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": "subnet-1"}]}, "InvalidParameterCombination"),
    ],
)
def test_launches_that_cannot_be_made_are_refused_and_make_nothing(
    api: Any, ec2: Any, subnet_id: str, params: dict[str, Any], code: str
) -> None:
    heard(api)
    given = {"ImageId": IMAGE_ID, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet_id, **params}
    given = {name: value for name, value in given.items() if value is not None}
    assert refused(ec2.run_instances, **given) == code
    assert ec2.describe_instances()["Reservations"] == []
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []


def test_a_protected_instance_is_not_terminated(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [one] = run(ec2, subnet_id, DisableApiTermination=True)
    [two] = run(ec2, subnet_id)
    ids = [two["InstanceId"], one["InstanceId"]]
    assert refused(ec2.terminate_instances, InstanceIds=ids) == "OperationNotPermitted"
    assert {described(ec2, each)["State"]["Name"] for each in ids} == {"pending"}
    ec2.modify_instance_attribute(InstanceId=one["InstanceId"], DisableApiTermination={"Value": False})
    shown = ec2.describe_instance_attribute(InstanceId=one["InstanceId"], Attribute="disableApiTermination")
    assert shown["DisableApiTermination"] == {"Value": False}
    ec2.terminate_instances(InstanceIds=ids)


def test_an_instance_whose_host_is_silent_is_terminated_at_once(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [launched] = run(ec2, subnet_id)
    with api.state.write() as session:
        session.get(instances.LabHost, "here").seen_ms -= 10 * instances.HOST_ALIVE_MS
    change = ec2.terminate_instances(InstanceIds=[launched["InstanceId"]])["TerminatingInstances"][0]
    assert change["CurrentState"]["Name"] == "terminated"
    assert heard(api)["instances"] == []


def test_what_a_host_cannot_build_is_terminated_with_the_reason(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [launched] = run(ec2, subnet_id)
    heard(api, {"instance_id": launched["InstanceId"], "state": "failed", "reason": "no room"})
    gone = described(ec2, launched["InstanceId"])
    assert gone["State"]["Name"] == "terminated"
    assert gone["StateReason"] == {"Code": "Server.InternalError", "Message": "Server.InternalError: no room"}


def test_a_second_interface_is_attached_and_detached(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [launched] = run(ec2, subnet_id)
    instance_id = launched["InstanceId"]
    interface_id = ec2.create_network_interface(SubnetId=subnet_id)["NetworkInterface"]["NetworkInterfaceId"]
    given = {"NetworkInterfaceId": interface_id, "InstanceId": instance_id, "DeviceIndex": 1}
    attachment_id = ec2.attach_network_interface(**given)["AttachmentId"]
    assert attachment_id.startswith("eni-attach-")
    assert [item["device_index"] for item in heard(api)["instances"][0]["interfaces"]] == [0, 1]
    assert refused(ec2.attach_network_interface, **given) == "InvalidNetworkInterface.InUse"
    other = ec2.create_network_interface(SubnetId=subnet_id)["NetworkInterface"]["NetworkInterfaceId"]
    taken = {**given, "NetworkInterfaceId": other}
    assert refused(ec2.attach_network_interface, **taken) == "InvalidParameterValue"
    ec2.detach_network_interface(AttachmentId=attachment_id)
    ends = (f"network-interface/{interface_id}", f"instance/{instance_id}")  # what it was authorised on
    assert tuple(arn.rpartition(":")[2] for arn in api.access_log.recent()[-1].resources) == ends
    [found] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    assert found["Status"] == "available"
    assert len(heard(api)["instances"][0]["interfaces"]) == 1
    assert refused(ec2.detach_network_interface, AttachmentId=attachment_id) == "InvalidAttachmentID.NotFound"


def test_the_first_interface_stays(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    run(ec2, subnet_id)
    [interface] = ec2.describe_network_interfaces()["NetworkInterfaces"]
    attachment_id = interface["Attachment"]["AttachmentId"]
    assert refused(ec2.detach_network_interface, AttachmentId=attachment_id) == "OperationNotPermitted"
    kept = {"AttachmentId": attachment_id, "DeleteOnTermination": False}
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface["NetworkInterfaceId"], Attachment=kept)
    instance_id = interface["Attachment"]["InstanceId"]
    ec2.terminate_instances(InstanceIds=[instance_id])
    heard(api, {"instance_id": instance_id, "state": "terminated"})
    [left] = ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert (left["NetworkInterfaceId"], left["Status"]) == (interface["NetworkInterfaceId"], "available")


def test_an_instance_that_a_binding_names_is_described_and_goes_with_it(api: Any, ec2: Any, subnet_id: str) -> None:
    interface_id = ec2.create_network_interface(SubnetId=subnet_id)["NetworkInterface"]["NetworkInterfaceId"]
    path = f"/vnotch/v1/network-interfaces/{interface_id}/binding"
    ours(api, "PUT", "/vnotch/v1/agents/host")
    bound = {"agent": "host", "device": "tap0", "instance_id": "i-0123456789abcdef0"}
    assert ours(api, "PUT", path, bound).status_code == 200
    found = described(ec2, "i-0123456789abcdef0")
    assert found["State"]["Name"] == "running"
    assert "ImageId" not in found
    assert [item["NetworkInterfaceId"] for item in found["NetworkInterfaces"]] == [interface_id]
    named = {"InstanceIds": ["i-0123456789abcdef0"]}
    assert refused(ec2.terminate_instances, **named) == "OperationNotPermitted"
    attachment_id = ec2.describe_network_interfaces()["NetworkInterfaces"][0]["Attachment"]["AttachmentId"]
    assert refused(ec2.detach_network_interface, AttachmentId=attachment_id) == "OperationNotPermitted"
    assert ours(api, "DELETE", path).status_code == 200
    assert refused(ec2.describe_instances, **named) == "InvalidInstanceID.NotFound"


def test_instances_are_found_by_filters_and_in_pages(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    run(ec2, subnet_id, MinCount=7, MaxCount=7)
    [last] = run(ec2, subnet_id, PrivateIpAddress="10.0.0.99", InstanceType="m5.large")
    for name, value in (
        ("private-ip-address", "10.0.0.99"),
        ("instance-type", "m5.*"),
        (
            "reservation-id",
            ec2.describe_instances(InstanceIds=[last["InstanceId"]])["Reservations"][0]["ReservationId"],
        ),
    ):
        found = ec2.describe_instances(Filters=[{"Name": name, "Values": [value]}])["Reservations"]
        assert [each["InstanceId"] for row in found for each in row["Instances"]] == [last["InstanceId"]]
    pages = ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5})
    seen = [each["InstanceId"] for page in pages for row in page["Reservations"] for each in row["Instances"]]
    assert len(seen) == len(set(seen)) == 8
    assert refused(ec2.describe_instances, Filters=[{"Name": "colour", "Values": ["red"]}]) == "InvalidParameterValue"


def test_the_status_says_whether_the_interfaces_are_captured(api: Any, ec2: Any, subnet_id: str) -> None:
    heard(api)
    [launched] = run(ec2, subnet_id)
    assert ec2.describe_instance_status()["InstanceStatuses"] == []
    heard(api, {"instance_id": launched["InstanceId"], "state": "running"})
    [status] = ec2.describe_instance_status()["InstanceStatuses"]
    assert status["InstanceState"]["Name"] == "running"
    assert status["InstanceStatus"]["Status"] == "initializing"


def test_the_image_is_found(ec2: Any) -> None:
    [image] = ec2.describe_images(Owners=["self"])["Images"]
    assert (image["ImageId"], image["State"]) == (IMAGE_ID, "available")
    assert ec2.describe_images(Filters=[{"Name": "name", "Values": ["ubuntu*"]}])["Images"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"reports": 7},
        {"what": 1},
        {"vpc_id": "x"},
        {"reports": {}},
        {"reports": [{"instance_id": "i-1", "state": "sleepy"}]},
    ],
)
def test_what_a_host_says_is_checked(api: Any, ec2: Any, body: Any) -> None:
    answer = ours(api, "PUT", HOST, body)
    assert (answer.status_code, answer.json()["__type"]) == (400, "ValidationException")
