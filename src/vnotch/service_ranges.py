"""Which AWS service a public address belongs to, from the `ip-ranges.json` that AWS publishes and the user supplies.

vnotch ships none of AWS's data: without a file no address belongs to a service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vnotch.address import Prefixes, Values
from vnotch.errors import InputError

FILE_BYTES_MAX = 64 << 20
"""AWS's file has less than 3 MB."""

EVERYTHING = "AMAZON"
"""The service that holds every range, the other services' included (VPC user guide, AWS IP address ranges)."""
COMPUTE = "EC2"

_LISTS = {"prefixes": "ip_prefix", "ipv6_prefixes": "ipv6_prefix"}
_SERVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_RIGHT = "the file is https://ip-ranges.amazonaws.com/ip-ranges.json, or one of its form"


class ServiceRanges:
    """Ranges of addresses and their services.

    Of several ranges that hold an address the most specific one counts; AMAZON counts only where no other service has
    the address. AWS says that one code is printed but not which; a range that S3 or another service has and EC2 too is
    the other service's, since EC2 lists the ranges of services that run on it.
    """

    def __init__(self, ranges: Iterable[tuple[str, str]]) -> None:
        """(CIDR, service) pairs in any order. Raises InputError for what is no CIDR."""
        ranked = sorted(ranges, key=lambda pair: (pair[1] == EVERYTHING, pair[1] == COMPUTE, pair[1]))
        named = [pair for pair in ranked if pair[1] != EVERYTHING]
        services = [service for _, service in ranked]
        self._named = Prefixes(cidr for cidr, _ in named)
        self._everything = Prefixes(cidr for cidr, _ in ranked[len(named) :])
        self._everything_from = len(named)
        self.names = pa.array(sorted(set(services)), pa.string())
        number = {service: place for place, service in enumerate(self.names.to_pylist())}
        self._service_of_range = np.array([*(number[service] for service in services), -1], np.int32)

    @classmethod
    def load(cls, path: Path) -> ServiceRanges:
        """Raises InputError that names the place in the file where it is not of AWS's form."""
        try:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise InputError(f"the ranges file {path} cannot be read: {error.strerror}") from None
        if len(content) > FILE_BYTES_MAX:
            raise InputError(f"the ranges file {path} has more than {FILE_BYTES_MAX} bytes", _RIGHT)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no JSON: {error}", _RIGHT) from None
        try:
            return cls(_ranges(document))
        except InputError as error:
            raise InputError(f"{path}: {error.message}", _RIGHT) from None

    def find(self, distinct: Values, is_four: Values) -> Values:
        """(k, 16) bytes, which are IPv4 -> int32 index in `names` for each, -1 for no service."""
        found = self._named.find(distinct, is_four)
        rest = np.flatnonzero(found < 0)
        wide = self._everything.find(distinct[rest], is_four[rest])
        found[rest] = np.where(wide >= 0, wide + self._everything_from, -1)
        services: Values = self._service_of_range[found]
        return services


NO_RANGES = ServiceRanges(())
"""Without a file."""


def _ranges(document: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(document, Mapping):
        raise InputError("it is no JSON object")
    for name, member in _LISTS.items():
        items = document.get(name)
        if not isinstance(items, list):
            raise InputError(f"{name} is missing or no list")
        for place, item in enumerate(items):
            yield _range(item, f"{name}[{place}]", member)


def _range(item: Any, place: str, member: str) -> tuple[str, str]:
    if not isinstance(item, Mapping):
        raise InputError(f"{place} is no object")
    cidr, service = item.get(member), item.get("service")
    if not isinstance(service, str) or not _SERVICE.fullmatch(service):
        raise InputError(f"{place}.service is missing or no service name: {service!r}")
    if not isinstance(cidr, str):
        raise InputError(f"{place}.{member} is missing or no string")
    if (":" in cidr) != (member == "ipv6_prefix"):
        raise InputError(f"{place}.{member}: {cidr!r} is of the other family")
    try:
        Prefixes([cidr])
    except InputError as error:
        raise InputError(f"{place}.{member}: {error.message}") from None
    return cidr, service
