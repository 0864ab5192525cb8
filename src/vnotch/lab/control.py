"""A lab's side of the API: the VPC, its subnets, ENIs and flow logs, made and removed through AWS's own calls.

Everything carries a tag with the lab's token, so that what a crash left behind is found without a list of ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vnotch.errors import HostError, InputError
from vnotch.iam.delivery_role import POLICY, ensure_delivery_role
from vnotch.interrupts import pause
from vnotch.lab.firewall_control import create_acls, create_groups, create_prefix_lists, revoke_all
from vnotch.lab.routing_control import create_nat_gateway, create_routes
from vnotch.lab.topology import Eni, Topology
from vnotch.service_models import session
from vnotch.signed_http import Refused, SignedHttp

TAG = "vnotch:lab"
ROLE = "vnotch-lab-flow-logs"
GROUP_ALL, GROUP_REJECT, GROUP_DETAIL = "/vnotch/lab/all", "/vnotch/lab/reject", "/vnotch/lab/detail"
ATTACH_SECONDS = 30.0
_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 10

DETAIL_FORMAT = (
    "${version} ${account-id} ${vpc-id} ${subnet-id} ${instance-id} ${interface-id} ${az-id} ${type} ${srcaddr} "
    "${dstaddr} ${srcport} ${dstport} ${pkt-srcaddr} ${pkt-dstaddr} ${protocol} ${packets} ${bytes} ${start} ${end} "
    "${action} ${tcp-flags} ${flow-direction} ${traffic-path} ${x-rule-layer} ${x-rule-id} ${log-status}"
)


@dataclass(frozen=True)
class Made:
    """What the API gave: ids by the names of the topology, MAC addresses by ENI name."""

    vpc_id: str
    role_arn: str
    subnets: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)  # security groups
    interfaces: dict[str, str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)
    flow_logs: dict[str, str] = field(default_factory=dict)  # log group -> id


class ControlPlane:
    """The API as one administrator. `agent` is the name of the agent that captures the lab."""

    def __init__(self, url: str, access_key_id: str, secret_access_key: str, region: str, agent: str = "lab") -> None:
        self.url = url.rstrip("/")
        self.region = region
        self.agent = agent
        self._http = SignedHttp(url, region, access_key_id, secret_access_key)
        config = Config(retries={"total_max_attempts": 2}, connect_timeout=3, read_timeout=_TIMEOUT_SECONDS)

        made = session()

        def client(service: str) -> Any:
            return made.create_client(
                service,
                endpoint_url=self.url,
                region_name=region,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
                config=config,
            )

        self._ec2, self._iam, self._sts = client("ec2"), client("iam"), client("sts")

    def require_up(self) -> None:
        """Raises HostError where the API does not answer, or not to this key."""
        with self._calls():
            self._sts.get_caller_identity()

    # --- making

    def create_vpc(self, topology: Topology, token: str) -> Made:
        """The VPC with subnets, firewall and ENIs as the topology has them, and the role for delivery."""
        with self._calls():
            vpc: dict[str, Any] = {"CidrBlock": str(topology.vpc.cidr)}
            if topology.vpc.ipv6_cidr:
                vpc["Ipv6CidrBlock"] = str(topology.vpc.ipv6_cidr)
            answer = self._ec2.create_vpc(**vpc, TagSpecifications=_tags("vpc", token, "vnotch-lab"))
            made = Made(answer["Vpc"]["VpcId"], self._create_role())
            for subnet in topology.subnets:
                given: dict[str, Any] = {"VpcId": made.vpc_id, "CidrBlock": str(subnet.cidr)}
                given["AvailabilityZone"] = self.region + subnet.zone
                if subnet.ipv6_cidr:
                    given["Ipv6CidrBlock"] = str(subnet.ipv6_cidr)
                answer = self._ec2.create_subnet(**given, TagSpecifications=_tags("subnet", token, subnet.name))
                made.subnets[subnet.name] = answer["Subnet"]["SubnetId"]
            self._create_firewall(topology, made, token)
        for eni in topology.enis:
            made.interfaces[eni.name], made.macs[eni.name] = self.create_interface(
                eni, made.subnets[eni.subnet], token, made.groups
            )
        with self._calls():
            tags = partial(_tags_of, token)
            create_routes(self._ec2, topology, made.vpc_id, made.subnets, made.interfaces, tags)
        return made

    def _create_firewall(self, topology: Topology, made: Made, token: str) -> None:
        def tags(kind: str, name: str) -> list[dict[str, Any]]:
            return _tags(kind, token, name)

        prefix_lists = create_prefix_lists(self._ec2, topology, tags)
        made.groups.update(create_groups(self._ec2, topology, made.vpc_id, prefix_lists, tags))
        create_acls(self._ec2, topology, made.vpc_id, made.subnets, tags)

    def create_interface(self, eni: Eni, subnet_id: str, token: str, groups: Mapping[str, str]) -> tuple[str, str]:
        """Id and MAC address of a new network interface at the ENI's addresses, in its security groups (`groups`: name
        -> id). A NAT gateway makes its own."""
        if eni.kind == "nat_gateway":
            with self._calls():
                return create_nat_gateway(self._ec2, eni, subnet_id, partial(_tags_of, token))
        given: dict[str, Any] = {"SubnetId": subnet_id, "PrivateIpAddress": str(eni.address)}
        given["Description"] = eni.description or f"vnotch lab {eni.name}"
        if eni.ipv6:
            given["Ipv6Addresses"] = [{"Ipv6Address": str(eni.ipv6)}]
        if eni.security_groups:
            given["Groups"] = [groups[name] for name in eni.security_groups]
        with self._calls():
            tags = _tags("network-interface", token, eni.name)
            answer = self._ec2.create_network_interface(**given, TagSpecifications=tags)["NetworkInterface"]
        return answer["NetworkInterfaceId"], answer["MacAddress"]

    def create_flow_logs(self, topology: Topology, made: Made, token: str, interval_seconds: int) -> None:
        """Three subscriptions: all of the VPC, what is rejected in the first public subnet, and one interface in
        detail. Their log groups are made by the first traffic."""
        self._create_flow_log(made, token, "VPC", made.vpc_id, "ALL", GROUP_ALL, interval_seconds)
        public = next((subnet for subnet in topology.subnets if subnet.default_route == "internet"), None)
        if public:
            subnet_id = made.subnets[public.name]
            self._create_flow_log(made, token, "Subnet", subnet_id, "REJECT", GROUP_REJECT, interval_seconds)
        web = next(iter(topology.serving("http") or topology.of_kind("instance")), None)
        if web:
            interface_id = made.interfaces[web.name]
            self._create_flow_log(
                made, token, "NetworkInterface", interface_id, "ALL", GROUP_DETAIL, interval_seconds, DETAIL_FORMAT
            )

    def _create_flow_log(
        self,
        made: Made,
        token: str,
        kind: str,
        resource_id: str,
        traffic: str,
        group: str,
        interval_seconds: int,
        log_format: str | None = None,
    ) -> None:
        with self._calls():
            answer = self._ec2.create_flow_logs(
                ResourceType=kind,
                ResourceIds=[resource_id],
                TrafficType=traffic,
                LogGroupName=group,
                DeliverLogsPermissionArn=made.role_arn,
                MaxAggregationInterval=interval_seconds,
                TagSpecifications=_tags("vpc-flow-log", token, group),
                **({"LogFormat": log_format} if log_format else {}),
            )
        for failed in answer.get("Unsuccessful", []):
            raise HostError(f"no flow log for {failed['ResourceId']}: {failed['Error']['Message']}")
        made.flow_logs[group] = answer["FlowLogIds"][0]

    def _create_role(self) -> str:
        """The role that delivers; one for all labs, so there may be one already."""
        account = self._sts.get_caller_identity()["Account"]
        groups = (GROUP_ALL, GROUP_REJECT, GROUP_DETAIL)
        return ensure_delivery_role(self._iam, groups, account=account, region=self.region, name=ROLE)

    # --- bindings: vnotch's own part of the API

    def bind(self, eni: Eni, interface_id: str, instance_id: str | None) -> None:
        """Tells the agent which device in its namespace the interface is, and what it lets in."""
        kinds = {"instance": None, "managed": "interface", "nat_gateway": "nat_gateway"}
        body = {
            "agent": self.agent,
            "device": eni.device,
            "instance_id": instance_id,
            "interface_type": kinds[eni.kind],
            "requester_id": eni.requester,
            "enforce": eni.enforce,
        }
        self._request("PUT", _binding(interface_id), body)

    def unbind(self, interface_id: str) -> None:
        self._request("DELETE", _binding(interface_id), absent_is_fine=True)

    def wait_attached(
        self,
        interfaces: Mapping[str, str],
        seconds: float | None = None,
        attached: Callable[[str], None] | None = None,
    ) -> None:
        """Waits until the agent captures each interface (ENI name -> id). Raises HostError where it cannot, or does
        not within `seconds`."""
        seconds = ATTACH_SECONDS if seconds is None else seconds
        deadline = time.monotonic() + seconds
        waiting = dict(interfaces)
        state = "pending"
        while waiting:
            for name, interface_id in list(waiting.items()):
                binding = self._request("GET", _binding(interface_id))
                state = binding.get("state", "pending")
                if state == "failed":
                    raise HostError(f"the agent cannot capture {name}: {binding.get('message') or 'no reason given'}")
                if state == "attached":
                    del waiting[name]
                    if attached:
                        attached(name)
            if waiting and time.monotonic() > deadline:
                names = ", ".join(waiting)
                raise HostError(
                    f"agent {self.agent!r} has not attached {names} within {seconds:.0f} s (state: {state})",
                    "an agent for the lab's router namespace must run: see vnotch agent --help, --netns",
                )
            if waiting:
                pause(_POLL_SECONDS)

    # --- a lab that follows the API

    def tell_lab_host(self, name: str, vpc_id: str | None, reports: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """Says that the host is there and what became of its instances (id -> state and reason); the answer is its VPC
        and the instances that it is to have."""
        listed = [
            {"instance_id": instance_id, "state": state, "reason": reason}
            for instance_id, (state, reason) in reports.items()
        ]
        return self._request("PUT", f"/vnotch/v1/lab-hosts/{name}", {"vpc_id": vpc_id, "reports": listed})

    def describe_network(self, vpc_id: str) -> dict[str, Any]:
        """The VPC, its subnets, route tables and NAT gateways, as the API describes them."""
        of_vpc = [{"Name": "vpc-id", "Values": [vpc_id]}]
        with self._calls():
            return {
                "vpc": self._ec2.describe_vpcs(VpcIds=[vpc_id])["Vpcs"][0],
                "subnets": self._all("describe_subnets", "Subnets", Filters=of_vpc),
                "route_tables": self._all("describe_route_tables", "RouteTables", Filters=of_vpc),
                "nat_gateways": self._all("describe_nat_gateways", "NatGateways", Filter=of_vpc),
            }

    def mac_of(self, interface_id: str) -> str:
        with self._calls():
            [row] = self._ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
            return str(row["MacAddress"])

    # --- removing

    def remove(self, token: str) -> list[str]:
        """Deletes what carries the token, flow logs first. Returns what the API could not delete, in words.

        Safe to repeat. The role stays while another lab's flow logs name it.
        """
        left: list[str] = []
        mine = [{"Name": f"tag:{TAG}", "Values": [token]}]
        with self._calls():
            flow_logs = [row["FlowLogId"] for row in self._all("describe_flow_logs", "FlowLogs", Filter=mine)]
            if flow_logs:
                self._ec2.delete_flow_logs(FlowLogIds=flow_logs)
            interfaces = self._all("describe_network_interfaces", "NetworkInterfaces", Filters=mine)
            subnets = self._all("describe_subnets", "Subnets", Filters=mine)
            groups = self._all("describe_security_groups", "SecurityGroups", Filters=mine)
            acls = self._all("describe_network_acls", "NetworkAcls", Filters=mine)
            prefix_lists = self._all("describe_managed_prefix_lists", "PrefixLists", Filters=mine)
            vpcs = self._all("describe_vpcs", "Vpcs", Filters=mine)
            nat_gateways = self._all("describe_nat_gateways", "NatGateways", Filter=mine)
            addresses = self._ec2.describe_addresses(Filters=mine)["Addresses"]
            tables = self._all("describe_route_tables", "RouteTables", Filters=mine)
            gateways = self._all("describe_internet_gateways", "InternetGateways", Filters=mine)
            revoke_all(self._ec2, (row["GroupId"] for row in groups))
        for row in interfaces:
            self.unbind(row["NetworkInterfaceId"])
            self._delete(left, "delete_network_interface", NetworkInterfaceId=row["NetworkInterfaceId"])
        for row in nat_gateways:
            self._delete(left, "delete_nat_gateway", NatGatewayId=row["NatGatewayId"])
        for row in addresses:
            self._delete(left, "release_address", AllocationId=row["AllocationId"])
        for row in subnets:
            self._delete(left, "delete_subnet", SubnetId=row["SubnetId"])
        for row in tables:
            self._delete(left, "delete_route_table", RouteTableId=row["RouteTableId"])
        for row in gateways:
            gateway = {"InternetGatewayId": row["InternetGatewayId"]}
            for attachment in row["Attachments"]:
                self._delete(left, "detach_internet_gateway", **gateway, VpcId=attachment["VpcId"])
            self._delete(left, "delete_internet_gateway", **gateway)
        for row in acls:
            self._delete(left, "delete_network_acl", NetworkAclId=row["NetworkAclId"])
        for row in groups:
            self._delete(left, "delete_security_group", GroupId=row["GroupId"])
        for row in prefix_lists:
            self._delete(left, "delete_managed_prefix_list", PrefixListId=row["PrefixListId"])
        for row in vpcs:
            self._delete(left, "delete_vpc", VpcId=row["VpcId"])
        self._delete_role()
        return left

    def delete_interface(self, interface_id: str) -> None:
        """Takes one interface away, bound or not."""
        self.unbind(interface_id)
        with self._calls():
            self._ec2.delete_network_interface(NetworkInterfaceId=interface_id)

    def _all(self, operation: str, member: str, **given: Any) -> list[dict[str, Any]]:
        return [row for page in self._ec2.get_paginator(operation).paginate(**given) for row in page[member]]

    def _delete(self, left: list[str], operation: str, **given: str) -> None:
        try:
            getattr(self._ec2, operation)(**given)
        except ClientError as error:
            left.append(f"{next(iter(given.values()))}: {error.response['Error']['Message']}")
        except BotoCoreError as error:
            raise HostError(f"the API at {self.url}: {error}", _REMEDY) from error

    def _delete_role(self) -> None:
        """The role goes with the last flow log that names it. A release without these calls keeps it: it costs
        nothing, and the next lab uses it again."""
        try:
            rows = self._all("describe_flow_logs", "FlowLogs")
            if any(row.get("DeliverLogsPermissionArn", "").endswith(f"/{ROLE}") for row in rows):
                return
            self._iam.delete_role_policy(RoleName=ROLE, PolicyName=POLICY)
            self._iam.delete_role(RoleName=ROLE)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchEntity", "InvalidAction", "UnsupportedOperation"):
                raise HostError(f"the API at {self.url}: {error}") from error
        except BotoCoreError as error:
            raise HostError(f"the API at {self.url}: {error}", _REMEDY) from error

    # --- calls

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Turns what boto3 raises into our errors: refusals name code and text, silence names the address."""
        try:
            yield
        except ClientError as error:
            raise InputError(f"the API at {self.url} refuses: {error}") from error
        except BotoCoreError as error:
            raise HostError(f"the API at {self.url}: {error}", _REMEDY) from error

    def _request(self, method: str, path: str, body: Any = None, absent_is_fine: bool = False) -> dict[str, Any]:
        try:
            return self._http.request(method, path, body)
        except Refused as error:
            if error.status == 404 and absent_is_fine:
                return {}
            raise


_REMEDY = "start it with vnotch server"


def _binding(interface_id: str) -> str:
    return f"/vnotch/v1/network-interfaces/{interface_id}/binding"


def _tags_of(token: str, kind: str, name: str) -> list[dict[str, Any]]:
    return _tags(kind, token, name)


def _tags(kind: str, token: str, name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": TAG, "Value": token}, {"Key": "Name", "Value": name}]}]
