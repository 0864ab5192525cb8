"""What `vnotch attach` makes through the API and `vnotch detach` takes away again: the AWS objects round one device.

Everything that attach makes carries the tag `vnotch:attach` with the agent's name, and only that is ever removed. The
role is named after the interface and goes with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from vnotch.cli.destination import BucketFiles
from vnotch.cli.endpoint import Endpoint
from vnotch.cli.terminal import step
from vnotch.errors import HostError, InputError, VnotchError
from vnotch.iam.delivery_role import POLICY, ensure_delivery_role
from vnotch.interrupts import pause
from vnotch.inventory import RESERVED_NONE, RESERVED_TAG, AgentConfiguration
from vnotch.links import Addresses

TAG = "vnotch:attach"
ROLE_PREFIX = "vnotch-attach-"
OPEN_GROUP = "vnotch-attach-open"
"""The security group of interfaces that were given none: it lets everything through, as there is none to ask."""

ATTACH_SECONDS = 30.0
DELIVER_SECONDS = 25.0
"""An agent tells of what it has delivered at its next tick at the latest, which comes within ten seconds."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Wanted:
    """What the caller asks for; None: the default."""

    name: str
    subnet_id: str | None = None
    group_ids: tuple[str, ...] = ()
    new_vpc: bool = False
    flow_log: bool = True
    traffic_type: str = "ALL"
    interval_seconds: int = 60
    log_group: str | None = None
    files: BucketFiles | None = None  # in a bucket, instead of a log group


