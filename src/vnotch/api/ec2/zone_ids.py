"""The Availability Zones of a region: names (us-east-1a) and ids (use1-az1).

AWS abbreviates the region's name for the id (EC2 user guide, Availability Zone IDs): the area's code, the first letters
of the direction, the number. The letters of a name are mapped to ids per account on AWS; here a is az1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LETTERS = "abc"

_DIRECTIONS = {
    "north": "n",
    "south": "s",
    "east": "e",
    "west": "w",
    "central": "c",
    "northeast": "ne",
    "northwest": "nw",
    "southeast": "se",
    "southwest": "sw",
}


@dataclass(frozen=True)
class Zone:
    name: str
    zone_id: str


def abbreviation(region: str) -> str:
    """us-east-1 -> use1, ap-southeast-2 -> apse2, us-gov-west-1 -> usgw1. Raises ValueError for any other form."""
    match = re.fullmatch(r"([a-z]{2})(-gov|-iso[a-z]?)?-([a-z]+)-(\d+)", region)
    if match is None or match[3] not in _DIRECTIONS:
        raise ValueError(f"{region!r} is no region name, as for instance us-east-1")
    partition = (match[2] or "").removeprefix("-")
    return f"{match[1]}{partition[:1]}{_DIRECTIONS[match[3]]}{match[4]}"


def zones_of(region: str) -> tuple[Zone, ...]:
    prefix = abbreviation(region)
    return tuple(Zone(f"{region}{letter}", f"{prefix}-az{place}") for place, letter in enumerate(LETTERS, 1))
