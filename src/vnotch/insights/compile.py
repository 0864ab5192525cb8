"""A query -> one SQL statement with bound parameters.

Commands are steps of a pipeline: each makes a SELECT around the one before it. Values that a command computes become
columns of that SELECT, so that no expression is written twice; DuckDB takes out again what is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from vnotch.insights import nodes
from vnotch.insights.branches import branches
from vnotch.insights.calls import Asked
from vnotch.insights.events import SYSTEM_FIELDS, Source, discovered_field, events, json_value, system_field
from vnotch.insights.expressions import Expressions
from vnotch.insights.grammar import CHARACTERS_MAX, parse_query
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.nodes import Place
from vnotch.insights.regexes import Extraction, glob_extraction, regex_extraction
from vnotch.insights.values import (
    Kind,
    Sql,
    TooComplex,
    Value,
    bound,
    joined,
    present,
    sort_terms,
    sql,
    text,
    text_value,
)

STATS_MAX = 2
NEWEST_FIRST = [Sql("timestamp_ms DESC"), Sql("sequence DESC")]
"""The order of events where the query has no `sort`."""


@dataclass(frozen=True)
class Column:
    """A column of the answer: the name that users see, what it holds, and where it stands in a row of the statement's
    result. A MIXED one has its text at `other`."""

    name: str
    kind: Kind
    place: int
    other: int | None = None


@dataclass(frozen=True)
class Compiled:
    """`statement` gives the answer, `scanned` how many events there are. `matched_place` is the answer's column with
    how many events matched; where it is None the statement `matched` counts them, and where that is None, too, all
    do. `matches_all`: nothing is filtered."""

    statement: Sql
    columns: tuple[Column, ...]
    matched_place: int | None
    matched: Sql | None
    scanned: Sql
    matches_all: bool


def compile_query(query: str, source: Source, asked: Asked, limit: int) -> Compiled:
    """The query's statement for these events; at most `limit` rows where it has no `limit` of its own.

    Raises MalformedQuery with the place; no other exception, whatever the text.
    """
    parsed = parse_query(query)
    try:
        return _Pipeline(source, asked, mentions(parsed, "@logStream")).compile(parsed, limit)
    except MalformedQuery as error:
        raise error.located(query) from None
    except TooComplex as error:
        raise MalformedQuery(error.message, Place(0, min(len(query), CHARACTERS_MAX))).located(query) from None


def mentions(node: Any, field: str) -> bool:
    """Whether a field is named anywhere in a query or a part of one."""
    return any(name.keys == (field,) for name in _names(node))


def names_of(query: nodes.Query) -> list[str]:
    """The fields that a query reads and does not make itself, in order, each once. Keys in maps are not among them."""
    made = {item.alias for command in query.commands for item in getattr(command, "items", ())}
    made |= {item.alias for command in query.commands for item in getattr(command, "by", ())}
    for command in query.commands:
        if isinstance(command, nodes.ParseGlob):
            made |= {".".join(name.keys) for name in command.names}
        elif isinstance(command, nodes.ParseRegex):
            made |= set(regex_extraction(command.regex).names)
    read = (name.keys[0] for name in _names(query) if len(name.keys) == 1)
    return [name for name in dict.fromkeys(read) if name not in made]


def _names(node: Any) -> Iterator[nodes.Name]:
    if isinstance(node, nodes.Name):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _names(part)
    elif is_dataclass(node):
        for item in fields(node):
            yield from _names(getattr(node, item.name))


@dataclass(frozen=True)
class _Shown:
    label: str
    value: Value


class _Pipeline:
    """`rows` is what the commands so far make, `scope` the fields that they made, `shown` what the answer has."""

    def __init__(self, source: Source, asked: Asked, with_streams: bool) -> None:
        self._source = source
        self._asked = asked
        self._events = events(source, with_streams=with_streams)
        self.rows = self._events
        self.scope: dict[str, Value] = {}
        self.shown: list[_Shown] = []
        self.displayed: list[_Shown] | None = None
        self.parsed: list[_Shown] = []
        self.order = NEWEST_FIRST
        self.matched: Sql | None = None
        self.columns = 0
        self.stats = 0
        self.filtered = False
        self.limited = False
        self.sorted: nodes.Sort | None = None
        self.deduplicated: nodes.Dedup | None = None

    def compile(self, query: nodes.Query, limit: int) -> Compiled:
        for command in query.commands:
            self._check_place(command)
            getattr(self, f"_{type(command).__name__.lower()}")(command)
        return self._compiled(limit)

    def _check_place(self, command: nodes.Command) -> None:
        """What AWS's documentation says of the order of commands."""
        if self.deduplicated is not None and not isinstance(command, nodes.Limit):
            raise MalformedQuery("after dedup only limit can stand", command.place)
        if isinstance(command, nodes.Stats):
            if self.stats == STATS_MAX:
                raise MalformedQuery(f"a query can have {STATS_MAX} stats commands", command.place)
            if self.stats and self.sorted is not None:
                raise MalformedQuery("sort must stand behind the last stats", self.sorted.place)
        if self.limited and isinstance(
            command, nodes.Stats | nodes.Filter | nodes.ParseGlob | nodes.ParseRegex | nodes.Dedup
        ):
            raise MalformedQuery("after limit only sort, fields, display and limit can stand", command.place)

    # Names

    def _resolve(self, name: nodes.Name) -> Value:
        full = ".".join(name.keys)
        if full in self.scope:
            return self.scope[full]
        first = name.keys[0]
        if len(name.keys) > 1 and first in self.scope:
            value = self.scope[first]
            if value.kind is not Kind.STRUCTURE:
                raise MalformedQuery(f"{first} is no map and no list", name.place, "jsonParse makes one of a JSON text")
            return _inside(value, name.keys[1:])
        if self.stats:
            there = ", ".join(self.scope) or "none"
            raise MalformedQuery(f"there is no field {full} behind stats", name.place, f"there are: {there}")
        if first.startswith("@@"):
            return discovered_field((first[1:], *name.keys[1:]), self._source)
        if first.startswith("@"):
            found = system_field(full, self._source)
            if found is None:
                raise MalformedQuery(f"there is no field {full}", name.place, "there are: " + ", ".join(SYSTEM_FIELDS))
            return found
        return discovered_field(name.keys, self._source)

    def _timestamp(self, call: nodes.Call) -> Value:
        if self.stats:
            raise MalformedQuery(
                f"{call.function} needs @timestamp, which is not there behind stats", call.place,
                "give the first stats a name to its bin: by bin(5m) as t",
            )  # fmt: skip
        return self._resolve(nodes.Name(("@timestamp",)))

    def _no_aggregate(self, call: nodes.Call) -> Value:
        raise MalformedQuery(f"{call.function} stands in stats only", call.place)

    @property
    def _expressions(self) -> Expressions:
        return Expressions(self._asked, self._resolve, self._no_aggregate, self._timestamp)

    def _condition(self, node: nodes.Expression, resolve: Callable[[nodes.Name], Value]) -> Sql:
        return Expressions(self._asked, resolve, self._no_aggregate, self._timestamp).condition(node)

    # Columns

    def _new_column(self) -> str:
        self.columns += 1
        return f"c{self.columns}"

    def _column(self, value: Value) -> tuple[Value, list[Sql]]:
        """The value as columns of the next SELECT: what refers to them, and their definitions."""
        main = self._new_column()
        definitions = [sql("{} AS " + main, value.main)]
        other = None
        if value.kind is Kind.MIXED:
            assert value.other is not None
            name = self._new_column()
            definitions.append(sql("{} AS " + name, value.other))
            other = Sql(name)
        return Value(value.kind, Sql(main), other), definitions

    def _wrap(self, template: str, *parts: Sql) -> None:
        """`template` has the rows so far as its last `{}`."""
        self.rows = sql("(" + template + ")", *parts, self.rows)

    def _computed(self, items: tuple[nodes.Item, ...]) -> list[_Shown]:
        """Items of fields or display: what is more than a name becomes columns. An alias is a field from then on."""
        shown = []
        for item in items:
            value = self._expressions.value(item.expression)
            if not isinstance(item.expression, nodes.Name):
                value, definitions = self._column(value)
                self._wrap("SELECT *, {} FROM {}", joined(", ", definitions))
            if item.alias is not None:
                self.scope[item.alias] = value
            elif not isinstance(item.expression, nodes.Name):
                self.scope.setdefault(item.label, value)
            shown.append(_Shown(item.label, value))
        return shown

    # Commands

    def _fields(self, command: nodes.Fields) -> None:
        self.shown += self._computed(command.items)

    def _display(self, command: nodes.Display) -> None:
        self.displayed = self._computed(command.items)

    def _filter(self, command: nodes.Filter) -> None:
        if self.rows is self._events:
            conditions = branches(command.condition, self._condition, self._resolve)
        else:
            conditions = [self._expressions.condition(command.condition)]
        selects = [sql("SELECT * FROM {} WHERE {}", self.rows, condition) for condition in conditions]
        self.rows = sql("({})", joined(" UNION ALL ", selects))
        self.filtered = self.filtered or not self.stats

    def _sort(self, command: nodes.Sort) -> None:
        terms: list[Sql] = []
        for key in command.keys:
            value = self._resolve(key.name)
            if value.kind is Kind.STRUCTURE:
                raise MalformedQuery("a map or a list cannot be sorted", key.name.place, "one of its values can")
            terms += sort_terms(value, key.descending)
        self.order = [*terms, *([] if self.stats else NEWEST_FIRST)]
        self.sorted = command

    def _limit(self, command: nodes.Limit) -> None:
        self._count_matched()
        self.rows = sql(
            "(SELECT * FROM {} ORDER BY {} LIMIT " + str(command.rows) + ")", self.rows, joined(", ", self.order)
        )
        self.limited = True

    def _dedup(self, command: nodes.Dedup) -> None:
        """The first event of each combination of values; events that miss one of them all stay."""
        values = [self._resolve(name) for name in command.names]
        for value, name in zip(values, command.names, strict=True):
            if value.kind is Kind.STRUCTURE:
                raise MalformedQuery("a map or a list cannot be compared", name.place, "one of its values can")
        self._count_matched()
        keys = [part for value in values for part in ([value.main, value.other] if value.other else [value.main])]
        missing = sql("({})", joined(" OR ", [sql("NOT {}", present(value)) for value in values]))
        self.rows = sql(
            "(SELECT * FROM {} QUALIFY {} OR row_number() OVER (PARTITION BY {} ORDER BY {}) = 1)",
            self.rows, missing, joined(", ", [key for key in keys if key is not None]), joined(", ", self.order),
        )  # fmt: skip
        self.deduplicated = command

    def _parseglob(self, command: nodes.ParseGlob) -> None:
        names = [".".join(name.keys) for name in command.names]
        self._extract(command.source, glob_extraction(command.pattern, names, command.place), command.place)

    def _parseregex(self, command: nodes.ParseRegex) -> None:
        self._extract(command.source, regex_extraction(command.regex), command.place)

    def _extract(self, source: nodes.Name, extraction: Extraction, place: Place) -> None:
        if len(set(extraction.names)) < len(extraction.names):
            raise MalformedQuery("parse makes two fields of one name", place)
        read, found = self._new_column(), self._new_column()
        self._wrap(f"SELECT *, {{}} AS {read} FROM {{}}", text(self._resolve(source)))
        groups = ", ".join(f"'{self._new_column()}'" for _ in extraction.names)
        self._wrap(
            f"SELECT *, CASE WHEN regexp_matches({read}, {{}}) "
            f"THEN regexp_extract({read}, {{}}, [{groups}]) END AS {found} FROM {{}}",
            bound(extraction.pattern), bound(extraction.pattern),
        )  # fmt: skip
        for name, group in zip(extraction.names, groups.replace("'", "").split(", "), strict=True):
            value = text_value(Sql(f"{found}.{group}"))
            self.scope[name] = value
            self.parsed.append(_Shown(name, value))

    # stats

    def _stats(self, command: nodes.Stats) -> None:
        """An inner SELECT with the keys and the aggregates, and an outer one with what is computed of them."""
        _refuse_double_names([*command.by, *command.items])
        keys, definitions, scope = self._keys(command.by)
        grouped = ", ".join(str(place + 1) for place in range(len(definitions)))
        aggregates: list[Sql] = []
        inside = self._expressions

        def aggregate(call: nodes.Call) -> Value:
            value, made = self._column(inside.aggregated(call))
            aggregates.extend(made)
            return value

        def resolve(name: nodes.Name) -> Value:
            full = ".".join(name.keys)
            if full not in scope:
                raise MalformedQuery(f"{full} is neither aggregated nor in by", name.place, f"such as max({full})")
            return scope[full]

        outside = Expressions(self._asked, resolve, aggregate, self._not_aggregated)
        results: list[_Shown] = []
        computed: list[Sql] = []
        for item in command.items:
            value, made = self._column(outside.value(item.expression))
            computed += made
            scope[item.label] = value
            results.append(_Shown(item.label, value))
        counted = self._new_column()
        # Of the second stats the events that matched are those of the first.
        count = Sql("count(*)") if self.matched is None else sql("any_value({})", self.matched)
        inner = joined(", ", [*definitions, *aggregates, sql("{} AS " + counted, count)])
        by = f" GROUP BY {grouped}" if grouped else ""
        self._wrap("SELECT {} FROM {}" + by, inner)
        for step in _steps(computed):
            self._wrap("SELECT *, {} FROM {}", joined(", ", step))
        if self.matched is None:
            total = self._new_column()
            self._wrap(f"SELECT *, sum({counted}) OVER () AS {total} FROM {{}}")
            self.matched = Sql(total)
        else:
            self.matched = Sql(counted)
        self.stats += 1
        self.scope = scope
        self.shown = [*keys, *results]
        self.displayed, self.parsed = None, []
        self.order = [sql("{} NULLS FIRST", part) for key in keys for part in _parts(key.value)] or [Sql("1")]
        self.sorted = None

    def _not_aggregated(self, call: nodes.Call) -> Value:
        raise MalformedQuery(f"{call.function} is neither aggregated nor in by", call.place)

    def _keys(self, by: tuple[nodes.Item, ...]) -> tuple[list[_Shown], list[Sql], dict[str, Value]]:
        keys: list[_Shown] = []
        definitions: list[Sql] = []
        scope: dict[str, Value] = {}
        for item in by:
            value = self._expressions.value(item.expression)
            if value.kind is Kind.STRUCTURE:
                raise MalformedQuery("a map or a list cannot be grouped by", item.place, "one of its values can")
            value, made = self._column(value)
            definitions += made
            scope[item.label] = value
            if isinstance(item.expression, nodes.Name):
                scope.setdefault(".".join(item.expression.keys), value)
            keys.append(_Shown(item.label, value))
        return keys, definitions, scope

    # The end

    def _count_matched(self) -> None:
        """Called before rows are taken away that matched."""
        if self.matched is None and self.filtered and self._matching is None:
            self._matching = sql("SELECT count(*) FROM {}", self.rows)

    _matching: Sql | None = None

    def _compiled(self, limit: int) -> Compiled:
        self._count_matched()
        shown = self._answer()
        columns: list[Column] = []
        parts: list[Sql] = []
        for item in shown:
            main, other = _output(item.value)
            columns.append(Column(item.label, item.value.kind, len(parts), len(parts) + 1 if other else None))
            parts += [main, other] if other else [main]
        matched_place = None
        if self.matched is not None:
            matched_place = len(parts)
            parts.append(self.matched)
        listed = joined(", ", [sql(f"{{}} AS o{number}", part) for number, part in enumerate(parts)])
        rows = self.rows
        if not self.limited:
            rows = sql("(SELECT * FROM {} ORDER BY {} LIMIT " + str(limit) + ")", rows, joined(", ", self.order))
        statement = sql("SELECT {} FROM {} ORDER BY {}", listed, rows, joined(", ", self.order))
        scanned = sql("SELECT count(*) FROM {}", Sql(self._source.sql, tuple(self._source.parameters)))
        return Compiled(statement, tuple(columns), matched_place, self._matching, scanned, not self.filtered)

    def _answer(self) -> list[_Shown]:
        """What is displayed, each name once: the last that was said under it, where it was first said."""
        if self.displayed is not None:
            shown = self.displayed
        elif self.shown or self.stats:
            shown = [*self.shown, *self.parsed]
        else:
            everything = [_Shown(name, self._resolve(nodes.Name((name,)))) for name in ("@timestamp", "@message")]
            shown = [*everything, *self.parsed]
        if not self.stats:
            shown = [*shown, _Shown("@ptr", self._resolve(nodes.Name(("@ptr",))))]
        return list({item.label: item for item in shown}.values())


def _refuse_double_names(items: Sequence[nodes.Item]) -> None:
    """Of two columns under one name an answer could show only one. What is written twice alike is one column."""
    seen: dict[str, nodes.Item] = {}
    for item in items:
        before = seen.setdefault(item.label, item)
        if before is not item and (item.alias or before.alias):
            raise MalformedQuery(f"stats makes two columns named {item.label}", item.place, "another name behind `as`")


def _inside(value: Value, keys: tuple[str, ...]) -> Value:
    """A value in a map or a list, as text; a map or a list is its JSON text."""
    return text_value(sql("({} ->> '$')", json_value(value.main, keys)))


def _output(value: Value) -> tuple[Sql, Sql | None]:
    if value.kind is Kind.STRUCTURE:
        return sql("CAST({} AS VARCHAR)", value.main), None
    return value.main, value.other if value.kind is Kind.MIXED else None


def _parts(value: Value) -> list[Sql]:
    return [value.main] if value.other is None else [value.main, value.other]


def _steps(definitions: list[Sql]) -> Iterator[list[Sql]]:
    """Each may use the ones before it, which must then stand in an inner SELECT."""
    for definition in definitions:
        yield [definition]
