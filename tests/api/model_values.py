"""Values made at random for a shape of a botocore model: what a client could send, or a handler could answer."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.model import Shape

TEXTS = [
    "a",
    "vpc-0123456789abcdef0",
    "",
    " x ",
    "a&b=c;d",
    "<tag/>",
    'quo"te',
    "naïve ☃ 𝄞",
    "100%",
    "a+b",
    "x\ny",
    "]]>",
]


class ModelValues:
    """`seconds`: times without fractions, for protocols that write none."""

    def __init__(self, seed: int, *, seconds: bool = False, empty_lists: bool = True, depth_max: int = 6) -> None:
        self._random = random.Random(seed)
        self._seconds = seconds
        self._empty_lists = empty_lists
        self._depth_max = depth_max

    def value(self, shape: Shape, depth: int = 0) -> Any:
        return getattr(self, f"_{shape.type_name}")(shape, depth)

    def _structure(self, shape: Shape, depth: int) -> dict[str, Any]:
        members = {}
        for name, member in shape.members.items():
            container = member.type_name in ("structure", "list", "map")
            if (container and depth >= self._depth_max) or self._random.random() < 0.3:
                continue
            members[name] = self.value(member, depth + 1)
        return members

    def _list(self, shape: Shape, depth: int) -> list[Any]:
        least = 0 if self._empty_lists else 1
        return [self.value(shape.member, depth + 1) for _ in range(self._random.randint(least, 3))]

    def _map(self, shape: Shape, depth: int) -> dict[str, Any]:
        return {f"key{n}": self.value(shape.value, depth + 1) for n in range(self._random.randint(1, 3))}

    def _string(self, shape: Shape, depth: int) -> str:
        return self._random.choice(TEXTS)

    def _integer(self, shape: Shape, depth: int) -> int:
        return self._random.choice([0, 1, -1, 600, 2**31 - 1, -(2**31)])

    def _long(self, shape: Shape, depth: int) -> int:
        return self._random.choice([0, 1, -1, 1_700_000_000_000, 2**63 - 1])

    def _double(self, shape: Shape, depth: int) -> float:
        return self._random.choice([0.0, 0.5, -1.25, 1e10])

    _float = _double

    def _boolean(self, shape: Shape, depth: int) -> bool:
        return self._random.random() < 0.5

    def _blob(self, shape: Shape, depth: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, 9))

    def _timestamp(self, shape: Shape, depth: int) -> datetime:
        moment = datetime(2021, 1, 1, tzinfo=UTC) + timedelta(seconds=self._random.randint(0, 10**8))
        return moment if self._seconds else moment + timedelta(milliseconds=self._random.randint(0, 999))


def without_empties(value: Any) -> Any:
    """`value` without empty structures and lists, of which a form can say nothing."""
    if isinstance(value, dict):
        kept = {name: without_empties(member) for name, member in value.items()}
        return {name: member for name, member in kept.items() if member not in ({}, [])}
    if isinstance(value, list):
        return [member for member in map(without_empties, value) if member not in ({}, [])]
    return value
