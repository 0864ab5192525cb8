"""Agents: their keys, what they are told and when, what they report, and that one never sees another's."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session
from sqlalchemy import select, update

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.inventory import AgentConfiguration
from vnotch.store import network

ROLE = "arn:aws:iam::123456789012:role/flow-logs"
WAIT_SECONDS = 20
"""Of the polls in these tests: one that answers sooner was woken. How soon is measured by a benchmark, not here."""


class Client:
    """Signed requests to vnotch's own endpoints."""

    def __init__(self, api: Any, key: tuple[str, str] | None = None) -> None:
        self.api, self.key = api, key or api.administrator_key

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        data = b"" if body is None else json.dumps(body).encode()
        request = AWSRequest(method, f"{self.api.endpoint}/vnotch/v1{path}", data=data)
        SigV4Auth(Credentials(*self.key), "vnotch", "us-east-1").add_auth(request)
        answer = URLLib3Session(timeout=(5, 30)).send(request.prepare())
        return answer.status_code, json.loads(answer.content)

    def ok(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, content = self.send(method, path, body)
        assert status == 200, content
        return content

    def error(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, content = self.send(method, path, body)
        assert set(content) == {"__type", "message"}, content
        return status, content["__type"]

    def configuration(self, agent: str, **query: int) -> AgentConfiguration:
        path = f"/agents/{agent}/configuration" + (f"?{urlencode(query)}" if query else "")
        return AgentConfiguration.from_json(self.ok("GET", path))


class Site:
    """One VPC, a public and a private subnet, and two agents `a` and `b`."""

    def __init__(self, api: Any) -> None:
        self.agents = Agents(api.state, api.accounts)
        api.serve(Ec2(api.state, api.accounts, any_interval=True), routes=self.agents.routes())
        api.flow_log_for = self.agents.flow_log_for
        self.api, self.admin, self.ec2 = api, Client(api), api.client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16", Ipv6CidrBlock="fd12:3456:789a:bc00::/56")["Vpc"][
            "VpcId"
        ]
        self.public = self.subnet("10.0.0.0/24", "fd12:3456:789a:bc00::/64")
        self.private = self.subnet("10.0.1.0/24", "fd12:3456:789a:bc01::/64")
        self.a, self.b = self.agent("a"), self.agent("b")

    def subnet(self, cidr: str, ipv6: str) -> str:
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr, Ipv6CidrBlock=ipv6)
        return str(made["Subnet"]["SubnetId"])

    def agent(self, name: str) -> Client:
        made = self.admin.ok("PUT", f"/agents/{name}")
        return Client(self.api, (made["access_key_id"], made["secret_access_key"]))

    def interface(self, subnet: str, **params: Any) -> str:
        made = self.ec2.create_network_interface(SubnetId=subnet, **params)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def bind(self, interface: str, agent: str, device: str, **members: Any) -> dict[str, Any]:
        body = {"agent": agent, "device": device, **members}
        return self.admin.ok("PUT", f"/network-interfaces/{interface}/binding", body)

    def flow_log(self, resource: str, group: str = "flows", **params: Any) -> str:
        kind = {"vpc": "VPC", "subnet": "Subnet", "eni": "NetworkInterface"}[resource.partition("-")[0]]
        [made] = self.ec2.create_flow_logs(
            ResourceIds=[resource],
            ResourceType=kind,
            LogGroupName=group,
            DeliverLogsPermissionArn=ROLE,
            **{"TrafficType": "ALL", **params},
        )["FlowLogIds"]
        return str(made)


@pytest.fixture
def site(api: Any) -> Site:
    return Site(api)


# --- configuration ---


