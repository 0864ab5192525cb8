"""Entries of network ACLs: create, replace, delete."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from vnotch import rules
from vnotch.api.ec2.addresses import no_cidr
from vnotch.api.ec2.network_acls import touch
from vnotch.api.ec2.part import NETWORK_ACL, Ec2Part, arns, ec2_operation, invalid_value, required
from vnotch.api.ec2.permissions import check_icmp, cidr_block, protocol_number
from vnotch.api.service import ApiError, Call
from vnotch.store.firewall import NetworkAcl, NetworkAclEntry

ENTRY = "NetworkAclId RuleNumber Protocol RuleAction Egress CidrBlock Ipv6CidrBlock IcmpTypeCode PortRange"


class NetworkAclEntries(Ec2Part):
    @ec2_operation("CreateNetworkAclEntry", ENTRY, arns("network-acl:NetworkAclId"))
    def create_network_acl_entry(self, call: Call) -> dict[str, Any]:
        value = entry_of(call)
        with self.state.write() as session:
            acl = _acl(session, call)
            if acl.entry(value.egress, value.rule_number):
                raise ApiError(  # seen
                    "NetworkAclEntryAlreadyExists",
                    f"The network acl entry identified by {value.rule_number} already exists.",
                )
            if sum(entry.egress is value.egress for entry in acl.entries) >= self.quotas.entries_per_network_acl:
                # The code is in EC2's error list; the text has the form of VpcLimitExceeded.
                raise ApiError(
                    "NetworkAclEntryLimitExceeded", "The maximum number of network ACL entries has been reached."
                )
            _put(session, acl, NetworkAclEntry(), value)
        return {}

    @ec2_operation("ReplaceNetworkAclEntry", ENTRY, arns("network-acl:NetworkAclId"))
    def replace_network_acl_entry(self, call: Call) -> dict[str, Any]:
        value = entry_of(call)
        with self.state.write() as session:
            acl = _acl(session, call)
            _put(session, acl, _existing(acl, value.egress, value.rule_number), value)
        return {}

    @ec2_operation("DeleteNetworkAclEntry", "NetworkAclId RuleNumber Egress", arns("network-acl:NetworkAclId"))
    def delete_network_acl_entry(self, call: Call) -> dict[str, Any]:
        egress, rule_number = bool(_given(call.params, "Egress")), _rule_number(call)
        with self.state.write() as session:
            acl = _acl(session, call)
            entry = _existing(acl, egress, rule_number)
            session.execute(delete(NetworkAclEntry).where(NetworkAclEntry.number == entry.number))
            touch(session, acl)
        return {}


def _acl(session: Session, call: Call) -> NetworkAcl:
    acl: NetworkAcl = NETWORK_ACL.find(session, required(call, "NetworkAclId"), lock=True)
    return acl


def _existing(acl: NetworkAcl, egress: bool, rule_number: int) -> NetworkAclEntry:
    entry = acl.entry(egress, rule_number)
    if entry is None:
        # The code is in EC2's error list; the text is formed like that of an entry that exists already.
        raise ApiError(
            "InvalidNetworkAclEntry.NotFound", f"The network acl entry identified by {rule_number} does not exist."
        )
    return entry


def _put(session: Session, acl: NetworkAcl, entry: NetworkAclEntry, value: rules.AclEntry) -> None:
    for name in rules.AclEntry.__dataclass_fields__:
        setattr(entry, name, getattr(value, name))
    if entry not in acl.entries:
        acl.entries.append(entry)
    session.flush()
    touch(session, acl)


def entry_of(call: Call) -> rules.AclEntry:
    """The entry that a call describes, canonical. Raises ApiError.

    What is required of which protocol is API CreateNetworkAclEntry's; its texts are not published, these say plainly
    what is wrong.
    """
    params = call.params
    protocol = protocol_number(required(call, "Protocol"))
    action = required(call, "RuleAction")
    if action not in ("allow", "deny"):
        raise invalid_value(action, "ruleAction", "It is allow or deny.")
    cidr = _cidr(params)
    low = high = kind = code = rules.ANY
    if protocol in rules.PORT_PROTOCOLS:
        ports = _given(params, "PortRange")
        low, high = _given(ports, "From"), _given(ports, "To")
        if not 0 <= low <= high <= rules.LAST_PORT:
            raise invalid_value(f"{low}-{high}", "portRange", "Ports are 0 to 65535, the first not above the last.")
    if protocol == rules.ICMP or (protocol == rules.ICMPV6 and ":" in cidr):
        icmp = _given(params, "IcmpTypeCode")
        kind, code = _given(icmp, "Type"), _given(icmp, "Code")
        check_icmp(kind, code, "InvalidParameterValue")
    return rules.AclEntry(
        rule_number=_rule_number(call),
        egress=bool(_given(params, "Egress")),
        protocol=protocol,
        allow=action == "allow",
        cidr=cidr,
        from_port=low,
        to_port=high,
        icmp_type=kind,
        icmp_code=code,
    )


def _cidr(params: dict[str, Any]) -> str:
    ipv4, ipv6 = params.get("CidrBlock"), params.get("Ipv6CidrBlock")
    if ipv4 and ipv6:
        raise ApiError(
            "InvalidParameterCombination", "The parameter CidrBlock cannot be used with the parameter Ipv6CidrBlock"
        )
    try:
        if ipv6:
            return cidr_block(ipv6, 6)
        if ipv4:
            return cidr_block(ipv4, 4)
    except ApiError:
        raise no_cidr(ipv6 or ipv4 or "", "ipv6CidrBlock" if ipv6 else "cidrBlock") from None
    raise ApiError("MissingParameter", "The request must contain the parameter CidrBlock or Ipv6CidrBlock")


def _rule_number(call: Call) -> int:
    number: int = _given(call.params, "RuleNumber")
    if not 1 <= number <= rules.LAST_RULE_NUMBER:
        raise invalid_value(number, "ruleNumber", f"It is a number from 1 to {rules.LAST_RULE_NUMBER}.")
    return number


def _given(members: dict[str, Any], name: str) -> Any:
    value = members.get(name)
    if value is None or value == {}:
        raise ApiError("MissingParameter", f"The request must contain the parameter {name}")
    return value
