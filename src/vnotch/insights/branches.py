"""A filter as branches: conditions of which an event meets at most one, and one exactly where the filter holds.

The store passes over most of a file for a condition such as `"srcaddr" = x` alone: the file's dictionary says that no
value is x. It decodes every value for the same condition with another one beside it in an `or`, and each field of a
record brings one along, for events that are no records. So records are asked by their typed columns, one part of an
`or` after the other, and all other events in a branch of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from vnotch.insights import nodes
from vnotch.insights.values import Sql, Value, constant, joined, opposite, sql

BRANCHES_MAX = 6
"""Each is a scan of its own: more of them cost what they spare."""

Resolve = Callable[[nodes.Name], Value]
Compile = Callable[[nodes.Expression, Resolve], Sql]


@dataclass(frozen=True)
class _Part:
    """`typed`: it holds for records alone, by a typed column that has a value or has none."""

    condition: Sql
    typed: bool


def branches(node: nodes.Expression, compiled: Compile, resolve: Resolve) -> list[Sql]:
    """The conditions; a single one where branches would bring nothing. `compiled` gives the SQL of a condition for
    what names are resolved to."""
    whole = compiled(node, resolve)
    parts = _of_records(node, compiled, resolve)
    if len(parts) > BRANCHES_MAX or not all(part.typed for part in parts):
        return [whole]
    conditions = [
        _without(part.condition, [before.condition for before in parts[:at]]) for at, part in enumerate(parts)
    ]
    return [*conditions, sql("(format_id IS NULL AND {})", whole)]


def _without(condition: Sql, others: list[Sql]) -> Sql:
    """The condition, of events that meet none of the others. It stands in the exception once more because what asks one
    column alone would be asked of all of its values, and not of the few that are left."""
    excepted = [opposite(sql("{} AND {}", other, condition)) for other in others]
    return sql("({})", joined(" AND ", [condition, *excepted]))


def _of_records(node: nodes.Expression, compiled: Compile, resolve: Resolve) -> list[_Part]:
    """Parts of which a record meets one or more exactly where the condition holds."""
    if isinstance(node, nodes.Logic):
        operands = [_of_records(operand, compiled, resolve) for operand in node.operands]
        if node.operator == "or":
            return [part for parts in operands for part in parts]
        combined = product(*operands) if _size(operands) <= BRANCHES_MAX else ()
        if together := [_together(parts) for parts in combined]:
            return together
    elif (name := _asked(node)) is not None and (value := resolve(name)).alternatives is not None:
        found = value.alternatives
        parts = [_Part(compiled(node, lambda _: found.column), typed=True)]
        if _can_be_absent(node):
            absent = compiled(node, lambda _: constant("-"))
            parts.append(_Part(sql("({} IS NULL AND {} AND {})", found.column.main, found.dash, absent), typed=True))
        return parts
    return [_Part(compiled(node, resolve), typed=False)]


def _size(operands: list[list[_Part]]) -> int:
    size = 1
    for parts in operands:
        size *= len(parts)
    return size


def _together(parts: tuple[_Part, ...]) -> _Part:
    condition = sql("({})", joined(" AND ", [part.condition for part in parts]))
    return _Part(condition, any(part.typed for part in parts))


def _asked(node: nodes.Expression) -> nodes.Name | None:
    """The field that is compared with constants alone, so that the condition does not hold where it is missing."""
    match node:
        case nodes.Comparison(left=nodes.Name() as name, right=nodes.String() | nodes.Number()):
            return name
        case nodes.Comparison(left=nodes.String() | nodes.Number(), right=nodes.Name() as name):
            return name
        case nodes.Like(operand=nodes.Name() as name, negated=False):
            return name
        case nodes.In(operand=nodes.Name() as name, negated=False):
            return name if all(isinstance(item, nodes.String | nodes.Number) for item in node.items) else None
    return None


def _can_be_absent(node: nodes.Expression) -> bool:
    """Whether `-` may meet the condition."""
    match node:
        case nodes.Comparison(operator="="):
            return any(isinstance(side, nodes.String) and side.value == "-" for side in (node.left, node.right))
        case nodes.In():
            return any(isinstance(item, nodes.String) and item.value == "-" for item in node.items)
    return True
