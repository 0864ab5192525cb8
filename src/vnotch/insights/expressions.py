"""Expressions -> values and conditions, for any command: what names and aggregates mean is asked of the command."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from vnotch.insights import nodes
from vnotch.insights.aggregates import AGGREGATES
from vnotch.insights.calls import Asked, Use
from vnotch.insights.functions import FUNCTIONS, check_arguments
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.regexes import checked
from vnotch.insights.values import (
    NOTHING,
    Kind,
    Sql,
    Value,
    bound,
    compare,
    constant,
    double,
    each,
    is_one_of,
    joined,
    number,
    number_value,
    opposite,
    sql,
    text,
    truth,
    truth_value,
)

_CONDITIONS = (nodes.Logic, nodes.Not, nodes.Comparison, nodes.Like, nodes.In)
_OPERATORS = {"+": "+ {}", "-": "- {}", "*": "* {}", "/": "/ nullif({}, 0)"}


class Expressions:
    """`resolve` gives the value of a name, `aggregate` that of an aggregate function, `timestamp` @timestamp; each may
    raise MalformedQuery."""

    def __init__(
        self,
        asked: Asked,
        resolve: Callable[[nodes.Name], Value],
        aggregate: Callable[[nodes.Call], Value],
        timestamp: Callable[[nodes.Call], Value],
    ) -> None:
        self._asked = asked
        self._resolve = resolve
        self._aggregate = aggregate
        self._timestamp = timestamp

    def condition(self, node: nodes.Expression) -> Sql:
        """SQL that is TRUE where the condition holds, and FALSE or NULL where not."""
        match node:
            case nodes.Logic():
                parts = [self.condition(operand) for operand in node.operands]
                return sql("({})", joined(f" {node.operator.upper()} ", parts))
            case nodes.Not():
                return opposite(self.condition(node.operand))
            case nodes.Comparison():
                return self._compared(node)
            case nodes.Like():
                found = self._like(node)
                return opposite(found) if node.negated else found
            case nodes.In():
                found = is_one_of(self.value(node.operand), [self.value(item) for item in node.items])
                return opposite(found) if node.negated else found
            case nodes.Truth():
                return Sql("TRUE" if node.value else "FALSE")
            case nodes.Call():
                value = self.value(node)
                if value.kind in (Kind.TRUTH, Kind.NUMBER):
                    return truth(value)
        raise MalformedQuery("this is no condition", node.place, "compare it with something: = != < > in like")

    def value(self, node: nodes.Expression) -> Value:
        if isinstance(node, _CONDITIONS):
            return truth_value(sql("coalesce({}, FALSE)", self.condition(node)))
        match node:
            case nodes.Name():
                return self._resolve(node)
            case nodes.Number():
                return constant(node.value)
            case nodes.String():
                return constant(node.value)
            case nodes.Truth():
                return truth_value(Sql("TRUE" if node.value else "FALSE"))
            case nodes.Call():
                return self._called(node)
            case nodes.Negative():
                return number_value(sql("(-{})", double(number(self.value(node.operand)))))
            case nodes.Arithmetic():
                return self._arithmetic(node)
        raise MalformedQuery("a period of time stands in bin, datefloor and dateceil only", node.place)

    def _compared(self, node: nodes.Comparison) -> Sql:
        left, right = self.value(node.left), self.value(node.right)
        for one, other, written in ((left, right, node.right), (right, left, node.left)):
            if one.kind is Kind.TIME and isinstance(other.literal, str):
                raise MalformedQuery(
                    "a time is compared with milliseconds since 1970",
                    written.place,
                    "toMillis(@timestamp) > 1700000000000",
                )
        # In JSON a truth is the word.
        if isinstance(node.right, nodes.Truth) and left.kind is Kind.TEXT:
            right = constant("true" if node.right.value else "false")
        if isinstance(node.left, nodes.Truth) and right.kind is Kind.TEXT:
            left = constant("true" if node.left.value else "false")
        return compare(node.operator, left, right)

    def _like(self, node: nodes.Like) -> Sql:
        value, pattern = self.value(node.operand), node.pattern
        if isinstance(pattern, nodes.Regex):
            expression = checked(pattern.pattern, pattern.place)
            return each(value, lambda one: sql("regexp_matches({}, {})", text(one), bound(expression)))
        return each(value, lambda one: sql("contains({}, {})", text(one), bound(pattern.value)))

    def _arithmetic(self, node: nodes.Arithmetic) -> Value:
        found = double(number(self.value(node.first)))
        for operator, operand in node.rest:
            right = double(number(self.value(operand)))
            if operator == "%":
                found = sql("({} % nullif({}, 0))", found, right)
            elif operator == "^":
                found = sql("pow({}, {})", found, right)
            else:
                found = sql("({} " + _OPERATORS[operator] + ")", found, right)
        return number_value(found)

    def _called(self, node: nodes.Call) -> Value:
        if node.function in AGGREGATES:
            return self._aggregate(node)
        function = FUNCTIONS.get(node.function)
        if function is None:
            raise _unknown(node)
        check_arguments(node, function.name, function.least, function.most)
        arguments = [
            NOTHING if number in function.periods else self.value(argument)
            for number, argument in enumerate(node.arguments)
        ]
        return function.compile(Use(node, arguments, self._asked, lambda: self._timestamp(node)))

    def aggregated(self, node: nodes.Call) -> Value:
        """An aggregate function of these expressions."""
        aggregate = AGGREGATES[node.function]
        if not (node.star and aggregate.star):
            check_arguments(node, aggregate.name, aggregate.least, aggregate.most)
        if aggregate.events:
            self._timestamp(node)
        arguments = [self.value(argument) for argument in node.arguments]
        for argument, written in zip(arguments, node.arguments, strict=True):
            if argument.kind is Kind.STRUCTURE:
                raise MalformedQuery("a map or a list cannot be aggregated", written.place, "one of its values can")
        return aggregate.compile(Use(node, arguments, self._asked, lambda: self._timestamp(node)))


def _unknown(node: nodes.Call) -> MalformedQuery:
    names = {
        **{key: item.name for key, item in FUNCTIONS.items()},
        **{key: item.name for key, item in AGGREGATES.items()},
    }
    similar = get_close_matches(node.function, names, n=1)
    remedy = f"did you mean {names[similar[0]]}?" if similar else "docs/insights.md lists all functions"
    return MalformedQuery(f"vnotch knows no function {node.function}", node.place, remedy)
