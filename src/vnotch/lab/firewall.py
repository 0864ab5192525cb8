"""Security groups, network ACLs and prefix lists of a topology: values by name, and the texts the file has for them.

    "tcp/80 from 0.0.0.0/0"                 a rule of a group: protocol and ports, then the peer
    "tcp/8000-8100 from group web"          ... a group of the file
    "icmp/8 from prefix-list visitors"      ... a prefix list of the file; ICMP type, or type/code
    "all to ::/0"                           ... outbound
    "90 deny icmp/0 to 198.51.100.22/32"    an entry of an ACL: its number, then what to do, then as above, with a CIDR

Parsing is pure; a text that is not right raises ValueError, whose text says what is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network

from vnotch.rules import ALL_PROTOCOLS, ANY, ICMP, ICMPV6, LAST_PORT, LAST_RULE_NUMBER, TCP, UDP, AclEntry

PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6}
WORD = {False: "from", True: "to"}
RULE_RIGHT = {
    False: 'for instance "tcp/80 from 0.0.0.0/0", "icmp from group web" or "all from prefix-list office"',
    True: 'for instance "tcp/443 to 0.0.0.0/0", "udp/53 to group dns" or "all to ::/0"',
}
ENTRY_RIGHT = {
    False: 'for instance "100 allow tcp/1024-65535 from 0.0.0.0/0"',
    True: 'for instance "90 deny icmp/0 to 198.51.100.0/24"',
}
RULES_MAX = 60
ENTRIES_MAX = 20
"""Of a group and of an ACL in each direction (VPC user guide, quotas)."""
GROUPS_MAX = 5
"""Of an interface."""


@dataclass(frozen=True)
class Traffic:
    """Protocol number, -1 for all, and ports; for ICMP and ICMPv6 the type and the code, -1 for any."""

    protocol: int
    low: int = ANY
    high: int = ANY


@dataclass(frozen=True)
class GroupRule:
    """Exactly one of `cidr`, `group` and `prefix_list` is the peer; the latter two are names."""

    egress: bool
    traffic: Traffic
    cidr: str | None = None
    group: str | None = None
    prefix_list: str | None = None


@dataclass(frozen=True)
class SecurityGroup:
    """`egress_given` False: the file says nothing of outbound traffic, and all of it is let out, as AWS does."""

    name: str
    description: str
    rules: tuple[GroupRule, ...]
    egress_given: bool = False


@dataclass(frozen=True)
class NetworkAcl:
    name: str
    entries: tuple[AclEntry, ...]


@dataclass(frozen=True)
class PrefixList:
    name: str
    cidrs: tuple[str, ...]

    @property
    def family(self) -> int:
        return ip_network(self.cidrs[0]).version


def parse_rule(text: str, egress: bool) -> GroupRule:
    what, word, peer = _parted(text, WORD[egress])
    traffic = parse_traffic(what)
    kind, _, name = peer.partition(" ")
    if kind in ("group", "prefix-list") and name:
        return GroupRule(egress, traffic, **{kind.replace("-", "_"): name.strip()})
    return GroupRule(egress, traffic, cidr=_cidr(peer, traffic, word))


def parse_entry(text: str, egress: bool) -> AclEntry:
    number, _, rest = text.strip().partition(" ")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= LAST_RULE_NUMBER:
        raise ValueError(f"{text!r} does not begin with a number from 1 to {LAST_RULE_NUMBER}")
    action, _, rest = rest.strip().partition(" ")
    if action not in ("allow", "deny"):
        raise ValueError(f"{text!r} says neither allow nor deny after its number")
    what, word, peer = _parted(rest, WORD[egress])
    traffic = parse_traffic(what)
    is_icmp = traffic.protocol in (ICMP, ICMPV6)
    return AclEntry(
        rule_number=int(number),
        egress=egress,
        protocol=traffic.protocol,
        allow=action == "allow",
        cidr=_cidr(peer, traffic, word),
        from_port=ANY if is_icmp else traffic.low,
        to_port=ANY if is_icmp else traffic.high,
        icmp_type=traffic.low if is_icmp else ANY,
        icmp_code=traffic.high if is_icmp else ANY,
    )


def _parted(text: str, word: str) -> tuple[str, str, str]:
    parts = re.split(rf"\s+{word}\s+", text.strip(), maxsplit=1)
    if len(parts) != 2:
        raise ValueError(f"{text!r} has no {word!r} between what is let through and whom")
    return parts[0], word, parts[1].strip()


def parse_traffic(text: str) -> Traffic:
    """`all`, `tcp`, `tcp/80`, `udp/1024-65535`, `icmp`, `icmp/8`, `icmp/3/4`, `icmpv6/128` or `protocol/47`."""
    name, *details = text.split("/")
    if name == "all" and not details:
        return Traffic(ALL_PROTOCOLS)
    if name in ("tcp", "udp") and len(details) <= 1:
        low, high = _range(text, details[0]) if details else (0, LAST_PORT)
        return Traffic(PROTOCOLS[name], low, high)
    if name in ("icmp", "icmpv6") and len(details) <= 2:
        kind, code = [*(_byte(text, detail) for detail in details), ANY, ANY][:2]
        return Traffic(PROTOCOLS[name], kind, code)
    if name == "protocol" and len(details) == 1 and _byte(text, details[0]) not in PROTOCOLS.values():
        return Traffic(_byte(text, details[0]))
    raise ValueError(f"{text!r} is no traffic: all, tcp/PORT, udp/PORT-PORT, icmp, icmp/TYPE/CODE or protocol/NUMBER")


def _range(text: str, ports: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", ports)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not low <= high <= LAST_PORT:
        raise ValueError(f"{text!r} has no port or range of ports from 0 to {LAST_PORT}")
    return low, high


def _byte(text: str, number: str) -> int:
    if not number.isascii() or not number.isdigit() or int(number) > 255:
        raise ValueError(f"{text!r} has a number that is not from 0 to 255")
    return int(number)


def _cidr(text: str, traffic: Traffic, word: str) -> str:
    """Canonical. A bare address is one with /32 or /128."""
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} after {word!r} is no CIDR block, group or prefix list") from None
    if traffic.protocol == (ICMP if isinstance(network, IPv6Network) else ICMPV6):
        right = "icmpv6" if isinstance(network, IPv6Network) else "icmp"
        raise ValueError(f"{text} has other packets: with it goes {right}")
    return str(network)


def permission(rule: GroupRule, group_ids: dict[str, str], prefix_list_ids: dict[str, str]) -> dict[str, object]:
    """The rule as an `IpPermission` of the EC2 API."""
    traffic = rule.traffic
    item: dict[str, object] = {"IpProtocol": str(traffic.protocol)}
    if traffic.protocol in PROTOCOLS.values():
        item |= {"FromPort": traffic.low, "ToPort": traffic.high}
    if rule.group:
        return item | {"UserIdGroupPairs": [{"GroupId": group_ids[rule.group]}]}
    if rule.prefix_list:
        return item | {"PrefixListIds": [{"PrefixListId": prefix_list_ids[rule.prefix_list]}]}
    if ":" in (rule.cidr or ""):
        return item | {"Ipv6Ranges": [{"CidrIpv6": rule.cidr}]}
    return item | {"IpRanges": [{"CidrIp": rule.cidr}]}


def acl_entry(entry: AclEntry) -> dict[str, object]:
    """The entry as the members of CreateNetworkAclEntry."""
    item: dict[str, object] = {
        "RuleNumber": entry.rule_number,
        "Egress": entry.egress,
        "Protocol": str(entry.protocol),
        "RuleAction": "allow" if entry.allow else "deny",
        "Ipv6CidrBlock" if ":" in entry.cidr else "CidrBlock": entry.cidr,
    }
    if entry.protocol in (TCP, UDP):
        item["PortRange"] = {"From": entry.from_port, "To": entry.to_port}
    if entry.protocol in (ICMP, ICMPV6):
        item["IcmpTypeCode"] = {"Type": entry.icmp_type, "Code": entry.icmp_code}
    return item
