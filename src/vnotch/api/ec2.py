"""The EC2 service: its parts, one noun a file, put together."""

from __future__ import annotations

from vnotch.api.ec2_flow_logs import FlowLogs
from vnotch.api.ec2_interfaces import NetworkInterfaces
from vnotch.api.ec2_subnets import Subnets
from vnotch.api.ec2_tags import Tags
from vnotch.api.ec2_vpcs import Vpcs
from vnotch.api.ec2_zones import Zones


class Ec2(Vpcs, Subnets, NetworkInterfaces, FlowLogs, Tags, Zones):
    """`Ec2(state, accounts, any_interval=False)`: `any_interval` allows aggregation intervals of 1 to 900 s."""
