"""THE table of aggregate functions of `stats`. The documentation is made from it (user guide, "stats")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vnotch.insights import nodes
from vnotch.insights.calls import Use
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.values import (
    Kind,
    Sql,
    Value,
    double,
    natural_key,
    number,
    number_value,
    present,
    sql,
    text,
    text_value,
)


@dataclass(frozen=True)
class Aggregate:
    """`events` says that it needs the order of events, which there is before the first `stats` only."""

    signature: str
    gives: str
    meaning: str
    compile: Callable[[Use], Value]
    least: int = 1
    most: int = 1
    star: bool = False
    events: bool = False

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]


def _count(use: Use) -> Value:
    if not use.arguments:
        return number_value(Sql("count(*)"))
    value = use.value(0)
    if value.kind is Kind.MIXED or value.alternatives is not None:
        return number_value(sql("count(*) FILTER (WHERE {})", present(value)))
    return number_value(sql("count({})", value.main))


def _count_distinct(use: Use) -> Value:
    value = use.value(0)
    if value.kind is Kind.MIXED:
        assert value.other is not None
        return number_value(sql("(count(DISTINCT {}) + count(DISTINCT {}))", value.main, value.other))
    return number_value(sql("count(DISTINCT {})", value.main))


def _of_numbers(template: str) -> Callable[[Use], Value]:
    return lambda use: number_value(sql(template, double(number(use.value(0)))))


def _sum(use: Use) -> Value:
    """Of whole numbers exact up to 2**53, as all arithmetic here."""
    return number_value(sql("sum({})", double(number(use.value(0)))))


def _extreme(name: str) -> Callable[[Use], Value]:
    """Of the numbers where there are any, else of the texts."""

    def compiled(use: Use) -> Value:
        value = use.value(0)
        if value.kind in (Kind.NUMBER, Kind.TRUTH):
            return number_value(sql(f"{name}({{}})", number(value)))
        if value.kind is Kind.TIME:
            return Value(Kind.TIME, sql(f"{name}({{}})", value.main))
        if value.kind is Kind.MIXED:
            assert value.other is not None
            return Value(
                Kind.MIXED, sql(f"{name}({{}})", value.main),
                sql(f"CASE WHEN count({{}}) = 0 THEN {name}({{}}) END", value.main, value.other),
            )  # fmt: skip
        return text_value(
            sql(
                f"coalesce(arg_{name}({{}}, {{}}), {name}({{}}))",
                value.main,
                number(value),
                value.main,
            )
        )

    return compiled


def _percentile(use: Use) -> Value:
    node = use.call.arguments[1]
    percent = node.value if isinstance(node, nodes.Number) else -1
    if not 0 <= percent <= 100:
        raise MalformedQuery("the percentile must be a number from 0 to 100", node.place)
    return number_value(sql(f"quantile_cont({{}}, {percent / 100!r})", double(number(use.value(0)))))


def _by_time(name: str) -> Callable[[Use], Value]:
    """The value of the first or last event that has one."""

    def compiled(use: Use) -> Value:
        place = "(timestamp_ms, sequence)"
        value = use.value(0)
        if value.kind in (Kind.NUMBER, Kind.TIME):
            return Value(value.kind, sql(f"{name}({{}}, {place})", value.main))
        return text_value(sql(f"{name}({{}}, {place})", text(value)))

    return compiled


def _by_order(name: str) -> Callable[[Use], Value]:
    """The value that sorts first or last."""

    def compiled(use: Use) -> Value:
        value = use.value(0)
        if value.kind in (Kind.NUMBER, Kind.TIME):
            return Value(value.kind, sql(f"{name[4:]}({{}})", value.main))
        shown = text(value)
        key = sql("(coalesce({}, '-Infinity'::DOUBLE), {})", number(text_value(shown)), natural_key(shown))
        return text_value(sql(f"{name}({{}}, {{}})", shown, key))

    return compiled


TABLE: tuple[Aggregate, ...] = (
    Aggregate("count(x)", "number", "How many events; with a field: how many have it. `count(*)` is `count()`.",
              _count, 0, 1, star=True),
    Aggregate("count_distinct(x)", "number", "How many different values; exact.", _count_distinct),
    Aggregate("sum(x)", "number", "Sum of the numbers.", _sum),
    Aggregate("avg(x)", "number", "Mean of the numbers.", _of_numbers("avg({})")),
    Aggregate("min(x)", "any", "The smallest number; of texts without a number among them, the smallest text.",
              _extreme("min")),
    Aggregate("max(x)", "any", "The largest number; of texts without a number among them, the largest text.",
              _extreme("max")),
    Aggregate("pct(x, percent)", "number", "The percentile of the numbers, interpolated; exact.", _percentile, 2, 2),
    Aggregate("stddev(x)", "number", "Standard deviation of the numbers, as of a sample.",
              _of_numbers("stddev_samp({})")),
    Aggregate("earliest(x)", "any", "The value in the event with the earliest `@timestamp` that has one.",
              _by_time("arg_min"), events=True),
    Aggregate("latest(x)", "any", "The value in the event with the latest `@timestamp` that has one.",
              _by_time("arg_max"), events=True),
    Aggregate("sortsFirst(x)", "any", "The value that `sort` puts first.", _by_order("arg_min")),
    Aggregate("sortsLast(x)", "any", "The value that `sort` puts last.", _by_order("arg_max")),
)  # fmt: skip

AGGREGATES = {aggregate.name.lower(): aggregate for aggregate in TABLE}
