"""Clients that ask for the same thing at once get what AWS gives: one has made it, the others hear the error of one who
comes too late, and a client token makes one thing for all of them.

Error codes are those of the EC2, IAM and CloudWatch Logs API references. `make soak` runs these on PostgreSQL too.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from lakes import new_lake
from policies import FLOW_LOGS_TRUST, allow

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.ec2.images import IMAGE_ID
from vnotch.api.lab_hosts import LabHosts
from vnotch.api.logs import Logs

CLIENTS = 6


class Outcomes:
    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.codes: Counter[str] = Counter()


@pytest.fixture
def running(api: Any, tmp_path: Any) -> Iterator[Any]:
    lake = new_lake(tmp_path / "lake")
    logs = Logs(api.state, lake)
    routes = [*Agents(api.state, api.accounts).routes(), *LabHosts(api.state, api.accounts).routes()]
    api.serve(Ec2(api.state, api.accounts), logs, routes=routes)
    yield api
    api.stop()
    logs.close()
    lake.close()


def at_once(client: Any, operation: str, **params: Any) -> Outcomes:
    """The same call from CLIENTS threads that begin together."""
    together, lock, outcomes = threading.Barrier(CLIENTS), threading.Lock(), Outcomes()
    call: Callable[..., dict[str, Any]] = getattr(client, operation)

    def ask() -> None:
        together.wait(30)
        try:
            answer = call(**params)
        except ClientError as error:
            with lock:
                outcomes.codes[error.response["Error"]["Code"]] += 1
        else:
            with lock:
                outcomes.answers.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes.answers) + outcomes.codes.total() == CLIENTS
    return outcomes


def one_made_it(outcomes: Outcomes, code: str) -> dict[str, Any]:
    assert outcomes.codes == {code: CLIENTS - 1}
    [answer] = outcomes.answers
    return answer


def all_got(outcomes: Outcomes, *path: str) -> str:
    """The id that all got."""
    assert not outcomes.codes
    found = set()
    for answer in outcomes.answers:
        value: Any = answer
        for name in path:
            value = value[name]
        found.add(value if isinstance(value, str) else tuple(value))
    [one] = found
    return one if isinstance(one, str) else str(one[0])


def test_log_groups_and_streams(running: Any) -> None:
    logs = running.client("logs")
    one_made_it(at_once(logs, "create_log_group", logGroupName="g"), "ResourceAlreadyExistsException")
    stream = {"logGroupName": "g", "logStreamName": "s"}
    one_made_it(at_once(logs, "create_log_stream", **stream), "ResourceAlreadyExistsException")
    assert [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]] == ["g"]
    assert len(logs.describe_log_streams(logGroupName="g")["logStreams"]) == 1
    one_made_it(at_once(logs, "delete_log_group", logGroupName="g"), "ResourceNotFoundException")


def test_security_groups_and_their_rules(running: Any) -> None:
    ec2 = running.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    params = {"GroupName": "web", "Description": "d", "VpcId": vpc_id}
    group_id = one_made_it(at_once(ec2, "create_security_group", **params), "InvalidGroup.Duplicate")["GroupId"]
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    for operation in ("authorize_security_group_ingress", "authorize_security_group_egress"):
        one_made_it(
            at_once(ec2, operation, GroupId=group_id, IpPermissions=[permission]), "InvalidPermission.Duplicate"
        )
    mine = [{"Name": "group-id", "Values": [group_id]}]
    rules = ec2.describe_security_group_rules(Filters=mine)["SecurityGroupRules"]
    assert [rule["IsEgress"] for rule in rules if rule["IpProtocol"] == "tcp"] == [False, True]
    one_made_it(at_once(ec2, "delete_security_group", GroupId=group_id), "InvalidGroup.NotFound")


def test_networks(running: Any) -> None:
    """A block may be a VPC's as often as one likes, a subnet's once."""
    ec2 = running.client("ec2")
    made = at_once(ec2, "create_vpc", CidrBlock="10.0.0.0/16")
    vpcs = {answer["Vpc"]["VpcId"] for answer in made.answers}
    assert (len(vpcs), made.codes) == (CLIENTS, {})
    vpc_id = min(vpcs)
    subnet = one_made_it(at_once(ec2, "create_subnet", VpcId=vpc_id, CidrBlock="10.0.1.0/24"), "InvalidSubnet.Conflict")
    subnet_id = subnet["Subnet"]["SubnetId"]
    addressed = {"SubnetId": subnet_id, "PrivateIpAddress": "10.0.1.9"}
    one_made_it(at_once(ec2, "create_network_interface", **addressed), "InvalidIPAddress.InUse")
    without = at_once(ec2, "create_network_interface", SubnetId=subnet_id)
    addresses = {answer["NetworkInterface"]["PrivateIpAddress"] for answer in without.answers}
    assert (len(addresses), without.codes) == (CLIENTS, {}), "each gets an address of its own"
    gateway_id = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    attached = at_once(ec2, "attach_internet_gateway", InternetGatewayId=gateway_id, VpcId=vpc_id)
    one_made_it(attached, "Resource.AlreadyAssociated")
    [acl] = ec2.describe_network_acls(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["NetworkAcls"]
    entry = {"RuleNumber": 90, "Protocol": "-1", "RuleAction": "deny", "Egress": False, "CidrBlock": "10.9.0.0/16"}
    made = at_once(ec2, "create_network_acl_entry", NetworkAclId=acl["NetworkAclId"], **entry)
    one_made_it(made, "NetworkAclEntryAlreadyExists")
    tagged = at_once(ec2, "create_tags", Resources=[vpc_id], Tags=[{"Key": "Name", "Value": "net"}])
    assert not tagged.codes
    assert ec2.describe_vpcs(VpcIds=[vpc_id])["Vpcs"][0]["Tags"] == [{"Key": "Name", "Value": "net"}]
    one_made_it(at_once(ec2, "create_default_vpc"), "DefaultVpcAlreadyExists")


def test_flow_logs(running: Any) -> None:
    ec2, iam = running.client("ec2"), running.client("iam")
    role = iam.create_role(RoleName="flow-logs", AssumeRolePolicyDocument=FLOW_LOGS_TRUST)["Role"]["Arn"]
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    params = {
        "ResourceIds": [vpc_id], "ResourceType": "VPC", "TrafficType": "ALL", "LogGroupName": "g",
        "DeliverLogsPermissionArn": role,
    }  # fmt: skip
    ids = one_made_it(at_once(ec2, "create_flow_logs", **params), "FlowLogAlreadyExists")["FlowLogIds"]
    assert [found["FlowLogId"] for found in ec2.describe_flow_logs()["FlowLogs"]] == ids
    token = at_once(ec2, "create_flow_logs", ClientToken="t", **{**params, "LogGroupName": "other"})
    one = all_got(token, "FlowLogIds")
    assert {found["FlowLogId"] for found in ec2.describe_flow_logs()["FlowLogs"]} == {*ids, one}


@pytest.mark.parametrize(
    ("operation", "params", "path"),
    [
        ("create_network_interface", {"SubnetId": "SUBNET"}, ("NetworkInterface", "NetworkInterfaceId")),
        ("create_route_table", {"VpcId": "VPC"}, ("RouteTable", "RouteTableId")),
        ("create_network_acl", {"VpcId": "VPC"}, ("NetworkAcl", "NetworkAclId")),
        (
            "create_managed_prefix_list",
            {"PrefixListName": "p", "MaxEntries": 5, "AddressFamily": "IPv4"},
            ("PrefixList", "PrefixListId"),
        ),
        ("create_nat_gateway", {"SubnetId": "SUBNET", "ConnectivityType": "private"}, ("NatGateway", "NatGatewayId")),
        (
            "run_instances",
            {"ImageId": IMAGE_ID, "MinCount": 2, "MaxCount": 2, "SubnetId": "SUBNET"},
            ("ReservationId",),
        ),
    ],
)
def test_a_client_token_makes_one_for_all(running: Any, operation: str, params: Any, path: tuple[str, ...]) -> None:
    ec2 = running.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    if operation == "run_instances":
        body = json.dumps({"reports": [], "vpc_id": vpc_id}).encode()
        here = running.send("vnotch", body, method="PUT", path="/vnotch/v1/lab-hosts/here")
        assert here.status_code == 200, here.text
    given = {name: {"SUBNET": subnet_id, "VPC": vpc_id}.get(value, value) for name, value in params.items()}
    all_got(at_once(ec2, operation, ClientToken="token", **given), *path)
    if operation == "run_instances":
        [reservation] = ec2.describe_instances()["Reservations"]
        assert len(reservation["Instances"]) == 2


def test_users_roles_and_keys(running: Any) -> None:
    iam = running.client("iam")
    one_made_it(at_once(iam, "create_user", UserName="ana"), "EntityAlreadyExists")
    role = {"RoleName": "r", "AssumeRolePolicyDocument": FLOW_LOGS_TRUST}
    one_made_it(at_once(iam, "create_role", **role), "EntityAlreadyExists")
    one_made_it(at_once(iam, "create_group", GroupName="g"), "EntityAlreadyExists")
    made = at_once(iam, "create_access_key", UserName="ana")
    assert (len(made.answers), made.codes) == (2, {"LimitExceeded": CLIENTS - 2}), "a user has two keys"
    put = at_once(iam, "put_role_policy", RoleName="r", PolicyName="p", PolicyDocument=allow("logs:*"))
    assert not put.codes
    assert iam.list_role_policies(RoleName="r")["PolicyNames"] == ["p"]
    one_made_it(at_once(iam, "delete_role_policy", RoleName="r", PolicyName="p"), "NoSuchEntity")
