"""Enrolment: what an agent reports becomes interfaces, in subnets marked for it alone, and goes with its device."""

from __future__ import annotations

from typing import Any

import pytest
from test_agents import WAIT_SECONDS, Client, Site

from vnotch.api import agents as endpoint
from vnotch.api import enrolment
from vnotch.inventory import EnrolledSubnet

REPORT = "/agents/{}/candidates"


def candidate(device: str | None = "veth1", *addresses: str, **members: Any) -> dict[str, Any]:
    plain = {
        "device": device,
        "sense": "outside",
        "identity": f"container/{device}",
        "addresses": list(addresses) or ["10.0.0.10"],
        "tags": {"Name": "web"},
    }
    return plain | members


class Enrolling(Site):
    def mark(self, subnet: str, value: str = "true", **more: str) -> None:
        tags = {"vnotch:enrol": value} | {f"vnotch:{key}": value for key, value in more.items()}
        self.ec2.create_tags(Resources=[subnet], Tags=[{"Key": key, "Value": text} for key, text in tags.items()])

    def report(self, *candidates: dict[str, Any], agent: str = "a", client: Client | None = None) -> dict[str, Any]:
        client = client or {"a": self.a, "b": self.b}[agent]
        return client.ok("PUT", REPORT.format(agent), {"candidates": list(candidates)})

    def interfaces(self) -> list[dict[str, Any]]:
        return list(self.ec2.describe_network_interfaces()["NetworkInterfaces"])


@pytest.fixture
def site(api: Any, monkeypatch: pytest.MonkeyPatch) -> Enrolling:
    monkeypatch.setattr(endpoint, "REPORT_SECONDS_MIN", 0.0)
    return Enrolling(api)


@pytest.fixture
def marked(site: Enrolling) -> Enrolling:
    site.mark(site.public)
    return site


def test_agents_are_told_of_the_subnets_marked_for_them(site: Enrolling) -> None:
    assert site.a.configuration("a").enrolled_subnets == ()
    before = site.a.configuration("a").revision
    site.mark(site.public)
    site.mark(site.private, "b")
    public = EnrolledSubnet(site.public, ("10.0.0.0/24", "fd12:3456:789a:bc00::/64"))
    private = EnrolledSubnet(site.private, ("10.0.1.0/24", "fd12:3456:789a:bc01::/64"))
    assert site.a.configuration("a", revision=before, wait_seconds=WAIT_SECONDS).enrolled_subnets == (public,)
    assert site.b.configuration("b").enrolled_subnets == (public, private)
    before = site.a.configuration("a").revision
    site.ec2.delete_tags(Resources=[site.public], Tags=[{"Key": "vnotch:enrol"}])
    assert site.a.configuration("a", revision=before, wait_seconds=WAIT_SECONDS).enrolled_subnets == ()
    made = site.ec2.create_subnet(
        VpcId=site.vpc,
        CidrBlock="10.0.2.0/24",
        TagSpecifications=[{"ResourceType": "subnet", "Tags": [{"Key": "vnotch:enrol", "Value": "a"}]}],
    )["Subnet"]["SubnetId"]
    assert [subnet.subnet_id for subnet in site.a.configuration("a").enrolled_subnets] == [made]
    site.ec2.delete_subnet(SubnetId=made)
    assert site.a.configuration("a").enrolled_subnets == ()


