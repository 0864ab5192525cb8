"""Labels of addresses and the SQL functions over addresses; ipaddress of the standard library is the judge."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from asking import SSH, ask, write
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.errors import InputError
from vnotch.query.labels import Labels

FILE = """\
cidr,label
# the longest prefix counts
10.0.0.0/8,everything inside
10.0.1.0/24, databases   # and a comment
10.0.1.5  primary
2001:db8::/32	documentation
"""


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    (tmp_path / "labels.csv").write_text(FILE)
    return Labels.read(tmp_path / "labels.csv")


ADDRESSES = {
    "10.9.9.9": "everything inside",
    "10.0.1.4": "databases",
    "10.0.1.5": "primary",
    "2001:db8::5": "documentation",
    "11.0.0.1": None,
    "::1": None,
    "nonsense": None,
}


def test_an_address_has_the_label_of_its_longest_cidr(tmp_path: Path, labels: Labels):
    write(tmp_path / "a.log", *ADDRESSES, "-", header="srcaddr")
    found = ask("select srcaddr, label(srcaddr) as label from flow_logs", tmp_path / "a.log", labels=labels)
    assert {row["srcaddr"]: row["label"] for row in found.rows} == ADDRESSES | {None: None}


def test_without_a_file_there_are_no_labels(tmp_path: Path):
    write(tmp_path / "a.log", SSH)
    assert ask("select label(srcaddr) from flow_logs", tmp_path).values == [None]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("10.0.0.0/33,x", "no CIDR"),
        ("10.0.0.1/8,x", "behind its prefix"),
        ("10.0.0.0/8", "a label"),
        ("x,y", "no CIDR"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, what: str):
    (tmp_path / "l").write_text(f"10.0.0.0/8,fine\n{line}\n")
    with pytest.raises(InputError, match=f"line 2.*{what}"):
        Labels.read(tmp_path / "l")


@given(st.lists(st.tuples(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128)), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_in_cidr_is_what_the_standard_library_says(log_folder: Path, cases: list[tuple[object, ...]]):
    pairs = []
    for address, base, bits in cases:
        length = bits if base.version == 6 else bits % 33  # type: ignore[attr-defined]
        network = ip_network(f"{base}/{length}", strict=False)
        pairs += [(str(address), str(network)), (str(network.network_address), str(network))]
        pairs += [(str(network.broadcast_address), str(network))]
    values = ", ".join(f"('{address}', '{cidr}')" for address, cidr in pairs)
    found = ask(
        f"select address, cidr, in_cidr(address, cidr) as held from (values {values}) t(address, cidr)", log_folder
    )
    assert {(row["address"], row["cidr"]): row["held"] for row in found.rows} == {
        (address, cidr): ip_address(address) in ip_network(cidr) for address, cidr in pairs
    }


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write(folder / "a.log", SSH)
    return folder


@pytest.mark.parametrize("cidr", ["x", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "256.0.0.1/8", "::/129", "1:x"])
def test_what_is_no_cidr_is_refused(log_folder: Path, cidr: str):
    with pytest.raises(InputError, match="is no CIDR"):
        ask(f"select in_cidr('{'::1' if ':' in cidr else '10.0.0.1'}', '{cidr}') from flow_logs", log_folder)


def test_private_addresses_are_those_of_the_rfcs(log_folder: Path):
    private = "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.1 100.64.0.0 100.127.255.255"
    private += " 169.254.169.254 127.0.0.1 fc00::1 fdff:: fe80::1 febf::1 ::1"
    public = "9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.0.1 192.169.0.0 100.63.255.255 100.128.0.0"
    public += " 169.253.0.1 2001:db8::1 fec0::1 fe00::1 fb00::1 ::2 110.0.0.1"
    values = ", ".join(f"('{address}')" for address in f"{private} {public}".split())
    found = ask(f"select address from (values {values}) t(address) where is_private(address)", log_folder)
    assert sorted(found.values) == sorted(private.split())


def test_numbers_of_protocols_have_names(log_folder: Path):
    sql = "select protocol_name(n) from (values (1), (6), (17), (58), (132), (200), (null)) t(n)"
    assert ask(sql, log_folder).values == ["icmp", "tcp", "udp", "icmpv6", "sctp", "200", None]
    assert str(ask("select utc(1418530010) from flow_logs", log_folder).values[0]) == "2014-12-14 04:06:50"