def test_a_bound_interface_is_in_its_agents_configuration(site: Site) -> None:
    interface = site.interface(
        site.public,
        PrivateIpAddresses=[
            {"PrivateIpAddress": "10.0.0.11", "Primary": False},
            {"PrivateIpAddress": "10.0.0.10", "Primary": True},
        ],
        Ipv6Addresses=[{"Ipv6Address": "fd12:3456:789a:bc00::10"}],
    )
    site.bind(interface, "a", "vn-web", instance_id="i-0123456789abcdef0", enforce=True, guest_mac="02:00:00:00:00:07")
    configuration = site.a.configuration("a")
    [found] = configuration.interfaces
    mac = site.ec2.describe_network_interfaces()["NetworkInterfaces"][0]["MacAddress"]
    assert json.loads(json.dumps(configuration.to_json()))["interfaces"] == [
        {
            "interface_id": interface,
            "device": "vn-web",
            "account_id": "123456789012",
            "region": "us-east-1",
            "vpc_id": site.vpc,
            "subnet_id": site.public,
            "az_id": "use1-az1",
            "mac": mac,
            "instance_id": "i-0123456789abcdef0",
            "interface_type": None,
            "private_ipv4": ["10.0.0.10", "10.0.0.11"],
            "ipv6": ["fd12:3456:789a:bc00::10"],
            "vpc_cidrs": ["10.0.0.0/16", "fd12:3456:789a:bc00::/56"],
            "subnet_cidrs": ["10.0.0.0/24", "fd12:3456:789a:bc00::/64"],
            "enforce": True,
            "enforce_seconds": None,
            "enforce_until_ms": None,
            "sense": "outside",
            "reserved_addresses": True,
            "guest_mac": "02:00:00:00:00:07",
            "group_ids": [site.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
            "network_acl_id": site.ec2.describe_network_acls()["NetworkAcls"][0]["NetworkAclId"],
            "routes": [],
            "tags": [],
            "instance_tags": [],
        }
    ]
    assert found.primary_ipv4 == "10.0.0.10"
    assert site.b.configuration("b").interfaces == ()


def test_flow_logs_resolve_to_the_agents_interfaces_also_to_later_ones(site: Site) -> None:
    web, data, other = site.interface(site.public), site.interface(site.private), site.interface(site.private)
    site.bind(web, "a", "vn-web")
    site.bind(data, "a", "vn-data")
    site.bind(other, "b", "vn-other")
    whole = site.flow_log(site.vpc)
    part = site.flow_log(site.private, TrafficType="REJECT", MaxAggregationInterval=5)
    one = site.flow_log(web, group="web")

    def covered(client: Client, agent: str) -> dict[str, tuple[str, ...]]:
        return {item.flow_log_id: item.interface_ids for item in client.configuration(agent).flow_logs}

    assert covered(site.a, "a") == {whole: (web, data), part: (data,), one: (web,)}
    assert covered(site.b, "b") == {whole: (other,), part: (other,)}
    late = site.interface(site.public)
    site.bind(late, "b", "vn-late")
    assert covered(site.b, "b") == {whole: (other, late), part: (other,)}
    assert covered(site.a, "a") == {whole: (web, data), part: (data,), one: (web,)}
    site.ec2.delete_flow_logs(FlowLogIds=[whole])
    assert covered(site.a, "a") == {part: (data,), one: (web,)}
    [rejects] = [item for item in site.b.configuration("b").flow_logs if item.flow_log_id == part]
    assert (rejects.traffic_type, rejects.max_aggregation_interval, rejects.resource_id) == ("REJECT", 5, site.private)
    assert (rejects.log_group_name, rejects.log_destination_type) == ("flows", "cloud-watch-logs")
    assert rejects.deliver_logs_permission_arn == ROLE
    assert rejects.stream_name(other) == f"{other}-reject"


def test_a_revision_changes_with_what_the_agent_is_told_and_with_nothing_else(site: Site) -> None:
    def revisions() -> tuple[int, int]:
        return site.a.configuration("a").revision, site.b.configuration("b").revision

    web = site.interface(site.public)
    before = revisions()
    site.bind(web, "a", "vn-web")
    a, b = revisions()
    assert a > before[0]
    assert b == before[1]
    site.bind(web, "a", "vn-web")  # the same again
    aside = site.ec2.create_security_group(VpcId=site.vpc, GroupName="aside", Description="no rule refers to it")
    site.interface(site.public, Groups=[aside["GroupId"]])  # bound to nobody
    flow_log = site.flow_log(site.private)  # nobody has an interface there
    site.ec2.create_tags(Resources=[web], Tags=[{"Key": "Name", "Value": "web"}])
    site.a.ok("POST", "/agents/a/status", {"interfaces": [{"interface_id": web, "state": "attached"}]})
    site.ec2.delete_flow_logs(FlowLogIds=[flow_log])
    assert revisions() == (a, b)
    changes: list[Any] = [
        lambda: site.flow_log(site.vpc),
        lambda: site.ec2.associate_vpc_cidr_block(VpcId=site.vpc, CidrBlock="10.1.0.0/16"),
        lambda: site.ec2.assign_private_ip_addresses(NetworkInterfaceId=web, SecondaryPrivateIpAddressCount=1),
        lambda: site.bind(web, "a", "vn-web", enforce=True),
        lambda: site.admin.ok("DELETE", f"/network-interfaces/{web}/binding"),
    ]
    for change in changes:
        change()
        now, same = revisions()
        assert now > a
        assert same == b
        a = now


# --- the long poll ---


def test_a_poll_answers_at_once_where_the_revision_is_another_one(site: Site) -> None:
    began = time.monotonic()
    site.a.configuration("a", revision=1, wait_seconds=WAIT_SECONDS)
    site.a.configuration("a", wait_seconds=WAIT_SECONDS)
    assert time.monotonic() - began < 2


def test_a_poll_answers_at_its_end_with_the_same_revision(site: Site) -> None:
    revision = site.a.configuration("a").revision
    began = time.monotonic()
    assert site.a.configuration("a", revision=revision, wait_seconds=1).revision == revision
    assert 1 <= time.monotonic() - began < 3


def test_a_change_wakes_a_poll(site: Site) -> None:
    web = site.interface(site.public)
    site.bind(web, "a", "vn-web")
    ec2 = site.ec2
    latencies = []
    for number in range(5):
        revision = site.a.configuration("a").revision
        answered: list[tuple[float, int]] = []

        def poll(revision: int = revision, answered: list[tuple[float, int]] = answered) -> None:
            found = site.a.configuration("a", revision=revision, wait_seconds=WAIT_SECONDS)
            answered.append((time.monotonic(), found.revision))

        thread = threading.Thread(target=poll)
        thread.start()
        time.sleep(0.4)
        site.flow_log(site.vpc, group=f"group-{number}")
        changed = time.monotonic()
        thread.join()
        latencies.append(answered[0][0] - changed)
        assert answered[0][1] > revision
    assert max(latencies) < WAIT_SECONDS / 2, latencies
    assert len(ec2.describe_flow_logs()["FlowLogs"]) == 5


def test_anothers_change_does_not_wake_a_poll(site: Site) -> None:
    other = site.interface(site.private)
    revision = site.a.configuration("a").revision
    answered: list[float] = []

    def poll() -> None:
        assert site.a.configuration("a", revision=revision, wait_seconds=2).revision == revision
        answered.append(time.monotonic())

    began = time.monotonic()
    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.3)
    site.bind(other, "b", "vn-other")
    site.flow_log(site.vpc)
    thread.join()
    assert answered[0] - began >= 2


