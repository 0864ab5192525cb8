"""Which socket a flow ends at: the rules of the kernel's own lookup (ip(7), tcp(7), udp(7), ipv6(7))."""

from __future__ import annotations

import numpy as np
import pytest
from flows import address, flow, flow_table

from vnotch.capture.ends import own_ends
from vnotch.capture.sockets import NamespaceSockets, OpenSocket
from vnotch.flow import Direction

ANY = bytes(16)
HERE = frozenset({(4, address("10.0.0.1")), (4, address("10.0.0.2")), (6, address("fd00::1"))})


def sock(inode: int, own: str = "", port: int = 80, far: str = "", far_port: int = 0, **more: object) -> OpenSocket:
    values = {
        "protocol": 6,
        "families": (6,) if ":" in own else (4,),
        "own": address(own) if own else ANY,
        "own_port": port,
        "far": address(far) if far else ANY,
        "far_port": far_port,
        "inode": inode,
        "cgroup": 0,
    }
    return OpenSocket(**{**values, **more})  # type: ignore[arg-type]


def found(row: dict[str, object], *sockets: OpenSocket) -> tuple[list[int], bool]:
    """(inodes of the sockets at the flow's end, whether it is the connection's own)"""
    ends = own_ends(flow_table([row]), np.array([0]), NamespaceSockets(list(sockets), HERE))
    group = int(ends.group[0])
    return sorted(item.inode for item in ends.groups[group]) if group >= 0 else [], bool(ends.exact[0])


IN = flow("192.0.2.9", "10.0.0.1", srcport=5000, dstport=80)
OUT = flow("10.0.0.1", "192.0.2.9", srcport=80, dstport=5000, direction=Direction.EGRESS)
CONNECTION = sock(1, "10.0.0.1", 80, "192.0.2.9", 5000)


@pytest.mark.parametrize("row", [IN, OUT])
def test_both_directions_end_at_the_connection(row: dict[str, object]) -> None:
    assert found(row, sock(2), sock(3, "10.0.0.1"), CONNECTION) == ([1], True)
    assert found(row, sock(2), sock(3, "10.0.0.1")) == ([3], False)
    assert found(row, sock(2), sock(3, "10.0.0.2")) == ([2], False)
    assert found(row) == ([], False)


@pytest.mark.parametrize(
    "other",
    [
        sock(2, port=81),
        sock(2, protocol=17),
        sock(2, families=(6,)),
        sock(2, "10.0.0.1", 80, "192.0.2.9", 5001),
        sock(2, "10.0.0.1", 80, "192.0.2.8", 5000),
    ],
)
def test_what_differs_in_anything_is_another(other: OpenSocket) -> None:
    assert found(IN, other) == ([], False)


def test_a_listener_on_any_address_takes_nothing_that_goes_through() -> None:
    through = flow("192.0.2.9", "10.0.0.77", srcport=5000, dstport=80)
    assert found(through, sock(2)) == ([], False)
    back = flow("10.0.0.77", "192.0.2.9", srcport=80, dstport=5000, direction=Direction.EGRESS)
    assert found(back, sock(2)) == ([], False)


def test_a_listener_for_both_families() -> None:
    row = flow("fd00::9", "fd00::1", srcport=5000, dstport=80)
    assert found(row, sock(2, families=(4, 6))) == ([2], False)
    assert found(IN, sock(2, families=(4, 6))) == ([2], False)
    assert found(row, sock(2, families=(4,))) == ([], False)


def test_several_sockets_of_one_address_are_all_possible() -> None:
    assert found(IN, sock(2), sock(3)) == ([2, 3], False)


def test_udp_with_and_without_a_peer() -> None:
    row = {**IN, "protocol": 17}
    connected = sock(1, "10.0.0.1", 80, "192.0.2.9", 5000, protocol=17)
    assert found(row, sock(2, protocol=17), connected) == ([1], True)
    assert found(row, sock(2, protocol=17)) == ([2], False)
