"""What EC2 allows of each resource. The defaults are AWS's (VPC user guide, "Amazon VPC quotas"); there they can be
raised on request, here by giving other values to `Ec2`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quotas:
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
    prefix_lists: int = 100
    """Of a Region."""
    entries_per_prefix_list: int = 1000