def test_a_candidate_becomes_a_bound_interface_with_its_addresses_and_names(marked: Enrolling) -> None:
    addresses = ["172.16.0.9", "10.0.0.10", "10.0.0.11", "fd12:3456:789a:bc00::10", "fe80::1", "10.0.9.9"]
    tags = {"Name": "web", "vnotch:container": "web", "vnotch:image": "nginx:1.27"}
    answer = marked.report(candidate("veth1", *addresses, tags=tags))
    [interface] = marked.interfaces()
    assert answer == {
        "interfaces": [{"device": "veth1", "interface_id": interface["NetworkInterfaceId"]}],
        "refused": [],
        "leaving": [],
    }
    assert interface["SubnetId"] == marked.public
    assert [(item["PrivateIpAddress"], item["Primary"]) for item in interface["PrivateIpAddresses"]] == [
        ("10.0.0.10", True),
        ("10.0.0.11", False),
    ]
    assert [item["Ipv6Address"] for item in interface["Ipv6Addresses"]] == ["fd12:3456:789a:bc00::10"]
    assert {item["Key"]: item["Value"] for item in interface["TagSet"]} == tags
    assert [group["GroupName"] for group in interface["Groups"]] == ["default"]
    assert interface["Status"] == "in-use"
    [told] = marked.a.configuration("a").interfaces
    assert (told.device, told.sense, told.enforce) == ("veth1", "outside", False)


def test_the_address_behind_a_bridges_port_is_bound_and_followed(marked: Enrolling) -> None:
    [made] = marked.report(candidate(mac="02:00:00:00:00:07"))["interfaces"]
    assert marked.a.configuration("a").interfaces[0].guest_mac == "02:00:00:00:00:07"
    marked.report(candidate(mac="02:00:00:00:00:08"))
    assert marked.a.configuration("a").interfaces[0].guest_mac == "02:00:00:00:00:08"
    revision = marked.a.configuration("a").revision
    marked.report(candidate(mac="02:00:00:00:00:08"))
    assert marked.a.configuration("a").revision == revision
    marked.report(candidate())  # an agent that cannot tell any more, or never tells
    assert marked.a.configuration("a").interfaces[0].guest_mac is None
    marked.bind(made["interface_id"], "a", "veth1", enforce=True, guest_mac="02:00:00:00:00:09")
    marked.report(candidate())
    assert marked.a.configuration("a").interfaces[0].guest_mac == "02:00:00:00:00:09", "an administrator's stays"


