"""Which way a flow's packets go: by the routes of the interface's subnet, and over which other interface of the VPC.

From the routes follow traffic-path (VPC user guide, "Flow log records") and, with the VPC's other interfaces, the next
hop. The longest route that holds the far address decides, as everywhere in a VPC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vnotch.address import Prefixes, Values
from vnotch.inventory import Interface, Peer

SAME_VPC = 1
INTERNET_GATEWAY = 8
"""Codes of traffic-path. 2 to 7 are of gateways that vnotch has not; 2, which AWS keeps for an internet gateway that it
cannot tell from a gateway endpoint, is never needed here."""

SILENT_SENDERS = frozenset({"network_load_balancer", "transit_gateway"})
"""Interfaces that AWS does not name as the next hop of what they send in (VPC user guide: "ingress from some
services")."""

_LOCAL = "local"
_NOWHERE = ""


class Peers:
    """The interfaces of the VPCs, by address and by id. Made once for each configuration."""

    def __init__(self, peers: Sequence[Peer] = ()) -> None:
        self.peers = tuple(peers)
        self._numbers = {peer.interface_id: number for number, peer in enumerate(self.peers)}
        by_vpc: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for number, peer in enumerate(self.peers):
            by_vpc[peer.vpc_id] += [(address, number) for address in peer.addresses]
        self._by_vpc = {vpc_id: _Vpc.of(owned) for vpc_id, owned in by_vpc.items()}

    def number_of(self, interface_id: str) -> int:
        """-1 where it is not among them."""
        return self._numbers.get(interface_id, -1)

    def find(self, vpc_id: str, distinct: Values, is_four: Values) -> Values:
        """int32 number of the interface that has each address, -1 where none in the VPC has."""
        if vpc_id not in self._by_vpc:
            return np.full(len(distinct), -1, np.int32)
        return self._by_vpc[vpc_id].find(distinct, is_four)


@dataclass(frozen=True)
class _Vpc:
    addresses: Prefixes
    numbers: Values  # of the interface by position of its address, the last element for none

    @classmethod
    def of(cls, owned: Sequence[tuple[str, int]]) -> _Vpc:
        return cls(
            Prefixes(address for address, _ in owned), np.array([*(number for _, number in owned), -1], np.int32)
        )

    def find(self, distinct: Values, is_four: Values) -> Values:
        numbers: Values = self.numbers[self.addresses.find(distinct, is_four)]
        return numbers


NO_PEERS = Peers()


@dataclass(frozen=True, eq=False)
class Ways:
    """The ways of many flows: `numbers` is the interface of each (in `interfaces`), `far` the code of the address at
    its other end, an index into `distinct`."""

    interfaces: Sequence[Interface]
    numbers: Values
    is_egress: Values
    far: Values
    distinct: Values
    is_four: Values
    peers: Peers

    @cached_property
    def traffic_path(self) -> Values:
        """int32 code of each flow; 0 on ingress and where no code applies."""
        paths = np.array([_path(target) for target in self._targets[1]], np.int32)
        codes: Values = np.where(self.is_egress, paths[self._targets[0]], 0)
        return codes

    @cached_property
    def next_hop(self) -> Values:
        """int32 number of the interface in `peers` that receives (egress) or sends (ingress); -1 for none.

        What comes in from outside the VPC was sent by the interface that the way out leads to: a NAT gateway or a
        router sends the replies of what goes through it.
        """
        target_numbers, targets = self._targets
        by_route = np.array([self.peers.number_of(target) for target in targets], np.int32)
        hops: Values = by_route[target_numbers]
        local = np.array([target == _LOCAL for target in targets], bool)[target_numbers]
        for vpc_id in dict.fromkeys(interface.vpc_id for interface in self.interfaces):
            rows = np.flatnonzero(local & self._of([interface.vpc_id == vpc_id for interface in self.interfaces]))
            if len(rows):
                hops[rows] = self.peers.find(vpc_id, self.distinct, self.is_four)[self.far[rows]]
        silent = [peer.interface_type in SILENT_SENDERS for peer in self.peers.peers]
        hops[~self.is_egress & np.array([*silent, False], bool)[hops]] = -1
        return hops

    @cached_property
    def _targets(self) -> tuple[Values, list[str]]:
        """-> (number of each flow's target, the targets): `local`, or as in `Interface.routes`."""
        names = [_NOWHERE]
        numbers = np.zeros(len(self.numbers), np.int32)
        for cidrs, routes in dict.fromkeys((interface.vpc_cidrs, interface.routes) for interface in self.interfaces):
            same = [(interface.vpc_cidrs, interface.routes) == (cidrs, routes) for interface in self.interfaces]
            rows = np.flatnonzero(self._of(same))
            if len(rows) == 0:
                continue
            prefixes = Prefixes([*cidrs, *(destination for destination, _ in routes)])
            places = prefixes.find(self.distinct, self.is_four)[self.far[rows]]
            numbers[rows] = np.where(places >= 0, places + len(names), 0)
            names += [*(_LOCAL for _ in cidrs), *(target for _, target in routes)]
        return numbers, names

    def _of(self, chosen: Sequence[bool]) -> Values:
        """Which flows are of the chosen interfaces."""
        flows: Values = np.array(chosen, bool)[self.numbers]
        return flows


def _path(target: str) -> int:
    """A NAT gateway and a router are reached within the VPC (VPC user guide: 1 is another resource in the same VPC)."""
    if target == _LOCAL or target.startswith("eni-"):
        return SAME_VPC
    return INTERNET_GATEWAY if target.startswith("igw-") else 0
