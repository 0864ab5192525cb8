"""The EC2 service: its parts, one noun a file, put together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from vnotch.api.ec2.absent_kinds import AbsentKinds
from vnotch.api.ec2.account_attributes import AccountAttributes
from vnotch.api.ec2.attachments import Attachments
from vnotch.api.ec2.condition_keys import Keys, resource_keys
from vnotch.api.ec2.default_vpc import DefaultVpc
from vnotch.api.ec2.elastic_addresses import ElasticAddresses
from vnotch.api.ec2.flow_logs import FlowLogs
from vnotch.api.ec2.images import Images
from vnotch.api.ec2.instance_types import InstanceTypes
from vnotch.api.ec2.instances import Instances
from vnotch.api.ec2.integration_templates import IntegrationTemplates
from vnotch.api.ec2.interface_addresses import InterfaceAddresses
from vnotch.api.ec2.interfaces import NetworkInterfaces
from vnotch.api.ec2.internet_gateways import InternetGateways
from vnotch.api.ec2.nat_gateways import NatGateways
from vnotch.api.ec2.network_acl_entries import NetworkAclEntries
from vnotch.api.ec2.network_acls import NetworkAcls
from vnotch.api.ec2.part import KINDS, arn
from vnotch.api.ec2.prefix_lists import PrefixLists
from vnotch.api.ec2.route_tables import RouteTables
from vnotch.api.ec2.routes import Routes
from vnotch.api.ec2.run_instances import RunInstances
from vnotch.api.ec2.security_group_rules import SecurityGroupRules
from vnotch.api.ec2.security_groups import SecurityGroups
from vnotch.api.ec2.subnets import Subnets
from vnotch.api.ec2.tags import Tags
from vnotch.api.ec2.vpc_attributes import VpcAttributes
from vnotch.api.ec2.vpc_cidrs import VpcCidrs
from vnotch.api.ec2.vpcs import Vpcs
from vnotch.api.ec2.zones import Zones
from vnotch.api.service import Call, Further
from vnotch.store import agents, firewall, instances, routing
from vnotch.store.accounts import Accounts
from vnotch.store.state import State


class Ec2(
    DefaultVpc,
    Vpcs,
    VpcCidrs,
    Subnets,
    VpcAttributes,
    NetworkInterfaces,
    InterfaceAddresses,
    Images,
    InstanceTypes,
    RunInstances,
    Instances,
    Attachments,
    SecurityGroups,
    SecurityGroupRules,
    NetworkAcls,
    NetworkAclEntries,
    PrefixLists,
    InternetGateways,
    ElasticAddresses,
    NatGateways,
    RouteTables,
    Routes,
    FlowLogs,
    IntegrationTemplates,
    Tags,
    Zones,
    AccountAttributes,
    AbsentKinds,
):
    """`Ec2(state, accounts, any_interval=False, quotas=Quotas())`: `any_interval` allows aggregation intervals of 1 to
    900 s. A state of a release without security groups, network ACLs and route tables gets the default ones."""

    def __init__(self, state: State, accounts: Accounts, **settings: Any) -> None:
        super().__init__(state, accounts, **settings)
        with state.write() as session:
            routing.complete(session)
            instances.complete(session, time.time_ns() // 1_000_000)
            agents.touch(session, agents.agents_on(session, firewall.complete(session)))

    def request_keys(self, call: Call) -> Keys:
        return {"ec2:region": call.region}

    def further(self, call: Call, resources: Sequence[str]) -> list[Further]:
        """Tagging while creating needs ec2:CreateTags too (EC2 user guide, tag resources during creation)."""
        asked = [item for item in call.params.get("TagSpecifications") or () if item.get("Tags")]
        kinds = {kind.name for kind in KINDS.values()} & {item.get("ResourceType") for item in asked}
        action = {"ec2:createaction": call.operation}
        tagging = [Further(("ec2:CreateTags",), (arn(call, name),), action) for name in sorted(kinds)]
        return [*super().further(call, resources), *tagging]

    def resource_keys(self, call: Call, resource: str) -> Keys:
        return resource_keys(self.state, call, resource)
