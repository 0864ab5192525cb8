"""DescribeInstanceTypes: what an instance can have of a network. A network namespace has no other size, so each type
of AWS's model has the same.
"""

from __future__ import annotations

from typing import Any

from vnotch.api.ec2.attachments import DEVICE_INDEX_MAX
from vnotch.api.ec2.filters import Filter, constant, parse
from vnotch.api.ec2.interface_addresses import ADDRESSES_MAX
from vnotch.api.ec2.paging import Page
from vnotch.api.ec2.part import Ec2Part, ec2_operation
from vnotch.api.ec2.run_instances import INSTANCE_TYPE
from vnotch.api.service import Call

RESULTS = (5, 100)
"""Bounds of MaxResults in EC2's service model."""

_FILTERS = {
    "bare-metal": constant(False),
    "burstable-performance-supported": constant(False),
    "current-generation": constant(True),
    "instance-type": Filter(lambda row: (row["InstanceType"],)),
    "network-info.ipv4-addresses-per-interface": constant(ADDRESSES_MAX),
    "network-info.ipv6-addresses-per-interface": constant(ADDRESSES_MAX),
    "network-info.ipv6-supported": constant(True),
    "network-info.maximum-network-interfaces": constant(DEVICE_INDEX_MAX + 1),
    "processor-info.supported-architecture": constant("x86_64"),
}


class InstanceTypes(Ec2Part):
    @ec2_operation("DescribeInstanceTypes", "InstanceTypes Filters MaxResults NextToken", filters=_FILTERS)
    def describe_instance_types(self, call: Call) -> dict[str, Any]:
        """Without names the one that RunInstances takes by itself."""
        Page.of(call.operation, call.params, "InstanceTypes", results=RESULTS)
        names = list(dict.fromkeys(call.params.get("InstanceTypes") or [INSTANCE_TYPE]))
        conditions = parse(call.params.get("Filters"), _FILTERS)
        rows = [_describe(name) for name in names]
        return {"InstanceTypes": [row for row in rows if all(each.matches(row) for each in conditions)]}


def _describe(name: str) -> dict[str, Any]:
    return {
        "InstanceType": name,
        "CurrentGeneration": True,
        "BareMetal": False,
        "BurstablePerformanceSupported": False,
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "NetworkInfo": {
            "MaximumNetworkInterfaces": DEVICE_INDEX_MAX + 1,
            "Ipv4AddressesPerInterface": ADDRESSES_MAX,
            "Ipv6AddressesPerInterface": ADDRESSES_MAX,
            "Ipv6Supported": True,
        },
    }
