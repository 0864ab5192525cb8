"""The rules of security groups as requests name them (API IpPermission, SecurityGroupRuleRequest), checked and made
canonical. Pure: whether a group or a prefix list is there, its callers find out.

Texts marked `seen` are those of EC2's answers as users have published them; `memory` ones are as remembered, with AWS's
code; where neither is known the text says plainly what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError
from typing import Any

from vnotch import rules
from vnotch.api.service import ApiError

PROTOCOL_NAMES = {"tcp": rules.TCP, "udp": rules.UDP, "icmp": rules.ICMP, "icmpv6": rules.ICMPV6}
_NAME_OF = {number: name for name, number in PROTOCOL_NAMES.items()}

TEXT_CHARACTERS_MAX = 255
_TEXT = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]*")
"""Names and descriptions of groups and rules (API CreateSecurityGroup, IpRange)."""
TEXT_RIGHT = "are strings less than 256 characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"  # memory


@dataclass(frozen=True)
class Permission:
    """One rule: what it lets through, and its peer; exactly one of `cidr`, `group_id` and `prefix_list_id` is given."""

    protocol: int
    from_port: int
    to_port: int
    cidr: str | None = None
    group_id: str | None = None
    prefix_list_id: str | None = None
    description: str | None = None
    user_id: str | None = None  # the owner of the group, where the caller says one

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two rules the same rule: what they let through, and the peer."""
        return (self.protocol, self.from_port, self.to_port, self.cidr, self.group_id, self.prefix_list_id)

    def __str__(self) -> str:
        """As EC2 writes a rule into InvalidPermission.Duplicate. Seen: TCP, UDP, ALL and other protocols; ICMP from
        memory."""
        peer = self.cidr or self.group_id or self.prefix_list_id
        if self.protocol == rules.ALL_PROTOCOLS:
            what = "ALL"
        elif self.protocol in rules.PORT_PROTOCOLS:
            what = f"{protocol_text(self.protocol).upper()}, from port: {self.from_port}, to port: {self.to_port}"
        elif self.protocol in rules.ICMP_PROTOCOLS:
            kind, code = (number if number != rules.ANY else "ALL" for number in (self.from_port, self.to_port))
            what = f"{'ICMP' if self.protocol == rules.ICMP else 'ICMPv6'}, type: {kind}, code: {code}"
        else:
            what = f"protocol: {self.protocol}"
        return f"peer: {peer}, {what}, ALLOW"


def permissions_of(items: Iterable[Mapping[str, Any]]) -> list[Permission]:
    """A request's `IpPermissions`, one by one. Raises ApiError."""
    found = [permission for item in items for permission in _permissions(item)]
    seen: set[tuple[Any, ...]] = set()
    for permission in found:
        if permission.key in seen:
            raise ApiError("InvalidParameterValue", "The same permission must not appear multiple times")  # memory
        seen.add(permission.key)
    return found


def _permissions(item: Mapping[str, Any]) -> list[Permission]:
    base = _traffic(item.get("IpProtocol"), item.get("FromPort"), item.get("ToPort"))
    found = []
    for entry in item.get("IpRanges") or ():
        found.append(_peer(base, entry, cidr=cidr_block(entry.get("CidrIp"), 4)))
    for entry in item.get("Ipv6Ranges") or ():
        found.append(_peer(base, entry, cidr=cidr_block(entry.get("CidrIpv6"), 6)))
    for entry in item.get("PrefixListIds") or ():
        found.append(_peer(base, entry, prefix_list_id=_given(entry, "PrefixListId")))
    for entry in item.get("UserIdGroupPairs") or ():
        found.append(replace(_peer(base, entry, group_id=_group_of(entry)), user_id=entry.get("UserId") or None))
    if not found:
        raise _no_peer()
    return found


def permission_of(item: Mapping[str, Any]) -> Permission:
    """A `SecurityGroupRuleRequest` (API ModifySecurityGroupRules): exactly one peer."""
    base = _traffic(item.get("IpProtocol"), item.get("FromPort"), item.get("ToPort"))
    members = {
        "CidrIpv4": lambda text: _peer(base, item, cidr=cidr_block(text, 4)),
        "CidrIpv6": lambda text: _peer(base, item, cidr=cidr_block(text, 6)),
        "PrefixListId": lambda text: _peer(base, item, prefix_list_id=text),
        "ReferencedGroupId": lambda text: _peer(base, item, group_id=text),
    }
    given = [member for member in members if item.get(member)]
    if not given:
        raise _no_peer()
    if len(given) > 1:
        raise ApiError(
            "InvalidParameterCombination",
            f"Only one of {' and '.join(given)} can be specified for a security group rule.",
        )
    return members[given[0]](item[given[0]])


