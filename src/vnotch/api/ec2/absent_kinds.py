"""Kinds of resources that tools look for round a VPC and of which vnotch has none: to describe them finds nothing.

A VPC is read together with what may be attached to it. Such a reader is told that there is nothing, by the same checks
as everywhere: an id that is named does not exist, and a filter must be one of AWS's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vnotch.api.accepts import EVERY_FILTER
from vnotch.api.ec2.filters import NEVER, parse
from vnotch.api.ec2.paging import Page
from vnotch.api.ec2.part import Ec2Part, ec2_operation
from vnotch.api.service import ApiError, Call, Handler
from vnotch.api.wire.models import documented_filters, service_model


@dataclass(frozen=True)
class AbsentKind:
    """`operation` lists `listed`; `ids` are the members that name some, `code` and `text` the answer to any."""

    operation: str
    listed: str
    ids: str
    code: str
    text: str
    more: str = "MaxResults NextToken"


ABSENT_KINDS = (
    AbsentKind(
        *("DescribeCarrierGateways", "CarrierGateways", "CarrierGatewayIds"),
        *("InvalidCarrierGatewayID.NotFound", "The carrierGateway ID '{}' does not exist"),
    ),
    AbsentKind(
        *("DescribeCustomerGateways", "CustomerGateways", "CustomerGatewayIds"),
        *("InvalidCustomerGatewayID.NotFound", "The customerGateway ID '{}' does not exist", ""),
    ),
    AbsentKind(  # the default options of a VPC are not among them, on AWS neither
        *("DescribeDhcpOptions", "DhcpOptions", "DhcpOptionsIds"),
        *("InvalidDhcpOptionID.NotFound", "The dhcpOption ID '{}' does not exist"),
    ),
    AbsentKind(
        *("DescribeEgressOnlyInternetGateways", "EgressOnlyInternetGateways", "EgressOnlyInternetGatewayIds"),
        *("InvalidGatewayID.NotFound", "The gateway ID '{}' does not exist"),
    ),
    AbsentKind(
        *("DescribeKeyPairs", "KeyPairs", "KeyNames KeyPairIds"),
        *("InvalidKeyPair.NotFound", "The key pair '{}' does not exist", "IncludePublicKey"),
    ),
    AbsentKind(  # of services that are reached by a gateway endpoint
        *("DescribePrefixLists", "PrefixLists", "PrefixListIds"),
        *("InvalidPrefixListId.NotFound", "The prefix list ID '{}' does not exist"),
    ),
    AbsentKind(
        *("DescribeTransitGatewayAttachments", "TransitGatewayAttachments", "TransitGatewayAttachmentIds"),
        *("InvalidTransitGatewayAttachmentID.NotFound", "Transit Gateway Attachment {} was deleted or does not exist."),
    ),
    AbsentKind(
        *("DescribeTransitGatewayVpcAttachments", "TransitGatewayVpcAttachments", "TransitGatewayAttachmentIds"),
        *("InvalidTransitGatewayAttachmentID.NotFound", "Transit Gateway Attachment {} was deleted or does not exist."),
    ),
    AbsentKind(
        *("DescribeTransitGateways", "TransitGateways", "TransitGatewayIds"),
        *("InvalidTransitGatewayID.NotFound", "Transit Gateway {} was deleted or does not exist."),
    ),
    AbsentKind(
        *("DescribeVolumes", "Volumes", "VolumeIds"),
        *("InvalidVolume.NotFound", "The volume '{}' does not exist."),
    ),
    AbsentKind(
        *("DescribeVpcEndpoints", "VpcEndpoints", "VpcEndpointIds"),
        *("InvalidVpcEndpointId.NotFound", "The Vpc Endpoint Id '{}' does not exist"),
    ),
    AbsentKind(
        *("DescribeVpcPeeringConnections", "VpcPeeringConnections", "VpcPeeringConnectionIds"),
        *("InvalidVpcPeeringConnectionID.NotFound", "The vpcPeeringConnection ID '{}' does not exist"),
    ),
    AbsentKind(
        *("DescribeVpnConnections", "VpnConnections", "VpnConnectionIds"),
        *("InvalidVpnConnectionID.NotFound", "The vpnConnection ID '{}' does not exist", ""),
    ),
    AbsentKind(
        *("DescribeVpnGateways", "VpnGateways", "VpnGatewayIds"),
        *("InvalidVpnGatewayID.NotFound", "The vpnGateway ID '{}' does not exist", ""),
    ),
)


class AbsentKinds(Ec2Part):
    """One handler for each of `ABSENT_KINDS`."""


def _describes(kind: AbsentKind) -> Handler:
    @ec2_operation(kind.operation, f"{kind.ids} Filters {kind.more}", filters=EVERY_FILTER)
    def describe(part: AbsentKinds, call: Call) -> dict[str, Any]:
        Page.of(call.operation, call.params)
        names = documented_filters(service_model("ec2").operation_model(call.operation))
        parse(call.params.get("Filters"), dict.fromkeys(names, NEVER), by_tag=lambda key: NEVER)
        for member in kind.ids.split():
            for resource_id in call.params.get(member) or ():
                raise ApiError(kind.code, kind.text.format(resource_id))
        return {kind.listed: []}

    return describe


for _kind in ABSENT_KINDS:
    setattr(AbsentKinds, f"describe_{_kind.listed.lower()}", _describes(_kind))
