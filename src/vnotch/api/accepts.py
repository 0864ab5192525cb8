"""What an operation takes of AWS's model of it: declared once beside its handler, enforced here, told in docs/api.md.

A parameter that is not honoured is refused where it asks for anything but its default, and so is a value that is not.
Names are the model's; `Outer.Inner` is a member of a structure, or of each structure in a list.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from botocore.model import Shape


@dataclass(frozen=True)
class Accepts:
    """`honours` names what is honoured; where it is None, all is. `unsupported` is refused in either case.

    A structure of which a member is honoured by name (`NetworkInterfaces.Groups`) has all its others refused. `only`
    has the values that a parameter may have, where there are fewer than on AWS; `filters` the names of the filters of a
    Describe operation, None for others; `note` is what a user must know beside that.
    """

    honours: frozenset[str] | None = None
    unsupported: tuple[str, ...] = ()
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    filters: Container[str] | None = None
    note: str = ""

    @property
    def refuses_nothing(self) -> bool:
        return self.honours is None and not self.unsupported and not self.only

    def refusal(self, params: Mapping[str, Any]) -> str | None:
        """Why a call with these parameters is refused, in words; None where it is not."""
        for name in self._refused(params):
            return f"The parameter {name} is not supported by vnotch."
        for name, values in self.only.items():
            for value in _values(params, name.split(".")):
                if value is not None and value not in values:
                    return f"The value {_text(value)} for parameter {name} is not supported by vnotch."
        return None

    def _refused(self, params: Mapping[str, Any]) -> Iterator[str]:
        if self.honours is not None:
            yield from (name for name, value in params.items() if name not in self._outer and is_asked(value))
            for outer in self._structures:
                yield from self._others(params, outer)
        for name in self.unsupported:
            if any(is_asked(value) for value in _values(params, name.split("."))):
                yield name

    def _others(self, params: Mapping[str, Any], outer: str) -> Iterator[str]:
        assert self.honours is not None
        for value in _values(params, outer.split(".")):
            for inner, member in value.items() if isinstance(value, Mapping) else ():
                if f"{outer}.{inner}" not in self.honours and is_asked(member):
                    yield f"{outer}.{inner}"

    @cached_property
    def _outer(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in self.honours or ())

    @cached_property
    def _structures(self) -> list[str]:
        """Those of which members are honoured by name."""
        return sorted({name.rpartition(".")[0] for name in self.honours or () if "." in name})

    def missing(self, shape: Shape | None) -> list[str]:
        """Of the members of an operation's input `shape`, those that are not honoured."""
        if shape is None:
            return []
        found = [name for name in self.unsupported if _member(shape, name) is not None]
        if self.honours is None:
            return found
        found += [name for name in shape.members if name not in self._outer]
        for outer in self._structures:
            structure = _member(shape, outer)
            inner = structure.members if structure is not None else ()
            found += [f"{outer}.{name}" for name in inner if f"{outer}.{name}" not in self.honours]
        return found


class _Every(Container[str]):
    def __contains__(self, name: object) -> bool:
        return True


EVERY_FILTER: Container[str] = _Every()
"""All that AWS's documentation names."""


def is_asked(value: object) -> bool:
    """Whether a parameter asks for anything but its default. A structure does where one of its members does: clients
    write `Monitoring.Enabled=false`."""
    if isinstance(value, Mapping):
        return any(is_asked(member) for member in value.values())
    return value not in (None, False, 0, "", [])


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    """The values at a path; those of every item of a list."""
    if isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    elif not path:
        yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _member(shape: Shape, name: str) -> Any:
    """The shape of a member, within a list that of its items; None where the model has none of that name."""
    for part in name.split("."):
        if shape is None or part not in getattr(shape, "members", {}):
            return None
        shape = shape.members[part]
        while shape.type_name == "list":
            shape = shape.member
    return shape


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
