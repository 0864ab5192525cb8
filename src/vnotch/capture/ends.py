"""Which socket is at the interface's own end of a flow: all flows of a namespace against all its sockets at once.

As the kernel finds the socket of a packet: the connection's own one first; then one that takes packets to the flow's
own address and port from anyone; then one that takes them to any address, if the address is one of the namespace's. A
listener has no part in what goes through a host, and none in what another address was meant for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vnotch.capture.sockets import NamespaceSockets, OpenSocket
from vnotch.flow import Direction
from vnotch.owner import fixed_bytes, packed

NOWHERE = bytes(16)


@dataclass(frozen=True)
class Ends:
    """`group` is the place in `groups` of each flow's sockets, -1 for none; `exact` says that those are the
    connection's own. A group has more than one socket where several are possible (SO_REUSEPORT)."""

    groups: Sequence[Sequence[OpenSocket]]
    group: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_]


def own_ends(flows: pa.Table, rows: npt.NDArray[np.int64], here: NamespaceSockets) -> Ends:
    """The sockets of these rows of a FLOW_SCHEMA table, all of one namespace."""
    known = _Known(here)
    keys = _FlowKeys(flows, rows)
    exact = _find(keys.connection, known.connections)
    bound = _find(keys.bound, known.bound)
    wild = _find(keys.wild, known.wild)
    addresses = pa.array([bytes([family]) + address for family, address in sorted(here.addresses)], pa.binary(17))
    own = _index(keys.address, addresses) >= 0
    group = np.where(exact >= 0, exact, np.where(bound >= 0, bound, np.where(own, wild, -1)))
    return Ends(known.groups, group, exact >= 0)


class _Known:
    """The sockets by what they take."""

    def __init__(self, here: NamespaceSockets) -> None:
        by_key: tuple[dict[bytes, list[OpenSocket]], ...] = (defaultdict(list), defaultdict(list), defaultdict(list))
        connections, bound, wild = by_key
        for item in here.sockets:
            for family in item.families:
                kind, port = bytes([item.protocol, family]), item.own_port.to_bytes(2, "little")
                if item.far_port:
                    far = item.far + item.far_port.to_bytes(2, "little")
                    connections[kind + item.own + port + far].append(item)
                elif item.own != NOWHERE:
                    bound[kind + item.own + port].append(item)
                else:
                    wild[kind + port].append(item)
        self.groups = [group for found in by_key for group in found.values()]
        begins = np.cumsum([0, *map(len, by_key)])
        sizes = (38, 20, 4)
        self.connections, self.bound, self.wild = (
            (pa.array(list(found), pa.binary(size)), int(begin))
            for found, size, begin in zip(by_key, sizes, begins, strict=False)
        )


class _FlowKeys:
    """The same keys of flows."""

    def __init__(self, flows: pa.Table, rows: npt.NDArray[np.int64]) -> None:
        ingress = flows["direction"].to_numpy()[rows] == Direction.INGRESS
        source, target = (fixed_bytes(flows[name].combine_chunks())[rows] for name in ("srcaddr", "dstaddr"))
        ports = [_two_bytes(flows[name].to_numpy()[rows]) for name in ("srcport", "dstport")]
        own = np.where(ingress[:, None], target, source)
        far = np.where(ingress[:, None], source, target)
        own_port = np.where(ingress[:, None], ports[1], ports[0])
        far_port = np.where(ingress[:, None], ports[0], ports[1])
        protocol, family = (flows[name].to_numpy()[rows][:, None] for name in ("protocol", "family"))
        self.connection = packed([protocol, family, own, own_port, far, far_port])
        self.bound = packed([protocol, family, own, own_port])
        self.wild = packed([protocol, family, own_port])
        self.address = packed([family, own])


def _two_bytes(ports: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(ports.astype("<u2")).view(np.uint8).reshape(len(ports), 2)


def _find(keys: pa.Array, known: tuple[pa.Array, int]) -> npt.NDArray[np.int64]:
    values, begin = known
    places = _index(keys, values)
    return np.where(places >= 0, places + begin, -1)


def _index(keys: pa.Array, values: pa.Array) -> npt.NDArray[np.int64]:
    places: npt.NDArray[np.int64] = pc.fill_null(pc.index_in(keys, values), -1).to_numpy().astype(np.int64)
    return places