def test_polls_hold_no_thread_and_are_bounded(api: Any) -> None:
    agents = Agents(api.state, api.accounts, waiters_max=40)
    api.serve(Ec2(api.state, api.accounts), routes=agents.routes())
    admin = Client(api)
    made = [admin.ok("PUT", f"/agents/agent-{number}") for number in range(41)]
    clients = [Client(api, (item["access_key_id"], item["secret_access_key"])) for item in made]
    revisions = [client.configuration(item["agent"]).revision for client, item in zip(clients, made, strict=True)]

    def poll(number: int) -> None:
        clients[number].configuration(f"agent-{number}", revision=revisions[number], wait_seconds=30)

    # More polls than the API has threads, and it still answers.
    threads = [threading.Thread(target=poll, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while agents.watch._count < 40:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert api.limits.threads < 40
    began = time.monotonic()
    assert api.client("ec2").describe_vpcs()["Vpcs"] == []
    assert time.monotonic() - began < 3
    path = f"/agents/agent-40/configuration?revision={revisions[40]}&wait_seconds=30"
    assert clients[40].error("GET", path) == (503, "LimitExceededException")
    assert agents.watch.turned_away == 1
    agents.watch.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_an_agent_that_polls_again_and_again_frees_its_oldest_poll(site: Site) -> None:
    revision = site.a.configuration("a").revision
    threads = [
        threading.Thread(target=lambda: site.a.configuration("a", revision=revision, wait_seconds=WAIT_SECONDS))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while sum(thread.is_alive() for thread in threads) == 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sum(thread.is_alive() for thread in threads) == 4
    site.agents.watch.close()
    for thread in threads:
        thread.join(5)


# --- isolation ---


def test_an_agent_reads_and_reports_for_itself_alone(site: Site) -> None:
    assert site.a.error("GET", "/agents/b/configuration") == (403, "AccessDeniedException")
    assert site.a.error("POST", "/agents/b/status", {}) == (403, "AccessDeniedException")
    assert site.a.error("GET", "/agents/b/status") == (403, "AccessDeniedException")
    assert site.a.error("PUT", "/agents/a") == (403, "AccessDeniedException")
    interface = site.interface(site.public)
    path = f"/network-interfaces/{interface}/binding"
    for method in ("GET", "PUT", "DELETE"):
        assert site.a.error(method, path, {"agent": "a", "device": "x"}) == (403, "AccessDeniedException")


def test_an_agent_cannot_report_on_anothers_interfaces_and_flow_logs(site: Site) -> None:
    interface = site.interface(site.private)
    site.bind(interface, "b", "vn-data")
    flow_log = site.flow_log(interface)
    report = {
        "interfaces": [{"interface_id": interface, "state": "failed", "message": "not mine"}],
        "flow_logs": [{"flow_log_id": flow_log, "status": "FAILED", "message": "Access error"}],
    }
    site.a.ok("POST", "/agents/a/status", report)
    assert site.admin.ok("GET", f"/network-interfaces/{interface}/binding")["state"] == "pending"
    assert site.ec2.describe_flow_logs()["FlowLogs"][0]["DeliverLogsStatus"] == "SUCCESS"


def test_a_new_key_replaces_the_old_one(site: Site) -> None:
    renewed = site.agent("a")
    assert renewed.configuration("a").interfaces == ()
    status, content = site.a.send("GET", "/agents/a/configuration")
    assert status in (400, 403), content


def test_an_unsigned_request_is_refused(site: Site) -> None:
    answer = URLLib3Session().send(AWSRequest("GET", f"{site.api.endpoint}/vnotch/v1/agents/a/configuration").prepare())
    assert 400 <= answer.status_code < 500


def test_agents_that_are_not_there(site: Site) -> None:
    assert site.admin.error("GET", "/agents/c/configuration") == (404, "ResourceNotFoundException")
    assert site.admin.error("GET", "/agents/c/status") == (404, "ResourceNotFoundException")
    assert site.admin.error("POST", "/agents/c/status", {}) == (404, "ResourceNotFoundException")
    assert site.admin.error("PUT", "/agents/-c") == (400, "ValidationException")


# --- bindings ---


def test_the_states_of_a_binding(site: Site) -> None:
    interface = site.interface(site.public)
    path = f"/network-interfaces/{interface}/binding"
    made = site.bind(interface, "a", "vn-web", instance_id="i-0123456789abcdef0")
    assert made == {
        "interface_id": interface,
        "agent": "a",
        "device": "vn-web",
        "instance_id": "i-0123456789abcdef0",
        "interface_type": None,
        "requester_id": None,
        "enforce": False,
        "enforce_seconds": None,
        "enforce_until_ms": None,
        "sense": "outside",
        "guest_mac": None,
        "state": "pending",
        "message": None,
        "mode": None,
    }

    def report(state: str, message: str | None = None, mode: str | None = None, **more: int) -> dict[str, Any]:
        item = {"interface_id": interface, "state": state, "message": message, "mode": mode}
        site.a.ok("POST", "/agents/a/status", {"interfaces": [item], **more})
        return site.admin.ok("GET", path)

    assert report("attached", mode="tcx")["mode"] == "tcx"
    assert report("absent", "there is no vn-web")["message"] == "there is no vn-web"
    assert report("attached")["state"] == "attached"
    assert report("failed", "no permission")["state"] == "failed"
    # A changed binding is pending again; a report that was made before the change says nothing of it.
    old = site.a.configuration("a").revision
    assert site.bind(interface, "a", "vn-web2")["state"] == "pending"
    assert report("attached", revision=old)["state"] == "pending"
    assert report("attached", revision=site.a.configuration("a").revision)["state"] == "attached"
    # To another agent: the first one's reports no longer count.
    assert site.bind(interface, "b", "vn-web")["state"] == "pending"
    assert report("attached")["state"] == "pending"
    assert site.a.configuration("a").interfaces == ()
    site.admin.ok("DELETE", path)
    assert site.admin.error("GET", path) == (404, "ResourceNotFoundException")
    assert site.admin.error("DELETE", path) == (404, "ResourceNotFoundException")
    assert site.b.configuration("b").interfaces == ()


def test_a_bound_interface_is_in_use(site: Site) -> None:
    interface = site.interface(site.public)
    site.bind(interface, "a", "vn-web", instance_id="i-0123456789abcdef0")
    [found] = site.ec2.describe_network_interfaces(
        Filters=[{"Name": "attachment.instance-id", "Values": ["i-0123456789abcdef0"]}]
    )["NetworkInterfaces"]
    attachment = found["Attachment"]
    assert attachment.pop("AttachmentId").startswith("eni-attach-")
    attachment.pop("AttachTime")
    assert attachment == {
        "DeleteOnTermination": False,
        "DeviceIndex": 0,
        "NetworkCardIndex": 0,
        "InstanceId": "i-0123456789abcdef0",
        "InstanceOwnerId": "123456789012",
        "Status": "attached",
    }
    assert (found["Status"], found["RequesterManaged"]) == ("in-use", False)
    with pytest.raises(site.ec2.exceptions.ClientError) as caught:
        site.ec2.delete_network_interface(NetworkInterfaceId=interface)
    assert caught.value.response["Error"] == {
        "Code": "InvalidParameterValue",
        "Message": f"Network interface '{interface}' is currently in use.",
    }
    site.admin.ok("DELETE", f"/network-interfaces/{interface}/binding")
    site.ec2.delete_network_interface(NetworkInterfaceId=interface)


def test_interfaces_of_services_are_requester_managed(site: Site) -> None:
    # EC2 user guide, requester-managed network interfaces.
    data, nat = site.interface(site.private, Description="RDSNetworkInterface"), site.interface(site.public)
    site.bind(data, "a", "vn-db", interface_type="interface", requester_id="amazon-rds")
    site.bind(nat, "a", "vn-nat", interface_type="nat_gateway")
    found = {item["NetworkInterfaceId"]: item for item in site.ec2.describe_network_interfaces()["NetworkInterfaces"]}
    assert found[data]["RequesterManaged"] is found[nat]["RequesterManaged"] is True
    assert (found[data]["RequesterId"], found[data]["InterfaceType"]) == ("amazon-rds", "interface")
    assert found[data]["Attachment"]["InstanceOwnerId"] == "amazon-rds"
    assert found[nat]["InterfaceType"] == "nat_gateway"
    assert "InstanceId" not in found[data]["Attachment"]
    told = {item.interface_id: item for item in site.a.configuration("a").interfaces}
    assert (told[data].interface_type, told[data].instance_id) == (None, None)
    assert told[nat].interface_type == "nat_gateway"


def test_the_sense_of_a_device_reaches_its_agent(site: Site) -> None:
    interface = site.interface(site.public)
    assert site.bind(interface, "a", "eth0", sense="inside")["sense"] == "inside"
    [told] = site.a.configuration("a").interfaces
    assert told.sense == "inside"


def test_enforcement_on_trial_ends_by_itself_and_can_be_confirmed(site: Site) -> None:
    interface = site.interface(site.public)
    made = site.bind(interface, "a", "eth0", enforce=True, enforce_seconds=1)
    assert (made["enforce"], made["enforce_seconds"]) == (True, 1)
    again = site.bind(interface, "a", "eth0", enforce=True, enforce_seconds=1)
    assert again["enforce_until_ms"] == made["enforce_until_ms"], "asked twice, begun once"
    [told] = site.a.configuration("a").interfaces
    assert (told.enforce, told.enforce_seconds, told.enforce_until_ms) == (True, 1, made["enforce_until_ms"])
    while time.time() * 1000 < made["enforce_until_ms"]:
        time.sleep(0.05)
    assert site.admin.ok("GET", f"/network-interfaces/{interface}/binding")["enforce"] is False
    [told] = site.a.configuration("a").interfaces
    assert (told.enforce, told.enforce_seconds, told.enforce_until_ms) == (False, None, None)
    begun = site.bind(interface, "a", "eth0", enforce=True, enforce_seconds=60)
    assert begun["enforce"] is True
    assert begun["enforce_until_ms"] > made["enforce_until_ms"]
    assert begun["state"] == "pending"
    before = site.a.configuration("a").revision
    confirmed = site.bind(interface, "a", "eth0", enforce=True)
    assert (confirmed["enforce"], confirmed["enforce_until_ms"]) == (True, None)
    [told] = site.a.configuration("a").interfaces
    assert (told.enforce, told.enforce_until_ms) == (True, None)
    assert site.a.configuration("a").revision > before


def test_a_network_that_was_there_before_has_no_reserved_addresses(site: Site) -> None:
    with pytest.raises(site.ec2.exceptions.ClientError, match="reserved address range"):
        site.interface(site.public, PrivateIpAddress="10.0.0.1")
    site.ec2.create_tags(Resources=[site.public], Tags=[{"Key": "vnotch:reserved-addresses", "Value": "none"}])
    interface = site.interface(
        site.public, PrivateIpAddress="10.0.0.1", Ipv6Addresses=[{"Ipv6Address": "fd12:3456:789a:bc00::1"}]
    )
    site.bind(interface, "a", "br0")
    [told] = site.a.configuration("a").interfaces
    assert told.reserved_addresses is False
    with pytest.raises(site.ec2.exceptions.ClientError, match="does not fall within"):
        site.interface(site.public, PrivateIpAddress="10.0.1.1")
    before = site.a.configuration("a").revision
    site.ec2.delete_tags(Resources=[site.public], Tags=[{"Key": "vnotch:reserved-addresses"}])
    [told] = site.a.configuration("a").interfaces
    assert told.reserved_addresses is True
    assert site.a.configuration("a").revision > before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"agent": "a"},
        {"agent": "a", "device": ""},
        {"agent": "a", "device": "sixteen-bytes-xx"},
        {"agent": "a", "device": "a/b"},
        {"agent": "a", "device": "x", "colour": "red"},
        {"agent": "a", "device": "x", "instance_id": "web"},
        {"agent": "a", "device": "x", "interface_type": "natGateway"},
        {"agent": "a", "device": "x", "enforce": "yes"},
        {"agent": "a", "device": "x", "sense": "sideways"},
        {"agent": "a", "device": "x", "enforce_seconds": 60},
        {"agent": "a", "device": "x", "enforce": True, "enforce_seconds": 0},
        {"agent": "a", "device": "x", "enforce": True, "enforce_seconds": True},
        {"agent": "a", "device": "x", "enforce": True, "enforce_seconds": 86401},
        {"agent": "a", "device": "x", "guest_mac": "02:00:00:00:00"},
        {"agent": "a", "device": "x", "guest_mac": "02-00-00-00-00-07"},
        {"agent": "a", "device": "x", "guest_mac": 7},
    ],
)
def test_bindings_that_are_not_right(site: Site, body: dict[str, Any]) -> None:
    interface = site.interface(site.public)
    assert site.admin.error("PUT", f"/network-interfaces/{interface}/binding", body) == (400, "ValidationException")
    assert site.admin.error("GET", f"/network-interfaces/{interface}/binding")[0] == 404