def _peer(base: Permission, entry: Mapping[str, Any], **peer: str) -> Permission:
    return replace(base, **peer, description=rule_description(entry.get("Description")))  # type: ignore[arg-type]


def _no_peer() -> ApiError:
    return ApiError(  # seen
        "MissingParameter", "Missing source specification: include source security group or CIDR information"
    )


def _group_of(entry: Mapping[str, Any]) -> str:
    if entry.get("GroupName") and not entry.get("GroupId"):
        raise no_default_vpc()
    if entry.get("VpcPeeringConnectionId"):
        raise ApiError(
            "InvalidVpcPeeringConnectionID.NotFound",
            f"The vpcPeeringConnection ID '{entry['VpcPeeringConnectionId']}' does not exist",
        )
    return _given(entry, "GroupId")


def no_default_vpc() -> ApiError:
    """For groups by name, which only a default VPC has (seen, of DeleteSecurityGroup)."""
    return ApiError(
        "VPCIdNotSpecified",
        "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.",
    )


def _given(entry: Mapping[str, Any], member: str) -> str:
    value = entry.get(member)
    if not value:
        raise ApiError("MissingParameter", f"The request must contain the parameter {member}")
    return str(value)


# --- protocol and ports


def _traffic(protocol_given: str | None, low: int | None, high: int | None) -> Permission:
    """Protocol, ports or ICMP type and code, without a peer."""
    if not protocol_given:
        raise ApiError("MissingParameter", "The request must contain the parameter IpProtocol")
    protocol = protocol_number(protocol_given)
    if protocol in rules.PORT_PROTOCOLS:
        if low is None or high is None:
            raise _no_ports("TCP/UDP")
        for port in (low, high):
            if not 0 <= port <= rules.LAST_PORT:
                raise ApiError("InvalidPermission.Malformed", f"TCP/UDP port ({port}) out of range")  # seen
        if low > high:
            raise ApiError("InvalidParameterValue", f"Invalid TCP/UDP port range ({low}:{high})")  # memory
        return Permission(protocol, low, high)
    if protocol in rules.ICMP_PROTOCOLS:
        if low is None and high is None and protocol == rules.ICMPV6:
            return Permission(protocol, rules.ANY, rules.ANY)  # API IpPermission: may be left out for icmpv6
        if low is None or high is None:
            raise _no_ports("ICMP")
        check_icmp(low, high, "InvalidPermission.Malformed")
        return Permission(protocol, low, high)
    return Permission(protocol, rules.ANY, rules.ANY)  # API IpPermission: whatever ports are given, all are meant


def _no_ports(family: str) -> ApiError:
    return ApiError(  # seen
        "InvalidParameterValue", f"Invalid value 'Must specify both from and to ports with {family}.' for portRange."
    )


def protocol_number(text: str) -> int:
    """A name (tcp, udp, icmp, icmpv6), a number from 0 to 255 or -1. Raises ApiError (memory)."""
    name = text.strip().lower()
    if name in PROTOCOL_NAMES:
        return PROTOCOL_NAMES[name]
    if re.fullmatch(r"-1|[0-9]{1,3}", name) and int(name) <= 255:
        return int(name)
    raise ApiError("InvalidParameterValue", f"Invalid value '{text}' for IP protocol. Unknown protocol.")


def protocol_text(protocol: int) -> str:
    """As EC2 shows a rule's protocol: by name for those that have one here, else the number."""
    return _NAME_OF.get(protocol, str(protocol))


def check_icmp(kind: int, code: int, error_code: str) -> None:
    """Type and code, -1 for any; any type goes with any code only (API IpPermission). Texts in plain words."""
    for what, number in (("type", kind), ("code", code)):
        if not rules.ANY <= number <= 255:
            raise ApiError(error_code, f"ICMP {what} ({number}) out of range")
    if kind == rules.ANY and code != rules.ANY:
        raise ApiError(error_code, f"ICMP code ({code}) must be -1 where the ICMP type is -1")


# --- CIDRs and texts


def cidr_block(text: str | None, family: int) -> str:
    """Canonical: host bits are cleared (API IpRange). Raises ApiError (memory) for what is no block of the family."""
    kind = IPv4Network if family == 4 else IPv6Network
    try:
        if text and text.partition("/")[2].isdigit():
            return str(kind(text, strict=False))
    except (AddressValueError, NetmaskValueError, ValueError):
        pass
    raise ApiError("InvalidParameterValue", f"CIDR block {text or ''} is malformed")


def rule_description(text: str | None) -> str | None:
    if text is not None and not fits_text(text):
        raise ApiError("InvalidParameterValue", f"Invalid rule description. Valid descriptions {TEXT_RIGHT}")  # memory
    return text or None


def fits_text(text: str) -> bool:
    return len(text) <= TEXT_CHARACTERS_MAX and _TEXT.fullmatch(text) is not None
