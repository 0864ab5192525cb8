"""What the API allows of each resource. The defaults are AWS's (VPC user guide, "Amazon VPC quotas"; CloudWatch Logs
user guide, "CloudWatch Logs quotas"); there they can be raised on request, here by
`vnotch server --quota NAME=NUMBER`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from vnotch.errors import InputError

RULES_PER_INTERFACE_MAX = 1000
"""Rules per security group times security groups per interface (VPC user guide, quotas); here also the entries of a
network ACL. The datapath takes 1024 in each direction, both families together; beyond, the agent reports the interface
as failed."""


@dataclass(frozen=True)
class Quotas:
    vpcs: int = 100
    """Of a Region, and as many internet gateways (AWS: the one quota goes with the other). AWS begins with 5 and raises
    them to hundreds on request; here `vnotch attach` makes a VPC for each interface that joins none."""
    subnets_per_vpc: int = 200
    network_interfaces: int = 5000
    """Of a Region. Those that `vnotch enrol` makes of what is there already count, and are not refused."""
    nat_gateways_per_zone: int = 5
    security_groups: int = 2500
    """Of a Region."""
    rules_per_security_group: int = 60
    """In each direction, counted separately for IPv4 and IPv6; a group counts in both, a prefix list by its size."""
    security_groups_per_interface: int = 5
    network_acls_per_vpc: int = 200
    entries_per_network_acl: int = 20
    """In each direction, without the final `*`."""
    route_tables_per_vpc: int = 200
    routes_per_route_table: int = 500
    """Without the local ones."""
    elastic_addresses: int = 5
    """Elastic IP addresses of a Region."""
    prefix_lists: int = 100
    """Of a Region."""
    entries_per_prefix_list: int = 1000
    log_groups: int = 1_000_000
    log_resource_policies: int = 10
    """Of a Region, without those of single log groups."""
    log_queries: int = 100
    """Of Logs Insights, running or waiting."""
    live_tail_sessions: int = 15
    metric_filters_per_log_group: int = 100
    instances: int = 200
    """Launched and not terminated. AWS counts their processors; a host in lab mode has room for so many interfaces."""

    @classmethod
    def of(cls, settings: Iterable[str]) -> Quotas:
        """AWS's quotas with these `NAME=NUMBER` in their place; a name is an attribute's, with hyphens.

        Raises InputError for an unknown name, one that is given twice, what is no number from 1 on, and for more rules
        than an interface can be judged by.
        """
        known = {field.name.replace("_", "-"): field.name for field in fields(cls)}
        values: dict[str, int] = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in known:
                raise InputError(f"quota {setting!r}: there is none of that name", f"known are {', '.join(known)}")
            if known[name] in values:
                raise InputError(f"quota {name} is given twice", "give it once")
            if not (number.isascii() and number.isdigit()) or not 1 <= int(number) < 1 << 31:
                raise InputError(f"quota {setting!r}: not a number from 1 on", f"such as {name}=200")
            values[known[name]] = int(number)
        quotas = cls(**values)
        quotas._check()
        return quotas

    def _check(self) -> None:
        rules, groups = self.rules_per_security_group, self.security_groups_per_interface
        if rules * groups > RULES_PER_INTERFACE_MAX:
            raise InputError(
                f"{rules} rules per security group times {groups} security groups per interface are {rules * groups}, "
                f"more than {RULES_PER_INTERFACE_MAX}",
                "lower rules-per-security-group or security-groups-per-interface",
            )
        if self.entries_per_network_acl > RULES_PER_INTERFACE_MAX:
            raise InputError(
                f"quota entries-per-network-acl: {self.entries_per_network_acl} is more than {RULES_PER_INTERFACE_MAX}",
                "lower it",
            )