def test_the_same_report_again_changes_nothing(marked: Enrolling) -> None:
    reports = [candidate("veth1"), candidate("eth0", "10.0.0.20", sense="inside")]
    first = marked.report(*reports)
    revision, interfaces = marked.a.configuration("a").revision, marked.interfaces()
    assert marked.report(*reversed(reports))["interfaces"] == first["interfaces"][::-1]
    assert marked.a.configuration("a").revision == revision
    assert marked.interfaces() == interfaces


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (candidate("veth1", "10.0.1.10"), "none of its IPv4 addresses is in a subnet that is marked for this agent"),
        (candidate("veth1", "fd12:3456:789a:bc00::10"), "none of its IPv4 addresses"),
        (candidate("veth1", "10.0.0.1"), "Address 10.0.0.1 is in subnet's reserved address range"),
        (candidate("veth1", "10.0.0.30"), "The specified address is already in use."),
        (candidate("vn-bound", "10.0.0.10"), "is eni-"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason_and_the_others_are_made(
    marked: Enrolling, made: dict[str, Any], reason: str
) -> None:
    there = marked.interface(marked.public, PrivateIpAddress="10.0.0.30")
    marked.bind(marked.interface(marked.private), "a", "vn-bound")
    answer = marked.report(made, candidate("veth2", "10.0.0.12"))
    [refused] = answer["refused"]
    assert refused["device"] == made["device"]
    assert reason in refused["reason"]
    assert [item["device"] for item in answer["interfaces"]] == ["veth2"]
    assert len(marked.interfaces()) == 3, "that one, and the two from before"
    assert there in {item["NetworkInterfaceId"] for item in marked.interfaces()}


def test_addresses_in_two_marked_subnets_are_no_ones(marked: Enrolling) -> None:
    marked.mark(marked.private)
    answer = marked.report(candidate("veth1", "10.0.0.10", "10.0.1.10"))
    assert answer["refused"] == [{"device": "veth1", "reason": "its addresses are in several marked subnets"}]
    assert marked.interfaces() == []


def test_security_groups_of_the_mark(site: Enrolling) -> None:
    group = site.ec2.create_security_group(GroupName="open", Description="d", VpcId=site.vpc)["GroupId"]
    site.mark(site.public, **{"enrol-groups": group})
    site.report(candidate())
    assert [item["GroupId"] for item in site.interfaces()[0]["Groups"]] == [group]
    site.mark(site.public, **{"enrol-groups": "sg-00000000000000000"})
    assert "sg-00000000000000000" in site.report(candidate(), candidate("veth2", "10.0.0.11"))["refused"][0]["reason"]


# Going


def test_an_interface_goes_some_time_after_its_device(marked: Enrolling, monkeypatch: pytest.MonkeyPatch) -> None:
    [made] = marked.report(candidate())["interfaces"]
    assert marked.report()["leaving"] == [{**made, "seconds": enrolment.GONE_SECONDS}]
    assert len(marked.interfaces()) == 1
    monkeypatch.setattr(enrolment, "GONE_SECONDS", 0)
    assert marked.report() == {"interfaces": [], "refused": [], "leaving": []}
    assert marked.interfaces() == []
    assert marked.a.configuration("a").interfaces == ()


def test_a_device_that_comes_back_is_the_same_interface(marked: Enrolling) -> None:
    [made] = marked.report(candidate())["interfaces"]
    marked.report()
    again = candidate("veth9", identity="container/veth1", tags={"Name": "web2"})
    assert marked.report(again)["interfaces"] == [{"device": "veth9", "interface_id": made["interface_id"]}]
    assert marked.report()["leaving"][0]["seconds"] == enrolment.GONE_SECONDS, "the time begins anew"
    [told] = marked.a.configuration("a").interfaces
    assert told.device == "veth9"
    assert marked.interfaces()[0]["TagSet"] == [{"Key": "Name", "Value": "web2"}]


def test_another_container_at_the_same_address_or_device_takes_its_place_at_once(marked: Enrolling) -> None:
    [first] = marked.report(candidate("veth1", "10.0.0.10"))["interfaces"]
    [second] = marked.report(candidate("veth2", "10.0.0.10"))["interfaces"]
    assert second["interface_id"] != first["interface_id"]
    [third] = marked.report(candidate("veth2", "10.0.0.12", identity="container/other"))["interfaces"]
    assert [item["NetworkInterfaceId"] for item in marked.interfaces()] == [third["interface_id"]]


def test_an_address_that_two_report_is_the_first_ones(marked: Enrolling) -> None:
    answer = marked.report(candidate("veth1"), candidate("veth2"))
    assert [item["device"] for item in answer["interfaces"]] == ["veth1"]
    assert answer["refused"] == [{"device": "veth2", "reason": "The specified address is already in use."}]


def test_another_address_of_the_same_container_is_another_interface(marked: Enrolling) -> None:
    [first] = marked.report(candidate("veth1", "10.0.0.10"))["interfaces"]
    [second] = marked.report(candidate("veth1", "10.0.0.11"))["interfaces"]
    assert first["interface_id"] != second["interface_id"]
    assert [item["PrivateIpAddress"] for item in marked.interfaces()] == ["10.0.0.11"]


def test_in_a_subnet_that_is_marked_no_longer_everything_stays(
    marked: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "GONE_SECONDS", 0)
    marked.report(candidate())
    marked.ec2.delete_tags(Resources=[marked.public], Tags=[{"Key": "vnotch:enrol"}])
    assert marked.report() == {"interfaces": [], "refused": [], "leaving": []}
    assert len(marked.interfaces()) == 1


def test_what_the_administrator_changed_stays(marked: Enrolling) -> None:
    [made] = marked.report(candidate())["interfaces"]
    marked.ec2.create_tags(Resources=[made["interface_id"]], Tags=[{"Key": "Name", "Value": "mine"}])
    marked.bind(made["interface_id"], "a", "veth1", enforce=True)
    marked.report(candidate())
    assert marked.interfaces()[0]["TagSet"] == [{"Key": "Name", "Value": "mine"}]
    assert marked.a.configuration("a").interfaces[0].enforce


def test_an_interface_that_the_administrator_deleted_is_made_anew(marked: Enrolling) -> None:
    [made] = marked.report(candidate())["interfaces"]
    marked.admin.ok("DELETE", f"/network-interfaces/{made['interface_id']}/binding")
    marked.ec2.delete_network_interface(NetworkInterfaceId=made["interface_id"])
    [again] = marked.report(candidate())["interfaces"]
    assert again["interface_id"] != made["interface_id"]


# A hostile agent


def test_an_agent_reports_for_itself_alone(marked: Enrolling) -> None:
    body = {"candidates": [candidate()]}
    assert marked.b.error("PUT", REPORT.format("a"), body) == (403, "AccessDeniedException")
    assert marked.admin.error("PUT", REPORT.format("none"), body) == (404, "ResourceNotFoundException")


def test_an_agent_enrols_into_no_subnet_that_is_marked_for_another(site: Enrolling) -> None:
    site.mark(site.public, "b")
    assert site.report(candidate())["refused"] != []
    assert site.report(candidate(), agent="b")["refused"] == []


def test_an_agent_touches_no_interface_of_another(marked: Enrolling) -> None:
    [theirs] = marked.report(candidate(), agent="b")["interfaces"]
    assert marked.report(candidate())["refused"] == [
        {"device": "veth1", "reason": "The specified address is already in use."}
    ]
    assert marked.report(candidate("veth2", "10.0.0.11", identity="container/veth1"))["refused"] == []
    assert theirs["interface_id"] in {item["NetworkInterfaceId"] for item in marked.interfaces()}
    assert [eni.device for eni in marked.b.configuration("b").interfaces] == ["veth1"]


def test_reports_are_bounded(marked: Enrolling, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [candidate(f"v{number}", identity=f"c/{number}") for number in range(1001)]
    assert marked.a.error("PUT", REPORT.format("a"), {"candidates": many}) == (400, "ValidationException")
    huge = {"candidates": [candidate(tags={"Name": "x" * (2 << 20)})]}
    assert marked.a.error("PUT", REPORT.format("a"), huge) == (413, "RequestEntityTooLargeException")
    monkeypatch.setattr(enrolment, "CANDIDATES_MAX", 1)
    marked.report(candidate("veth1"))
    refused = marked.report(candidate("veth2", "10.0.0.11"))["refused"]
    assert refused == [{"device": "veth2", "reason": "an agent enrols at most 1 interfaces"}]
    monkeypatch.setattr(endpoint, "REPORT_SECONDS_MIN", 3600.0)
    assert marked.a.error("PUT", REPORT.format("a"), {"candidates": []}) == (429, "ThrottlingException")


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "a b"},
        {"device": None},
        {"device": "x" * 16},
        {"sense": "aside"},
        {"identity": ""},
        {"identity": "a b"},
        {"identity": "x" * 129},
        {"addresses": ["10.0.0"]},
        {"addresses": "10.0.0.1"},
        {"addresses": ["10.0.0.10"] * 17},
        {"tags": {"aws:x": "y"}},
        {"tags": {"Name": 1}},
        {"tags": {"": "x"}},
        {"tags": {str(number): "x" for number in range(17)}},
        {"mac": "02-00-00-00-00-07"},
        {"mac": 7},
        {"more": 1},
    ],
    ids=str,
)
def test_malformed_reports_are_refused(marked: Enrolling, wrong: dict[str, Any]) -> None:
    status, _ = marked.a.error("PUT", REPORT.format("a"), {"candidates": [candidate(**wrong)]})
    assert status == 400
    assert marked.interfaces() == []


def test_a_device_or_identity_that_occurs_twice_is_refused(marked: Enrolling) -> None:
    twice = [candidate("veth1"), candidate("veth1", identity="other")]
    assert marked.a.error("PUT", REPORT.format("a"), {"candidates": twice})[0] == 400
    twice = [candidate("veth1", identity="one"), candidate("veth2", identity="one")]
    assert marked.a.error("PUT", REPORT.format("a"), {"candidates": twice})[0] == 400
