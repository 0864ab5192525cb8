"""What the account is and may have, and answers about EC2-Classic, which older clients ask for first."""

from __future__ import annotations

from typing import Any

from vnotch.api.ec2.filters import Filter, constant
from vnotch.api.ec2.part import VPC, Describe, Ec2Part, ec2_operation, tag_set
from vnotch.api.service import Call
from vnotch.store import network
from vnotch.store.shown_rows import ShownRows

CLASSIC = Describe(
    VPC,
    "VpcIds",
    {
        "is-classic-link-enabled": constant(False),
        "tag-key": Filter(lambda vpc: (tag.key for tag in vpc.tags)),
    },
    ShownRows(network.Vpc, "tags"),
    of_account=lambda account, region: {},
)


class AccountAttributes(Ec2Part):
    @ec2_operation("DescribeAccountAttributes", "AttributeNames")
    def describe_account_attributes(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            default = network.default_vpc_id(session)
        quotas = self.quotas
        attributes = {
            "supported-platforms": "VPC",
            "default-vpc": default or "none",
            "max-instances": quotas.instances,
            "vpc-max-security-groups-per-interface": quotas.security_groups_per_interface,
            "max-elastic-ips": quotas.elastic_addresses,
            "vpc-max-elastic-ips": quotas.elastic_addresses,
        }
        asked = call.params.get("AttributeNames") or attributes
        return {
            "AccountAttributes": [
                {"AttributeName": name, "AttributeValues": [{"AttributeValue": str(value)}]}
                for name, value in attributes.items()
                if name in asked
            ]
        }

    @ec2_operation("DescribeVpcClassicLink", "VpcIds Filters", filters=CLASSIC.names)
    def describe_vpc_classic_link(self, call: Call) -> dict[str, Any]:
        """No VPC is linked: EC2-Classic was retired before vnotch was begun."""
        with self.state.read() as session:
            rows, _ = CLASSIC.rows(session, call)
            vpcs = [{"VpcId": row.vpc_id, "ClassicLinkEnabled": False, "Tags": tag_set(row.tags)} for row in rows]
            return {"Vpcs": vpcs}

    @ec2_operation("DescribeVpcClassicLinkDnsSupport", "VpcIds MaxResults NextToken")
    def describe_vpc_classic_link_dns_support(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            rows, more = CLASSIC.rows(session, call)
            return {"Vpcs": [{"VpcId": row.vpc_id, "ClassicLinkDnsSupported": False} for row in rows], **more}
