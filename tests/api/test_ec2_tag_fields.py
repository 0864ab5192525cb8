"""TagFieldSpecifications of CreateFlowLogs, tags of instances, and how tags and peers reach agents.

Bounds are those of API TagFieldSpecificationRequest, permissions those of the VPC user guide; the texts of refusals are
not published, so that only their codes and the naming of what is wrong are held.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from test_agents import Client

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.inventory import AgentConfiguration, Peer
from vnotch.store import peers
from vnotch.store.principals import InlinePolicy

ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/flow-logs"
KEYS = [
    {"ResourceType": "instance", "TagKeys": ["Name", "Owner"]},
    {"ResourceType": "network-interface", "TagKeys": ["Name"]},
]
TAG_FORMAT = "${interface-id} ${instance-tag} ${instance-tag-2} ${interface-tag}"
HOP_FORMAT = "${interface-id} ${next-hop-interface-id}"


class Site:
    """A VPC with a subnet, an agent `a` on one interface of it and an agent `b` on another."""

    def __init__(self, api: Any, ec2: Any) -> None:
        self.api, self.ec2, self.admin = api, ec2, Client(api)
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        # A group of which no rule speaks: an interface more in it is no change of anybody's rules.
        group = {"VpcId": self.vpc, "GroupName": "quiet", "Description": "quiet"}
        self.group = ec2.create_security_group(**group)["GroupId"]
        unique = self.vpc.removeprefix("vpc-")
        self.agents = {name: f"{name}-{unique}" for name in "ab"}
        self.instances = {"a": f"i-{unique}", "b": f"i-{unique[:-1]}{int(unique[-1], 16) ^ 1:x}"}
        self.interfaces = {name: self.interface() for name in "ab"}
        for name, agent in self.agents.items():
            self.admin.ok("PUT", f"/agents/{agent}")
            self.bind(self.interfaces[name], name, f"vn-{name}", instance_id=self.instances[name])

    def interface(self, **params: Any) -> str:
        made = self.ec2.create_network_interface(SubnetId=self.subnet, Groups=[self.group], **params)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def bind(self, interface: str, agent: str, device: str, **members: Any) -> None:
        body = {"agent": self.agents[agent], "device": device, **members}
        self.admin.ok("PUT", f"/network-interfaces/{interface}/binding", body)

    def unbind(self, interface: str) -> None:
        self.admin.ok("DELETE", f"/network-interfaces/{interface}/binding")

    def flow_log(self, resource: str, log_format: str, ec2: Any = None, **params: Any) -> str:
        kind = {"vpc": "VPC", "subnet": "Subnet", "eni": "NetworkInterface"}[resource.partition("-")[0]]
        answer = (ec2 or self.ec2).create_flow_logs(
            ResourceIds=[resource],
            ResourceType=kind,
            TrafficType="ALL",
            LogGroupName=params.pop("group", "group"),
            DeliverLogsPermissionArn=ROLE,
            LogFormat=log_format,
            **params,
        )
        return str(answer["FlowLogIds"][0])

    def refused(self, resource: str, log_format: str, **params: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as caught:
            self.flow_log(resource, log_format, **params)
        return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]

    def told(self, agent: str = "a") -> AgentConfiguration:
        return self.admin.configuration(self.agents[agent])

    def changed(self, call: Any, *args: Any, **params: Any) -> set[str]:
        """The agents whose revision a call changes."""
        before = {name: self.told(name).revision for name in self.agents}
        call(*args, **params)
        return {name for name in self.agents if self.told(name).revision != before[name]}

    def tag(self, resource: str, **tags: str) -> None:
        self.ec2.create_tags(Resources=[resource], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])


@pytest.fixture(scope="module")
def ec2(shared_api: Any) -> Any:
    agents = Agents(shared_api.state, shared_api.accounts)
    shared_api.serve(Ec2(shared_api.state, shared_api.accounts), routes=agents.routes())
    return shared_api.client("ec2", parameter_validation=False)


@pytest.fixture
def site(shared_api: Any, ec2: Any) -> Site:
    return Site(shared_api, ec2)


# --- CreateFlowLogs


def test_tag_keys_are_stored_and_given_back_in_their_order(site: Site) -> None:
    made = site.flow_log(site.vpc, TAG_FORMAT, TagFieldSpecifications=KEYS, ClientToken=site.vpc)
    [found] = site.ec2.describe_flow_logs(FlowLogIds=[made])["FlowLogs"]
    assert found["TagFieldSpecifications"] == KEYS
    # VPC user guide, "Service-linked role for VPC Flow Logs": made with such a flow log.
    role = site.api.client("iam").get_role(RoleName="AWSServiceRoleForVPCFlowLogs")["Role"]
    assert role["Path"] == "/aws-service-role/vpc-flow-logs.amazonaws.com/"
    assert found["LogFormat"] == TAG_FORMAT
    [flow_log] = site.told().flow_logs
    assert flow_log.tag_keys == (("instance", ("Name", "Owner")), ("network-interface", ("Name",)))
    assert site.flow_log(site.vpc, TAG_FORMAT, TagFieldSpecifications=KEYS, ClientToken=site.vpc) == made
    other = [{"ResourceType": "network-interface", "TagKeys": ["Other"]}, KEYS[0]]
    refused = site.refused(site.vpc, TAG_FORMAT, TagFieldSpecifications=other, ClientToken=site.vpc)
    assert refused[0] == "IdempotentParameterMismatch"


def test_a_flow_log_without_tag_keys_has_no_such_member(site: Site) -> None:
    made = site.flow_log(site.vpc, "${version}")
    [found] = site.ec2.describe_flow_logs(FlowLogIds=[made])["FlowLogs"]
    assert "TagFieldSpecifications" not in found


def test_auto_scaling_groups_are_taken_and_their_tags_never_found(site: Site) -> None:
    keys = [{"ResourceType": "auto-scaling-group", "TagKeys": ["a", "b"]}]
    site.flow_log(site.vpc, "${asg-tag} ${asg-tag-2}", TagFieldSpecifications=keys)
    assert site.told().flow_logs[0].tag_keys == (("auto-scaling-group", ("a", "b")),)


@pytest.mark.parametrize(
    ("log_format", "keys", "codes", "named"),
    [
        ("${instance-tag}", None, {"InvalidParameter"}, "instance-tag"),
        ("${instance-tag-2}", [{"ResourceType": "instance", "TagKeys": ["a"]}], {"InvalidParameter"}, "instance-tag-2"),
        (
            "${instance-tag}",
            [{"ResourceType": "network-interface", "TagKeys": ["a"]}],
            {"InvalidParameter"},
            "instance",
        ),
        (
            "${instance-tag}",
            [{"ResourceType": "vpc", "TagKeys": ["a"]}],
            {"InvalidParameterValue"},
            "vpc",
        ),
        (
            "${instance-tag}",
            [{"ResourceType": "instance", "TagKeys": ["a"]}, {"ResourceType": "instance", "TagKeys": ["b"]}],
            {"InvalidParameter"},
            "instance",
        ),
        (
            "${instance-tag}",
            [{"ResourceType": "instance", "TagKeys": ["a", "b", "c"]}],
            {"InvalidParameter", "InvalidParameterValue"},
            "",
        ),
        ("${instance-tag}", [{"ResourceType": "instance", "TagKeys": ["a", "a"]}], {"InvalidParameter"}, "instance"),
        ("${instance-tag}", [{"ResourceType": "instance"}], {"InvalidParameter"}, "instance"),
        (
            "${instance-tag}",
            [{"ResourceType": "instance", "TagKeys": ["k" * 129]}],
            {"InvalidParameterValue"},
            "k" * 129,
        ),
        ("${instance-tag}", [{"TagKeys": ["a"]}], {"InvalidParameterValue", "MissingParameter"}, ""),
    ],
)
def test_tag_keys_that_are_not_right(site: Site, log_format: str, keys: Any, codes: set[str], named: str) -> None:
    params = {} if keys is None else {"TagFieldSpecifications": keys}
    code, message = site.refused(site.vpc, log_format, **params)
    assert code in codes
    assert named in message
    assert site.told().flow_logs == ()


def test_showing_tags_needs_permissions_of_its_own(site: Site) -> None:
    accounts = site.api.accounts

    def user(*actions: str, service: str = "vpc-flow-logs.amazonaws.com") -> Any:
        statements: list[dict[str, Any]] = [
            {"Effect": "Allow", "Action": ["ec2:CreateFlowLogs", "iam:PassRole", *actions], "Resource": "*"}
        ]
        statements.append(
            {
                "Effect": "Allow",
                "Action": "iam:CreateServiceLinkedRole",
                "Resource": f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/*/AWSServiceRoleForVPCFlowLogs",
                "Condition": {"StringEquals": {"iam:AWSServiceName": service}},
            }
        )
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        with accounts.write() as session:
            made = accounts.make_user(session, f"user-{site.vpc}-{len(actions)}-{service[:5]}-{'-'.join(actions)[:9]}")
            session.add(InlinePolicy(owner_id=made.user_id, name="p", document=document))
            key = accounts.make_user_key(session, made)
            pair = (key.access_key_id, key.secret_access_key)
        return site.api.client("ec2", key=pair, parameter_validation=False)

    groups = [{"ResourceType": "auto-scaling-group", "TagKeys": ["a"]}]
    none, ec2_tags, group_tags = user(), user("ec2:DescribeTags"), user("autoscaling:DescribeTags")
    for client, keys, log_format, allowed in (
        (none, None, "${version}", True),
        (none, KEYS, TAG_FORMAT, False),
        (ec2_tags, KEYS, TAG_FORMAT, True),
        (ec2_tags, groups, "${asg-tag}", False),
        (group_tags, groups, "${asg-tag}", True),
        (group_tags, KEYS, TAG_FORMAT, False),
        (user("ec2:DescribeTags", service="ecs.amazonaws.com"), KEYS, TAG_FORMAT, False),
    ):
        params = {"DryRun": True, "ec2": client} | ({"TagFieldSpecifications": keys} if keys else {})
        expected = "DryRunOperation" if allowed else "UnauthorizedOperation"
        assert site.refused(site.vpc, log_format, **params)[0] == expected


# --- tags


def test_instances_of_bindings_can_be_tagged_and_others_not(site: Site) -> None:
    site.tag(site.instances["a"], Name="web")
    [found] = site.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [site.instances["a"]]}])["Tags"]
    assert found == {
        "Key": "Name",
        "Value": "web",
        "ResourceId": site.instances["a"],
        "ResourceType": "instance",
    }
    with pytest.raises(ClientError) as caught:
        site.tag("i-00000000000000000", Name="nobody")
    error = caught.value.response["Error"]
    assert (error["Code"], error["Message"]) == (
        "InvalidInstanceID.NotFound",
        "The instance ID 'i-00000000000000000' does not exist",
    )


def test_an_instances_tags_go_with_its_last_interface(site: Site) -> None:
    instance, second = site.instances["a"], site.interface()
    site.bind(second, "a", "vn-second", instance_id=instance)
    site.tag(instance, Name="web")
    mine = [{"Name": "resource-id", "Values": [instance]}]
    site.unbind(site.interfaces["a"])
    assert len(site.ec2.describe_tags(Filters=mine)["Tags"]) == 1
    site.bind(second, "a", "vn-second")  # of no instance any more
    assert site.ec2.describe_tags(Filters=mine)["Tags"] == []


def test_agents_are_told_the_tags_that_their_flow_logs_show_and_no_others(site: Site) -> None:
    site.tag(site.interfaces["a"], Name="front", Stage="test")
    site.tag(site.instances["a"], Owner="team", Name="web", Stage="test")
    [interface] = site.told().interfaces
    assert (interface.tags, interface.instance_tags) == ((), ())
    made = site.flow_log(site.vpc, TAG_FORMAT, TagFieldSpecifications=KEYS)
    [interface] = site.told().interfaces
    assert interface.tags == (("Name", "front"),)
    assert interface.instance_tags == (("Name", "web"), ("Owner", "team"))
    site.ec2.delete_flow_logs(FlowLogIds=[made])
    [interface] = site.told().interfaces
    assert (interface.tags, interface.instance_tags) == ((), ())


def test_a_change_of_tags_reaches_the_agents_that_show_them(site: Site) -> None:
    assert site.changed(site.tag, site.interfaces["a"], Name="first") == set(), "nobody shows it"
    site.flow_log(site.interfaces["a"], TAG_FORMAT, TagFieldSpecifications=KEYS)
    assert site.changed(site.tag, site.interfaces["a"], Name="second") == {"a"}
    assert site.told().interfaces[0].tags == (("Name", "second"),)
    assert site.changed(site.tag, site.instances["a"], Name="web") == {"a"}
    assert site.told().interfaces[0].instance_tags == (("Name", "web"),)
    assert site.changed(site.tag, site.instances["b"], Name="web") == set(), "b has no flow log that shows it"
    assert site.changed(site.tag, site.vpc, Name="vpc") == set()
    gone = {"Resources": [site.interfaces["a"]], "Tags": [{"Key": "Name"}]}
    assert site.changed(site.ec2.delete_tags, **gone) == {"a"}
    assert site.told().interfaces[0].tags == ()


# --- peers


def test_agents_are_told_the_vpcs_interfaces_only_where_a_flow_log_asks(site: Site) -> None:
    assert site.told().peers == ()
    site.flow_log(site.interfaces["a"], HOP_FORMAT)
    other = site.interface(
        PrivateIpAddresses=[
            {"PrivateIpAddress": "10.0.0.50", "Primary": True},
            {"PrivateIpAddress": "10.0.0.51", "Primary": False},
        ]
    )
    elsewhere = Site(site.api, site.ec2)
    told = site.told()
    assert {peer.interface_id for peer in told.peers} == {*site.interfaces.values(), other}
    assert told.peers[-1] == Peer(other, site.vpc, site.subnet, "use1-az1", None, ("10.0.0.50", "10.0.0.51"))
    assert told.peers_omitted == 0
    assert site.told("b").peers == ()
    assert elsewhere.told().peers == ()


def test_a_change_of_interfaces_reaches_the_agents_that_show_next_hops(site: Site) -> None:
    made: list[str] = []

    def create() -> None:
        made.append(site.interface())

    assert site.changed(create) == set()
    site.flow_log(site.interfaces["a"], HOP_FORMAT)
    assert site.changed(create) == {"a"}
    assert site.told().peers[-1].interface_id == made[1]
    assign = {"NetworkInterfaceId": made[1], "SecondaryPrivateIpAddressCount": 1}
    assert site.changed(site.ec2.assign_private_ip_addresses, **assign) == {"a"}
    assert len(site.told().peers[-1].addresses) == 2
    assert site.changed(site.bind, made[1], "b", "vn-x", interface_type="transit_gateway") == {"a", "b"}
    assert site.told().peers[-1].interface_type == "transit_gateway"
    assert site.changed(site.unbind, made[1]) == {"a", "b"}
    assert site.changed(site.ec2.delete_network_interface, NetworkInterfaceId=made[1]) == {"a"}
    assert made[1] not in {peer.interface_id for peer in site.told().peers}
    made_nat = site.ec2.create_nat_gateway(SubnetId=site.subnet, ConnectivityType="private")["NatGateway"]
    [address] = made_nat["NatGatewayAddresses"]
    assert site.told().peers[-1].interface_id == address["NetworkInterfaceId"]
    assert site.told().peers[-1].interface_type == "nat_gateway"
    assert site.changed(site.ec2.delete_nat_gateway, NatGatewayId=made_nat["NatGatewayId"]) == {"a", "b"}
    elsewhere = Site(site.api, site.ec2)
    assert site.changed(elsewhere.interface) == set()


def test_peers_are_bounded_and_what_is_left_out_is_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.flow_log(site.vpc, HOP_FORMAT)
    for _ in range(3):
        site.interface()
    monkeypatch.setattr(peers, "PEERS_MAX", 3)
    told = site.told()
    assert [peer.interface_id for peer in told.peers[:2]] == list(site.interfaces.values())
    assert (len(told.peers), told.peers_omitted) == (3, 2)
    monkeypatch.setattr(peers, "PEERS_MAX", 5)
    assert (len(site.told().peers), site.told().peers_omitted) == (5, 0)