def test_bindings_to_what_is_not_there_or_taken(site: Site) -> None:
    first, second = site.interface(site.public), site.interface(site.public)
    site.bind(first, "a", "vn-web")
    path = f"/network-interfaces/{second}/binding"
    assert site.admin.error("PUT", path, {"agent": "c", "device": "x"}) == (404, "ResourceNotFoundException")
    assert site.admin.error("PUT", path, {"agent": "a", "device": "vn-web"}) == (409, "ConflictException")
    site.bind(second, "b", "vn-web")  # the same name on another host
    missing = "/network-interfaces/eni-1/binding"
    assert site.admin.error("PUT", missing, {"agent": "a", "device": "x"}) == (404, "ResourceNotFoundException")


# --- status ---


def test_the_last_status_is_shown(site: Site) -> None:
    before = int(time.time() * 1000)
    assert site.admin.ok("GET", "/agents/a/status") == {"received_ms": None}
    status = {"interfaces": [], "flow_logs": [], "ledger": {"packets": 7}, "spool": {"bytes": 0}}
    assert site.a.ok("POST", "/agents/a/status", status) == {}
    found = site.admin.ok("GET", "/agents/a/status")
    assert before <= found.pop("received_ms") <= int(time.time() * 1000)
    assert found == status


def test_deliveries_set_the_flow_logs_status(site: Site) -> None:
    one, two = site.interface(site.public), site.interface(site.private)
    site.bind(one, "a", "vn-one")
    site.bind(two, "b", "vn-two")
    flow_log = site.flow_log(site.vpc)

    def report(agent: str, status: str, message: str | None = None) -> tuple[str, str | None]:
        client = {"a": site.a, "b": site.b}[agent]
        entry = {"flow_log_id": flow_log, "status": status, "message": message}
        client.ok("POST", f"/agents/{agent}/status", {"flow_logs": [entry]})
        return shown()

    def shown() -> tuple[str, str | None]:
        [found] = site.ec2.describe_flow_logs()["FlowLogs"]
        return found["DeliverLogsStatus"], found.get("DeliverLogsErrorMessage")

    assert report("a", "FAILED", "Rate limited") == ("FAILED", "Rate limited")
    assert report("b", "FAILED", "Access error") == ("FAILED", "Access error")
    assert report("b", "SUCCESS") == ("FAILED", "Rate limited")
    # An agent that has no interface of the flow log any more has no say in it.
    site.admin.ok("DELETE", f"/network-interfaces/{one}/binding")
    assert shown() == ("SUCCESS", None)