@dataclass
class Enrolled:
    """An interface as it is at the server. `made` is what this call made, in words."""

    interface_id: str
    subnet_id: str
    vpc_id: str
    addresses: list[str]
    group_ids: list[str]
    name: str | None
    ours: bool
    flow_logs: list[dict[str, Any]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


class Enrolment:
    """The API as the administrator who attaches interfaces of one agent's host."""

    def __init__(self, endpoint: Endpoint, agent: str) -> None:
        self.endpoint = endpoint
        self.agent = agent
        self._ec2, self._iam = endpoint.client("ec2"), endpoint.client("iam")

    # Reading

    def bound(self) -> dict[str, str]:
        """Device -> interface id, of the agent's bindings."""
        document = self.endpoint.request("GET", f"/vnotch/v1/agents/{self.agent}/configuration")
        configuration = AgentConfiguration.from_json(document)
        return {interface.device: interface.interface_id for interface in configuration.interfaces}

    def binding(self, interface_id: str) -> dict[str, Any]:
        return self.endpoint.request("GET", _binding(interface_id))

    def read(self, interface_id: str) -> Enrolled:
        [found] = self._ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
        tags = {tag["Key"]: tag["Value"] for tag in found["TagSet"]}
        flow_logs = self._ec2.describe_flow_logs(Filter=[{"Name": "resource-id", "Values": [interface_id]}])["FlowLogs"]
        return Enrolled(
            interface_id=interface_id,
            subnet_id=found["SubnetId"],
            vpc_id=found["VpcId"],
            addresses=[item["PrivateIpAddress"] for item in found["PrivateIpAddresses"]]
            + [item["Ipv6Address"] for item in found.get("Ipv6Addresses", [])],
            group_ids=[group["GroupId"] for group in found["Groups"]],
            name=tags.get("Name"),
            ours=TAG in tags,
            flow_logs=flow_logs,
        )

    def named(self, name: str) -> str | None:
        """The id of the agent's interface with this id or Name tag. Raises InputError where several have it."""
        mine = set(self.bound().values())
        if name in mine:
            return name
        tagged = [{"Name": "tag:Name", "Values": [name]}]
        rows = self._ec2.describe_network_interfaces(Filters=tagged)["NetworkInterfaces"]
        ids = [row["NetworkInterfaceId"] for row in rows if row["NetworkInterfaceId"] in mine]
        if len(ids) > 1:
            raise InputError(f"several interfaces are named {name}", f"name one of {', '.join(ids)}")
        return ids[0] if ids else None

    # Making

    def enrol(self, wanted: Wanted, addresses: Addresses, bind: dict[str, Any]) -> Enrolled:
        """Makes the interface and what it needs, binds it, and waits until the agent captures it.

        Raises InputError and HostError; what was made by then is removed again.
        """
        undo: list[Callable[[], object]] = []
        made: list[str] = []
        try:
            subnet = self._subnet(wanted, addresses, undo, made)
            interface_id = self._interface(wanted, addresses, subnet, undo, made)
            self.bind(interface_id, bind)
            undo.append(lambda: self._unbind(interface_id))
            self.wait_attached(interface_id, str(bind["device"]))
            if wanted.flow_log:
                self._flow_log(wanted, interface_id, undo, made)
        except BaseException:
            for take_away in reversed(undo):
                with contextlib.suppress(ClientError, BotoCoreError, VnotchError):
                    take_away()
            raise
        enrolled = self.read(interface_id)
        enrolled.made = made
        return enrolled

    def bind(self, interface_id: str, members: dict[str, Any]) -> dict[str, Any]:
        return self.endpoint.request("PUT", _binding(interface_id), {"agent": self.agent, **members})

    def wait_attached(self, interface_id: str, device: str) -> dict[str, Any]:
        """Waits until the agent has done what the binding says. Raises HostError where it cannot."""
        deadline = time.monotonic() + ATTACH_SECONDS
        while True:
            binding = self.binding(interface_id)
            if binding["state"] == "attached":
                return binding
            if binding["state"] in ("failed", "absent"):
                raise HostError(f"the agent cannot capture {device}: {binding['message'] or 'it gives no reason'}")
            if time.monotonic() > deadline:
                raise HostError(
                    f"agent {self.agent} has not attached {device} within {ATTACH_SECONDS:.0f} s",
                    "look at what it says: its log, or its status.json",
                )
            pause(_POLL_SECONDS)

    def _subnet(
        self, wanted: Wanted, addresses: Addresses, undo: list[Callable[[], object]], made: list[str]
    ) -> dict[str, Any]:
        block = block_of(addresses)
        if wanted.subnet_id:
            subnet = self._existing_subnet(wanted.subnet_id)
            if addresses.primary.ip not in IPv4Network(subnet["CidrBlock"]):
                raise InputError(
                    f"{addresses.primary.ip} is not in {subnet['CidrBlock']} of {wanted.subnet_id}",
                    "name another subnet, or none to have one made",
                )
            return subnet
        if not wanted.new_vpc:
            if (own := self._own_subnet(block)) is not None:
                return own
            self._refuse_overlap(block, addresses)
        six = ipv6_blocks_of(addresses)
        vpc_id = self._ec2.create_vpc(
            CidrBlock=str(block), **_given(Ipv6CidrBlock=six and str(six[0])), TagSpecifications=self._tags("vpc")
        )["Vpc"]["VpcId"]
        undo.append(lambda: self._ec2.delete_vpc(VpcId=vpc_id))
        made.append(f"VPC {vpc_id} {block}")
        subnet = self._ec2.create_subnet(
            VpcId=vpc_id,
            CidrBlock=str(block),
            **_given(Ipv6CidrBlock=six and str(six[1])),
            TagSpecifications=self._tags("subnet", **{RESERVED_TAG: RESERVED_NONE}),
        )["Subnet"]
        undo.append(lambda: self._ec2.delete_subnet(SubnetId=subnet["SubnetId"]))
        made.append(f"subnet {subnet['SubnetId']} {block}")
        return dict(subnet)

    def _existing_subnet(self, subnet_id: str) -> dict[str, Any]:
        return dict(self._ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"][0])

    def _own_subnet(self, block: IPv4Network) -> dict[str, Any] | None:
        """The subnet that was made for this very network before."""
        same = [{"Name": "cidr-block", "Values": [str(block)]}, {"Name": f"tag:{TAG}", "Values": [self.agent]}]
        rows = self._ec2.describe_subnets(Filters=same)["Subnets"]
        return dict(rows[0]) if rows else None

    def _refuse_overlap(self, block: IPv4Network, addresses: Addresses) -> None:
        """Two VPCs may overlap, on AWS and here; most likely the network is known already and shall be joined."""
        for page in self._ec2.get_paginator("describe_subnets").paginate():
            for row in page["Subnets"]:
                known = IPv4Network(row["CidrBlock"])
                if known.overlaps(block):
                    fits = addresses.primary.ip in known
                    join = f"join it with --subnet {row['SubnetId']}, or " if fits else ""
                    raise InputError(
                        f"{block} overlaps {known} of {row['SubnetId']} in {row['VpcId']}",
                        f"{join}have a VPC beside it with --new-vpc",
                    )

    def _interface(
        self,
        wanted: Wanted,
        addresses: Addresses,
        subnet: dict[str, Any],
        undo: list[Callable[[], object]],
        made: list[str],
    ) -> str:
        groups = list(wanted.group_ids)
        if not groups and any(tag["Key"] == TAG for tag in subnet.get("Tags", [])):
            groups = [self._open_group(subnet["VpcId"], undo, made)]
        elif not groups:
            step("its security group is the VPC's default one: what that does not allow is labelled REJECT")
        block, secondary, six = IPv4Network(subnet["CidrBlock"]), [], []
        for address in addresses.secondary:
            if address in block:
                secondary.append(str(address))
            else:
                step(f"{address} is not in {block}: the interface is known by its other addresses")
        associated = [IPv6Network(item["Ipv6CidrBlock"]) for item in subnet.get("Ipv6CidrBlockAssociationSet", [])]
        for own in addresses.ipv6:
            if any(own.ip in network for network in associated):
                six.append(str(own.ip))
            else:
                step(f"{own.ip} is in no block of the subnet: the interface is known by its other addresses")
        listed = [{"PrivateIpAddress": str(addresses.primary.ip), "Primary": True}]
        listed += [{"PrivateIpAddress": address, "Primary": False} for address in secondary]
        answer = self._ec2.create_network_interface(
            SubnetId=subnet["SubnetId"],
            PrivateIpAddresses=listed,
            Description=f"attached by vnotch on {self.agent}",
            **_given(Groups=groups, Ipv6Addresses=[{"Ipv6Address": address} for address in six]),
            TagSpecifications=self._tags("network-interface", Name=wanted.name),
        )["NetworkInterface"]
        interface_id = str(answer["NetworkInterfaceId"])
        undo.append(lambda: self._ec2.delete_network_interface(NetworkInterfaceId=interface_id))
        made.append(f"network interface {interface_id} {', '.join([str(addresses.primary.ip), *secondary, *six])}")
        return interface_id

    def _open_group(self, vpc_id: str, undo: list[Callable[[], object]], made: list[str]) -> str:
        here = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "group-name", "Values": [OPEN_GROUP]}]
        if rows := self._ec2.describe_security_groups(Filters=here)["SecurityGroups"]:
            return str(rows[0]["GroupId"])
        group_id = str(
            self._ec2.create_security_group(
                GroupName=OPEN_GROUP,
                Description="Lets everything through: what vnotch attach gives where no group is named",
                VpcId=vpc_id,
                TagSpecifications=self._tags("security-group"),
            )["GroupId"]
        )
        undo.append(lambda: self._ec2.delete_security_group(GroupId=group_id))
        everything = {
            "IpProtocol": "-1",
            "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
            "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        }
        self._ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[everything])
        six = {"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
        try:
            self._ec2.authorize_security_group_egress(GroupId=group_id, IpPermissions=[six])
        except ClientError as error:  # a group of a VPC with IPv6 has that rule from the start
            if error.response["Error"]["Code"] != "InvalidPermission.Duplicate":
                raise
        made.append(f"security group {group_id} that lets everything through")
        return group_id

    def _flow_log(self, wanted: Wanted, interface_id: str, undo: list[Callable[[], object]], made: list[str]) -> None:
        if wanted.files is not None:
            where, destination = wanted.files.url, wanted.files.parameters()
        else:
            where = wanted.log_group or self.default_log_group
            destination = {
                "LogGroupName": where,
                "DeliverLogsPermissionArn": self._role(interface_id, where, undo, made),
            }
        answer = self._ec2.create_flow_logs(
            ResourceType="NetworkInterface",
            ResourceIds=[interface_id],
            TrafficType=wanted.traffic_type,
            MaxAggregationInterval=wanted.interval_seconds,
            TagSpecifications=self._tags("vpc-flow-log"),
            **destination,
        )
        for failed in answer.get("Unsuccessful", []):
            raise HostError(f"no flow log for {failed['ResourceId']}: {failed['Error']['Message']}")
        [flow_log_id] = answer["FlowLogIds"]
        undo.append(lambda: self._ec2.delete_flow_logs(FlowLogIds=[flow_log_id]))
        made.append(f"flow log {flow_log_id} {wanted.traffic_type}, {wanted.interval_seconds} s, into {where}")

    def _role(self, interface_id: str, group: str, undo: list[Callable[[], object]], made: list[str]) -> str:
        name = ROLE_PREFIX + interface_id
        undo.append(lambda: self._delete_role(name))
        account, region = self.endpoint.account, self.endpoint.region
        role = ensure_delivery_role(self._iam, [group], account=account, region=region, name=name)
        made.append(f"role {name}, which may write to {group} and nothing else")
        return role

    @property
    def default_log_group(self) -> str:
        return f"/vnotch/{self.agent}"

    def _tags(self, kind: str, **more: str) -> list[dict[str, Any]]:
        tags = {TAG: self.agent, **more}
        return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]

    # Removing

    def remove(self, interface_id: str, agent_runs: bool) -> list[str]:
        """Unbinds the interface, waits until its last records are delivered, and removes what attach made for it and
        nobody else uses. -> what was removed, in words. An interface that attach did not make is unbound alone."""
        enrolled = self.read(interface_id)
        self._unbind(interface_id)
        if agent_runs:
            self._wait_delivered(interface_id, {row["FlowLogId"] for row in _ours(enrolled.flow_logs)})
        return [f"binding of {interface_id}", *self._remove_objects(enrolled)]

    def _remove_objects(self, enrolled: Enrolled) -> list[str]:
        """What attach made round an interface that is bound no more."""
        removed, interface_id = [], enrolled.interface_id
        if ours := _ours(enrolled.flow_logs):
            self._ec2.delete_flow_logs(FlowLogIds=[row["FlowLogId"] for row in ours])
            removed += [f"flow log {row['FlowLogId']}" for row in ours]
        if self._delete_role(ROLE_PREFIX + interface_id):
            removed.append(f"role {ROLE_PREFIX + interface_id}")
        if not enrolled.ours:
            return removed
        self._ec2.delete_network_interface(NetworkInterfaceId=interface_id)
        removed.append(f"network interface {interface_id}")
        return removed + self._remove_network(enrolled)

    def sweep(self) -> list[str]:
        """Removes what an attach that was killed half-way has left: interfaces of this agent's that are bound to
        nothing. -> what was removed, in words."""
        mine = [{"Name": f"tag:{TAG}", "Values": [self.agent]}, {"Name": "status", "Values": ["available"]}]
        removed = []
        for row in self._ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]:
            removed += self._remove_objects(self.read(row["NetworkInterfaceId"]))
        return removed

    def _remove_network(self, enrolled: Enrolled) -> list[str]:
        """The subnet, the open group and the VPC, as far as attach made them and nothing is left in them."""
        mine = [{"Name": "tag-key", "Values": [TAG]}]
        removed = []
        for kind, operation, member, wanted in (
            ("subnet", "describe_subnets", "Subnets", [{"Name": "subnet-id", "Values": [enrolled.subnet_id]}]),
            ("security group", "describe_security_groups", "SecurityGroups", self._of_vpc(enrolled.vpc_id)),
            ("VPC", "describe_vpcs", "Vpcs", self._of_vpc(enrolled.vpc_id)),
        ):
            for row in getattr(self._ec2, operation)(Filters=[*mine, *wanted])[member]:
                id_member = {"subnet": "SubnetId", "security group": "GroupId", "VPC": "VpcId"}[kind]
                delete = {"subnet": "delete_subnet", "security group": "delete_security_group", "VPC": "delete_vpc"}
                try:
                    getattr(self._ec2, delete[kind])(**{id_member: row[id_member]})
                except ClientError as error:
                    if error.response["Error"]["Code"] != "DependencyViolation":
                        raise
                    continue  # somebody else uses it
                removed.append(f"{kind} {row[id_member]}")
        return removed

    @staticmethod
    def _of_vpc(vpc_id: str) -> list[dict[str, Any]]:
        return [{"Name": "vpc-id", "Values": [vpc_id]}]

    def _unbind(self, interface_id: str) -> None:
        self.endpoint.request("DELETE", _binding(interface_id))

    def _wait_delivered(self, interface_id: str, flow_log_ids: Iterable[str]) -> None:
        """Waits until the agent has let the interface go and has delivered its last records. What it cannot deliver in
        time is dropped with the flow log, and said."""
        asked_ms = time.time() * 1000
        deadline = time.monotonic() + DELIVER_SECONDS
        ids = set(flow_log_ids)
        while time.monotonic() < deadline:
            status = self.endpoint.agent_status(self.agent) or {}
            if status.get("received_ms", 0) >= asked_ms:
                captured = {item["interface_id"] for item in status.get("interfaces", [])}
                waiting = status.get("spool", {}).get("waiting", {})
                if interface_id not in captured and not ids & set(waiting):
                    return
            pause(_POLL_SECONDS)
        step(f"agent {self.agent} has not said that it has delivered the last records; what it still has is dropped")

    def _delete_role(self, name: str) -> bool:
        try:
            with contextlib.suppress(self._iam.exceptions.NoSuchEntityException):
                self._iam.delete_role_policy(RoleName=name, PolicyName=POLICY)
            self._iam.delete_role(RoleName=name)
        except self._iam.exceptions.NoSuchEntityException:
            return False
        return True


def _ours(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of described resources those that attach made."""
    return [row for row in rows if any(tag["Key"] == TAG for tag in row.get("Tags", []))]


def block_of(addresses: Addresses) -> IPv4Network:
    """The block of a VPC and subnet for these addresses: their network, within the sizes that EC2 takes (/16 to /28);
    of a network that is larger the part round the address, of a single host the /24 round it."""
    length = addresses.primary.network.prefixlen
    length = max(length, 16) if length <= 28 else 24
    return IPv4Network((addresses.primary.ip, length), strict=False)


def ipv6_blocks_of(addresses: Addresses) -> tuple[IPv6Network, IPv6Network] | None:
    """(VPC's /56, subnet's /64) round the first IPv6 address; None where there is none."""
    if not addresses.ipv6:
        return None
    first = addresses.ipv6[0].ip
    return IPv6Network((first, 56), strict=False), IPv6Network((first, 64), strict=False)


def _binding(interface_id: str) -> str:
    return f"/vnotch/v1/network-interfaces/{interface_id}/binding"


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}
