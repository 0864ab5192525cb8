"""pkt-*-aws-service, from a small file of our own in the form of AWS's ip-ranges.json.

All addresses are those reserved for documentation (RFC 5737, RFC 3849), under made-up assignments.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flows import flow
from test_record import flow_log, interface, lines_of, window

from vnotch.errors import InputError
from vnotch.flow import Direction
from vnotch.service_ranges import ServiceRanges


def four(cidr: str, service: str) -> dict[str, str]:
    return {"ip_prefix": cidr, "region": "us-east-1", "service": service, "network_border_group": "us-east-1"}


def six(cidr: str, service: str) -> dict[str, str]:
    return {"ipv6_prefix": cidr, "region": "us-east-1", "service": service, "network_border_group": "us-east-1"}


DOCUMENT: dict[str, Any] = {
    "syncToken": "1700000000",
    "createDate": "2026-11-23-00-00-00",
    "prefixes": [
        four("198.51.100.0/24", "AMAZON"),
        four("198.51.100.0/25", "EC2"),
        four("198.51.100.0/26", "S3"),
        four("198.51.100.64/26", "AMAZON"),  # more specific than EC2's, and AMAZON all the same
        four("198.51.100.0/30", "EC2"),
        four("203.0.113.0/24", "EC2"),
        four("203.0.113.0/24", "AMAZON"),
        four("203.0.113.0/24", "ROUTE53_HEALTHCHECKS"),
        four("192.0.2.0/25", "CLOUDFRONT"),
        four("192.0.2.0/25", "CHIME_MEETINGS"),
    ],
    "ipv6_prefixes": [six("2001:db8::/32", "AMAZON"), six("2001:db8:5::/48", "DYNAMODB")],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ip-ranges.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


@pytest.mark.parametrize(
    ("address", "service"),
    [
        ("198.51.100.200", "AMAZON"),  # no other service has it
        ("198.51.100.40", "S3"),  # the most specific
        ("198.51.100.2", "EC2"),  # EC2's is more specific than S3's
        ("198.51.100.70", "EC2"),  # AMAZON gives way, however specific
        ("203.0.113.77", "ROUTE53_HEALTHCHECKS"),  # of equal ranges EC2 gives way too
        ("192.0.2.7", "CHIME_MEETINGS"),  # of equal ranges of two services the first by name
        ("192.0.2.200", "-"),
        ("10.0.0.9", "-"),
        ("2001:db8::9", "AMAZON"),
        ("2001:db8:5::9", "DYNAMODB"),
        ("2001:db9::9", "-"),
    ],
)
def test_the_service_of_an_address(path: Path, address: str, service: str):
    mine = "2001:db8:9::1" if ":" in address else "10.0.0.5"
    here = "AMAZON" if ":" in address else "-"
    format_ = flow_log("${version} ${pkt-src-aws-service} ${pkt-dst-aws-service}")
    ranges = ServiceRanges.load(path)
    inbound = window([flow(address, mine)])
    assert lines_of(inbound, {1: interface()}, format_, ranges=ranges) == [f"5 {service} {here}"]
    outbound = window([flow(mine, address, direction=Direction.EGRESS)])
    assert lines_of(outbound, {1: interface()}, format_, ranges=ranges) == [f"5 {here} {service}"]


def test_the_packets_own_addresses_count_and_not_the_primary_one(path: Path):
    eni = interface(private_ipv4=["10.0.0.5"])
    format_ = flow_log("${dstaddr} ${pkt-dstaddr} ${pkt-dst-aws-service}")
    lines = lines_of(window([flow("10.0.1.5", "198.51.100.40")]), {1: eni}, format_, ranges=ServiceRanges.load(path))
    assert lines == ["10.0.0.5 198.51.100.40 S3"]


def test_without_a_file_and_in_an_empty_one_there_is_no_service(tmp_path: Path):
    empty = tmp_path / "empty.json"
    empty.write_text('{"prefixes": [], "ipv6_prefixes": []}')
    format_ = flow_log("${pkt-src-aws-service} ${pkt-dst-aws-service}")
    for known in ({}, {"ranges": ServiceRanges.load(empty)}):
        assert lines_of(window([flow("198.51.100.40")]), {1: interface()}, format_, **known) == ["- -"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"prefixes": None}, "prefixes is missing or no list"),
        ({"ipv6_prefixes": {}}, "ipv6_prefixes is missing or no list"),
        ({"prefixes": [four("198.51.100.0/24", "S3"), 5]}, r"prefixes\[1\] is no object"),
        ({"prefixes": [{"ip_prefix": "198.51.100.0/24"}]}, r"prefixes\[0\].service is missing"),
        ({"prefixes": [four("198.51.100.0/24", "S 3")]}, r"prefixes\[0\].service is missing or no service name: 'S 3'"),
        ({"prefixes": [{"service": "S3"}]}, r"prefixes\[0\].ip_prefix is missing"),
        ({"prefixes": [four("198.51.100.0/33", "S3")]}, r"prefixes\[0\].ip_prefix: '198.51.100.0/33' is no CIDR"),
        ({"prefixes": [four("198.51.100.1/24", "S3")]}, r"prefixes\[0\].ip_prefix: .* has a bit set behind its prefix"),
        ({"prefixes": [four("2001:db8::/32", "S3")]}, r"prefixes\[0\].ip_prefix: .* is of the other family"),
        ({"ipv6_prefixes": [six("198.51.100.0/24", "S3")]}, r"ipv6_prefixes\[0\].ipv6_prefix: .* the other family"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_place(tmp_path: Path, change: dict[str, Any], place: str):
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(InputError, match=place) as caught:
        ServiceRanges.load(path)
    assert str(path) in caught.value.message
    assert "ip-ranges.json" in str(caught.value.remedy)


@pytest.mark.parametrize("content", ["", "[]", '{"prefixes": [', "\x80", "[" * 100_000])
def test_what_is_no_such_document_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "ranges.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"ranges\.json"):
        ServiceRanges.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.json cannot be read: No such file"):
        ServiceRanges.load(tmp_path / "absent.json")
