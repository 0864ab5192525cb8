"""The columns of records: which value each field has for the flows of some interfaces, without touching one by one.

Fields come from the flow or from the interface; a field that has neither is absent in every row. Columns are made on
demand and kept, so that flow logs over the same flows share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from vnotch.address import Values, address_texts, as_numpy, distinct_addresses
from vnotch.errors import InputError
from vnotch.fields import Field, Format
from vnotch.flow import Direction, Outcome
from vnotch.inventory import Interface, Peer
from vnotch.line import Coded, Column, join_columns, typed_column
from vnotch.owner import Owners, flow_keys
from vnotch.paths import Peers, Ways
from vnotch.service_ranges import ServiceRanges

_SECOND_NS = 1_000_000_000
OWNER_SAFE = "/:@\\+,()[]#"
"""Not encoded in the names of processes, units and containers: what they often have, and no line is broken by."""
_INTERFACE_TYPES = ("nat_gateway", "network_load_balancer", "regional_nat_gateway", "transit_gateway", "vpc_endpoint")


class Selection:
    """The flows of the covered interfaces with one traffic type, sorted by interface and start; columns on demand."""

    def __init__(
        self,
        flows: pa.Table,
        numbers: Values,
        chosen: Values,
        interfaces: Sequence[Interface],
        rules: Mapping[int, tuple[str, str]],
        peers: Peers,
        ranges: ServiceRanges,
        owners: Owners,
    ) -> None:
        rows = np.flatnonzero(chosen)
        start_s = as_numpy(flows["start_ns"])[rows] // _SECOND_NS
        numbers = numbers[rows]
        order = _order(numbers, start_s)
        self._flows = flows
        self._rows = rows[order]
        self.numbers = numbers[order]
        self.start_s = start_s[order]
        self.interfaces = interfaces
        self.rules = rules
        self.peers = peers
        self.ranges = ranges
        self._owners = owners
        self.count = len(rows)
        self._columns: dict[tuple[str, str | None], Column] = {}
        self._lines: dict[tuple[Any, ...], pa.Array] = {}
        self._tables: dict[tuple[Any, ...], pa.Table] = {}

    def lines(self, format: Format) -> pa.Array:
        key = (format.text, format.tag_keys)
        if key not in self._lines:
            columns = [self._column(item, format) for item in format.fields]
            self._lines[key] = join_columns(columns, self.count)
        return self._lines[key]

    def table(self, format: Format) -> pa.Table:
        key = (format.text, format.tag_keys)
        if key not in self._tables:
            columns = [typed_column(self._column(item, format), item.type, self.count) for item in format.fields]
            self._tables[key] = pa.table(columns, schema=format.schema)
        return self._tables[key]

    def flow(self, name: str) -> Values:
        """A column of FLOW_SCHEMA in the selection's order; (rows, 16) bytes for an address."""
        values: Values = as_numpy(self._flows[name])[self._rows]
        return values

    @cached_property
    def timestamps_ms(self) -> pa.Array:
        return pa.array(self.start_s * 1000)

    @cached_property
    def number_codes(self) -> pa.Array:
        return pa.array(self.numbers)

    @cached_property
    def is_egress(self) -> Values:
        egress: Values = self.flow("direction") == Direction.EGRESS
        return egress

    @cached_property
    def addresses(self) -> _Addresses:
        return _Addresses(self)

    @cached_property
    def ways(self) -> Ways:
        here = self.addresses
        far = np.where(self.is_egress, here.pkt_dst, here.pkt_src)
        return Ways(self.interfaces, self.numbers, self.is_egress, far, here.distinct, here.is_four, self.peers)

    @cached_property
    def next_hops(self) -> tuple[pa.Array, list[Peer | None]]:
        numbers, codes = np.unique(self.ways.next_hop, return_inverse=True)
        peers = self.peers.peers
        return pa.array(codes.astype(np.int32)), [peers[number] if number >= 0 else None for number in numbers.tolist()]

    @cached_property
    def owners(self) -> Mapping[str, pa.Array]:
        """Process, unit and container at the interface's own end, null where not known."""
        return self._owners.of_flows(flow_keys(self._flows, self._rows))

    @cached_property
    def services(self) -> Values:
        """Index in `ranges.names` of each distinct address, the number of names for none."""
        found = self.ranges.find(self.addresses.distinct, self.addresses.is_four)
        services: Values = np.where(found >= 0, found, len(self.ranges.names)).astype(np.int32)
        return services

    @cached_property
    def rule_codes(self) -> tuple[pa.Array, list[int]]:
        encoded = pa.array(self.flow("rule")).dictionary_encode()
        return encoded.indices, encoded.dictionary.to_pylist()

    def _column(self, item: Field, format: Format) -> Column:
        if item.name == "version":
            return format.version
        key = (item.name, format.tag_key(item))
        if key not in self._columns:
            self._columns[key] = self._make_column(item, format)
        return self._columns[key]

    def _make_column(self, item: Field, format: Format) -> Column:
        if describes_interface(item):
            values = [interface_value(item, interface, format) for interface in self.interfaces]
            if self.count and self.numbers[0] == self.numbers[-1]:  # sorted: a single interface
                return values[self.numbers[0]]
            return Coded(self.number_codes, pa.array(values, pa.string()))
        make = FLOW_VALUES.get(item.name)
        return make(self) if make else None