@pytest.mark.parametrize(
    "status",
    [
        {"interfaces": {}},
        {"interfaces": ["eni-1"]},
        {"interfaces": [{"interface_id": "eni-1", "state": "pending"}]},
        {"interfaces": [{"interface_id": "eni-1", "state": "attached", "message": 7}]},
        {"flow_logs": [{"flow_log_id": "fl-1", "status": "BROKEN"}]},
        {"flow_logs": [{"flow_log_id": "fl-1", "status": "FAILED", "message": "something else"}]},
        {"revision": "new"},
    ],
)
def test_statuses_that_are_not_right(site: Site, status: dict[str, Any]) -> None:
    assert site.a.error("POST", "/agents/a/status", status) == (400, "ValidationException")
    assert site.admin.ok("GET", "/agents/a/status") == {"received_ms": None}


# --- roles ---


def test_for_which_flow_log_an_agent_may_assume_a_role(site: Site) -> None:
    one, two = site.interface(site.public), site.interface(site.private)
    site.bind(one, "a", "vn-one")
    mine, whole, others = site.flow_log(one), site.flow_log(site.vpc), site.flow_log(two)
    ask = site.agents.flow_log_for
    arn = "arn:aws:ec2:us-east-1:123456789012:vpc-flow-log/"
    assert ask("a", ROLE, mine) == (mine, arn + mine)
    assert ask("a", ROLE, whole) == (whole, arn + whole)
    assert ask("a", ROLE, others) is None  # no interface of that flow log is bound to it
    assert ask("b", ROLE, whole) is None
    assert ask("a", f"{ROLE}-other", mine) is None
    assert ask("a", ROLE, "fl-0123456789abcdef0") is None
    site.admin.ok("DELETE", f"/network-interfaces/{one}/binding")
    assert ask("a", ROLE, mine) == (mine, arn + mine), "its last records are on the way"
    assert ask("a", ROLE, whole) == (whole, arn + whole)
    assert ask("b", ROLE, mine) is None
    with site.api.state.write() as session:
        session.execute(update(network.Departure).values(until_ms=1))
    assert ask("a", ROLE, mine) is None, "but not for ever"
    site.bind(one, "b", "vn-one")
    site.admin.ok("DELETE", f"/network-interfaces/{one}/binding")
    with site.api.state.read() as session:
        assert [row.agent for row in session.scalars(select(network.Departure))] == ["b"], "old ones are forgotten"


def test_for_which_deleted_flow_log_an_agent_may_assume_a_role(site: Site) -> None:
    one, two = site.interface(site.public), site.interface(site.private)
    site.bind(one, "a", "vn-one")
    mine, others = site.flow_log(one), site.flow_log(two)
    ask = site.agents.flow_log_for
    site.ec2.delete_flow_logs(FlowLogIds=[mine, others])
    assert ask("a", ROLE, mine) == (mine, f"arn:aws:ec2:us-east-1:123456789012:vpc-flow-log/{mine}")
    assert ask("a", f"{ROLE}-other", mine) is None
    assert ask("a", ROLE, others) is None
    assert ask("b", ROLE, mine) is None
    with site.api.state.write() as session:
        session.execute(update(network.EndedFlowLog).values(until_ms=1))
    assert ask("a", ROLE, mine) is None
    site.ec2.delete_flow_logs(FlowLogIds=[site.flow_log(one)])
    with site.api.state.read() as session:
        assert len(list(session.scalars(select(network.EndedFlowLog)))) == 1, "old ones are forgotten"
