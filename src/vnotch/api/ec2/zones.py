"""DescribeRegions and DescribeAvailabilityZones: one region, three zones."""

from __future__ import annotations

from typing import Any

from vnotch.api.ec2.filters import NEVER, Filter, constant, parse
from vnotch.api.ec2.part import Ec2Part, ec2_operation
from vnotch.api.ec2.zone_ids import zones_of
from vnotch.api.service import ApiError, Call

OPT_IN = "opt-in-not-required"


def _member(name: str) -> Filter:
    return Filter(lambda row: (row[name],))


REGION_FILTERS = {
    "endpoint": _member("Endpoint"),
    "opt-in-status": _member("OptInStatus"),
    "region-name": _member("RegionName"),
}
ZONE_FILTERS = {
    "group-name": _member("GroupName"),
    "group-long-name": NEVER,
    "message": NEVER,
    "opt-in-status": constant(OPT_IN),
    "parent-zone-id": NEVER,
    "parent-zone-name": NEVER,
    "region-name": _member("RegionName"),
    "state": _member("State"),
    "zone-id": _member("ZoneId"),
    "zone-name": _member("ZoneName"),
    "zone-type": _member("ZoneType"),
}


class Zones(Ec2Part):
    @ec2_operation("DescribeRegions", "RegionNames AllRegions Filters", filters=REGION_FILTERS)
    def describe_regions(self, call: Call) -> dict[str, Any]:
        unknown = [name for name in call.params.get("RegionNames") or () if name != self.region]
        if unknown:
            raise ApiError("InvalidParameterValue", f"Invalid region provided: [{', '.join(unknown)}]")
        region = {
            "RegionName": self.region,
            "Endpoint": f"ec2.{self.region}.amazonaws.com",
            "OptInStatus": OPT_IN,
        }
        return {"Regions": _matching([region], call, REGION_FILTERS)}

    @ec2_operation("DescribeAvailabilityZones", "ZoneNames ZoneIds AllAvailabilityZones Filters", filters=ZONE_FILTERS)
    def describe_availability_zones(self, call: Call) -> dict[str, Any]:
        zones = [
            {
                "OptInStatus": OPT_IN,
                "Messages": [],
                "RegionName": self.region,
                "ZoneName": zone.name,
                "ZoneId": zone.zone_id,
                "GroupName": f"{self.region}-zg-1",
                "NetworkBorderGroup": self.region,
                "ZoneType": "availability-zone",
                "State": "available",
            }
            for zone in zones_of(self.region)
        ]
        for member, key in (("ZoneNames", "ZoneName"), ("ZoneIds", "ZoneId")):
            if names := call.params.get(member):
                unknown = [name for name in names if name not in {zone[key] for zone in zones}]
                if unknown:
                    raise ApiError("InvalidParameterValue", f"Invalid availability zone: [{', '.join(unknown)}]")
                zones = [zone for zone in zones if zone[key] in names]
        return {"AvailabilityZones": _matching(zones, call, ZONE_FILTERS)}


def _matching(rows: list[dict[str, Any]], call: Call, table: dict[str, Filter]) -> list[dict[str, Any]]:
    conditions = parse(call.params.get("Filters"), table)
    return [row for row in rows if all(condition.matches(row) for condition in conditions)]