def _order(numbers: Values, start_s: Values) -> Values:
    """Stable order by interface, then start. Windows are short, so the two mostly fit 16 bits, which sort by radix."""
    if len(numbers) == 0:
        return np.zeros(0, np.int64)
    begin, end = int(start_s.min()), int(start_s.max())
    width = end - begin + 1
    key = numbers.astype(np.int64) * width + (start_s - begin)
    if (int(numbers.max()) + 1) * width <= 65_536:
        return np.argsort(key.astype(np.uint16), kind="stable")
    return np.argsort(key, kind="stable")


class _Addresses:
    """The texts of a selection's addresses and, by row, which text each of the four address fields has.

    AWS's rule (VPC user guide, "Flow log records", srcaddr and dstaddr): the interface's own side shows its primary
    private IPv4 address, whatever address the packet has there (a secondary one, or one that the interface does not own
    because it routes); the other side and IPv6 stay as in the packet; pkt-srcaddr and pkt-dstaddr are the packet's.
    What egress from an owned secondary address shows is not stated today; the guide of 2023 said the primary one. On a
    regional NAT gateway nothing is replaced.
    """

    def __init__(self, selection: Selection) -> None:
        four = selection.flow("family") == 4
        raw = np.concatenate([selection.flow("srcaddr"), selection.flow("dstaddr")])
        codes, self.distinct, self.is_four = distinct_addresses(raw, np.concatenate([four, four]))
        src, dst = codes[: selection.count], codes[selection.count :]
        primaries = [_replacement(interface) for interface in selection.interfaces]
        texts = address_texts(self.distinct, self.is_four)
        self.texts = pa.concat_arrays([texts, pa.array(primaries, pa.string())])
        has_primary = np.array([text is not None for text in primaries], bool)
        own_code = (len(self.distinct) + selection.numbers).astype(np.int32)
        own = four & has_primary[selection.numbers] if len(primaries) else four
        egress = selection.is_egress
        self.pkt_src, self.pkt_dst = src, dst
        self.pkt_srcaddr = Coded(pa.array(src), self.texts)
        self.pkt_dstaddr = Coded(pa.array(dst), self.texts)
        self.srcaddr = Coded(pa.array(np.where(own & egress, own_code, src)), self.texts)
        self.dstaddr = Coded(pa.array(np.where(own & ~egress, own_code, dst)), self.texts)


def _replacement(interface: Interface) -> str | None:
    return None if interface.interface_type == "regional_nat_gateway" else interface.primary_ipv4


def _traffic_path(selection: Selection) -> Column:
    """Codes from 1; 0 is none."""
    encoded = pa.array(selection.ways.traffic_path).dictionary_encode()
    return Coded(encoded.indices, pa.array([code or None for code in encoded.dictionary.to_pylist()], pa.int32()))


def _next_hop(value: Callable[[Peer], str | None]) -> Callable[[Selection], Column]:
    def make(selection: Selection) -> Column:
        codes, peers = selection.next_hops
        return Coded(codes, pa.array([peer and value(peer) for peer in peers], pa.string()))

    return make


def _service(end: str) -> Callable[[Selection], Column]:
    def make(selection: Selection) -> Column:
        codes = selection.services[getattr(selection.addresses, end)]
        return Coded(pa.array(codes), pa.concat_arrays([selection.ranges.names, pa.nulls(1, pa.string())]))

    return make


def _number(name: str) -> Callable[[Selection], Column]:
    def make(selection: Selection) -> Column:
        values = selection.flow(name)
        return pa.array(values.astype(np.int64 if values.dtype == np.uint64 else np.int32))

    return make


def _end(selection: Selection) -> Column:
    return _seconds(selection.flow("end_ns") // _SECOND_NS)


def _seconds(times_s: Values) -> Column:
    """A window has few distinct seconds."""
    encoded = pa.array(times_s).dictionary_encode()
    return Coded(encoded.indices, encoded.dictionary)


def _named(name: str, names: Mapping[int, str]) -> Callable[[Selection], Column]:
    def make(selection: Selection) -> Column:
        values = pa.array([names.get(number) for number in range(max(names) + 1)])
        return Coded(pa.array(selection.flow(name).astype(np.int32)), values)

    return make


def _rule(part: int) -> Callable[[Selection], Column]:
    def make(selection: Selection) -> Column:
        codes, numbers = selection.rule_codes
        names = [selection.rules[number][part] if number in selection.rules else None for number in numbers]
        return Coded(codes, pa.array(names, pa.string()))

    return make


def _owner(part: str) -> Callable[[Selection], Column]:
    def make(selection: Selection) -> Column:
        encoded = selection.owners[part].dictionary_encode()
        texts = [tag_text(name, OWNER_SAFE) for name in encoded.dictionary.to_pylist()]
        return pa.array(texts, pa.string()).take(encoded.indices)

    return make


FLOW_VALUES: Mapping[str, Callable[[Selection], Column]] = {
    "srcaddr": lambda selection: selection.addresses.srcaddr,
    "dstaddr": lambda selection: selection.addresses.dstaddr,
    "srcport": _number("srcport"),
    "dstport": _number("dstport"),
    "protocol": _number("protocol"),
    "packets": _number("packets"),
    "bytes": _number("bytes"),
    "start": lambda selection: _seconds(selection.start_s),
    "end": _end,
    "action": _named("outcome", {Outcome.ACCEPT: "ACCEPT", Outcome.REJECT: "REJECT"}),
    "log-status": lambda selection: "OK",
    "tcp-flags": _number("tcp_flags"),
    "type": _named("family", {4: "IPv4", 6: "IPv6"}),
    "pkt-srcaddr": lambda selection: selection.addresses.pkt_srcaddr,
    "pkt-dstaddr": lambda selection: selection.addresses.pkt_dstaddr,
    "flow-direction": _named("direction", {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}),
    "traffic-path": _traffic_path,
    "pkt-src-aws-service": _service("pkt_src"),
    "pkt-dst-aws-service": _service("pkt_dst"),
    "next-hop-interface-id": _next_hop(lambda peer: peer.interface_id),
    "next-hop-subnet-id": _next_hop(lambda peer: peer.subnet_id),
    "next-hop-az-id": _next_hop(lambda peer: peer.az_id),
    "next-hop-vpc-id": _next_hop(lambda peer: peer.vpc_id),
    "next-hop-interface-type": _next_hop(lambda peer: _service_type(peer.interface_type)),
    "x-rule-id": _rule(0),
    "x-rule-layer": _rule(1),
    "x-process": _owner("process"),
    "x-unit": _owner("unit"),
    "x-container": _owner("container"),
}
"""Fields that flows have. tcp-flags is 0 for other protocols, as AWS prints it in practice; its text says no more than
that a flow without flags has 0."""


def _unless_regional(value: Callable[[Interface], str | None]) -> Callable[[Interface], str | None]:
    """A regional NAT gateway's traffic has no interface, subnet or instance."""
    return lambda interface: None if interface.interface_type == "regional_nat_gateway" else value(interface)


def _service_type(interface_type: str | None) -> str | None:
    return interface_type if interface_type in _INTERFACE_TYPES else None


def _instance_id(interface: Interface) -> str | None:
    """An interface that a service holds is attached to no instance of the account."""
    return None if _service_type(interface.interface_type) else interface.instance_id


INTERFACE_VALUES: Mapping[str, Callable[[Interface], str | None]] = {
    "account-id": lambda interface: interface.account_id,
    "interface-id": _unless_regional(lambda interface: interface.interface_id),
    "vpc-id": lambda interface: interface.vpc_id,
    "subnet-id": _unless_regional(lambda interface: interface.subnet_id),
    "instance-id": _instance_id,
    "region": lambda interface: interface.region,
    "az-id": lambda interface: interface.az_id,
    "interface-type": lambda interface: _service_type(interface.interface_type),
}
"""Fields that describe the interface. They stay on NODATA and SKIPDATA records."""

TAG_VALUES: Mapping[str, Callable[[Interface], tuple[tuple[str, str], ...]]] = {
    "instance": lambda interface: interface.instance_tags,
    "network-interface": lambda interface: interface.tags,
}
"""Tags by the resource type of TagFieldSpecifications. They describe the interface too."""


def describes_interface(item: Field) -> bool:
    return item.name in INTERFACE_VALUES or (item.tag is not None and item.tag[0] in TAG_VALUES)


def interface_value(item: Field, interface: Interface, format: Format) -> str | None:
    """Raises InputError for a value that would break a line in two or more."""
    if item.tag is not None:
        tags = dict(TAG_VALUES[item.tag[0]](interface))
        return tag_text(tags.get(format.tag_key(item) or "", ""))
    value = INTERFACE_VALUES[item.name](interface)
    if value and any(character <= " " for character in value):
        raise InputError(f"{item.name} {value!r} of {interface.interface_id} has a blank", "remove it")
    return value or None


def tag_text(value: str, safe: str = "") -> str | None:
    """A tag's value as percent-encoded UTF-8 (VPC user guide; RFC 3986: all but letters, digits and `-._~`, and the
    characters `safe`).

    An empty value is absent. The value `-` is encoded too, since a record's `-` says that there is none; AWS says that
    it cannot show it for Auto Scaling groups and is silent on the others.
    """
    return "%2D" if value == "-" else quote(value, safe=safe, errors="replace") or None
