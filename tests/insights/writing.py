"""Nodes -> the text of a query: the inverse of the parser, and generators of nodes.

Every operand that is itself an operation stands in parentheses, so that the text has the one reading that was meant.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from vnotch.insights import nodes
from vnotch.insights.aggregates import TABLE as AGGREGATES
from vnotch.insights.functions import TABLE as FUNCTIONS
from vnotch.insights.times import UNITS

_ATOMS = (nodes.Name, nodes.Number, nodes.String, nodes.Truth, nodes.Call, nodes.Period)


def text_of(node: Any) -> str:
    match node:
        case nodes.Query():
            return "\n| ".join(text_of(command) for command in node.commands)
        case nodes.Fields() | nodes.Display():
            return f"{type(node).__name__.lower()} {_items(node.items)}"
        case nodes.Filter():
            return f"filter {text_of(node.condition)}"
        case nodes.Stats():
            return f"stats {_items(node.items)}" + (f" by {_items(node.by)}" if node.by else "")
        case nodes.Sort():
            keys = (text_of(key.name) + (" desc" if key.descending else "") for key in node.keys)
            return "sort " + ", ".join(keys)
        case nodes.Limit():
            return f"limit {node.rows}"
        case nodes.Dedup():
            return "dedup " + ", ".join(map(text_of, node.names))
        case nodes.ParseGlob():
            names = ", ".join(map(text_of, node.names))
            return f"parse {text_of(node.source)} {text_of(node.pattern)} as {names}"
        case nodes.ParseRegex():
            return f"parse {text_of(node.source)} {text_of(node.regex)}"
        case nodes.Name():
            return ".".join(_key(key) for key in node.keys)
        case nodes.Number():
            return node.text
        case nodes.String():
            escaped = node.value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case nodes.Regex():
            return "/" + node.pattern.replace("/", "\\/") + "/"
        case nodes.Truth():
            return "true" if node.value else "false"
        case nodes.Period():
            return f"{node.count}{node.unit}"
        case nodes.Call():
            return f"{node.function}({'*' if node.star else ', '.join(map(text_of, node.arguments))})"
        case nodes.Negative():
            return f"-{_operand(node.operand)}"
        case nodes.Arithmetic():
            return _operand(node.first) + "".join(f" {operator} {_operand(right)}" for operator, right in node.rest)
        case nodes.Comparison():
            return f"{_operand(node.left)} {node.operator} {_operand(node.right)}"
        case nodes.Like():
            return f"{_operand(node.operand)} {'not ' if node.negated else ''}like {text_of(node.pattern)}"
        case nodes.In():
            items = ", ".join(map(text_of, node.items))
            return f"{_operand(node.operand)} {'not ' if node.negated else ''}in [{items}]"
        case nodes.Not():
            return f"not {_operand(node.operand)}"
        case nodes.Logic():
            return f" {node.operator} ".join(map(_operand, node.operands))
    raise AssertionError(node)


def _items(items: tuple[nodes.Item, ...]) -> str:
    return ", ".join(text_of(item.expression) + (f" as `{item.alias}`" if item.alias else "") for item in items)


def _operand(node: nodes.Expression) -> str:
    return text_of(node) if isinstance(node, _ATOMS) else f"({text_of(node)})"


def _key(key: str) -> str:
    return key if key.startswith("@") and key[1:].isidentifier() else f"`{key}`"


# Generators

FIELDS = (
    "srcAddr",
    "dstPort",
    "bytes",
    "action",
    "level",
    "n",
    "user",
    "nowhere",
    "@message",
    "@timestamp",
    "@logStream",
)
TEXTS = (
    "",
    "22",
    "-",
    "ACCEPT",
    "10.0.0.1",
    "ERROR",
    "5",
    "x'\"\\\n%_*",
    "1e5",
    "ü☃",
    "/",
    "10.0.0.0/8",
    "%Y",
    "UTC",
    "2001:db8::/32",
)

words = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
regexes = st.sampled_from(["a+", "^10\\.", "(?i)error", "[0-9]{1,3}", "x/y", "(?<g1>\\w+)-(?<g2>.*)", "a|b"])


@st.composite
def names(draw: st.DrawFn) -> nodes.Name:
    keys = draw(
        st.sampled_from([(name,) for name in FIELDS] + [("user", "id"), ("user", "a.b"), ("user", "roles", "0")])
    )
    return nodes.Name(keys)


numbers = st.one_of(st.integers(0, 10**6).map(str), st.floats(0, 1e6, allow_nan=False).map(lambda x: f"{x:.3f}"))
strings = words.map(nodes.String)
atoms: st.SearchStrategy[nodes.Expression] = st.one_of(
    names(), numbers.map(nodes.Number), strings, st.booleans().map(nodes.Truth)
)
periods = st.builds(nodes.Period, st.integers(1, 60), st.sampled_from(sorted(UNITS)))


def _calls(inner: st.SearchStrategy[nodes.Expression]) -> st.SearchStrategy[nodes.Expression]:
    @st.composite
    def call(draw: st.DrawFn) -> nodes.Call:
        function = draw(st.sampled_from(FUNCTIONS))
        most = function.least + 2 if function.most is None else function.most
        count = draw(st.integers(function.least, most))
        arguments = [draw(periods if number in function.periods else inner) for number in range(count)]
        return nodes.Call(function.name.lower(), tuple(arguments))

    return call()


def _operations(inner: st.SearchStrategy[nodes.Expression]) -> st.SearchStrategy[nodes.Expression]:
    pairs = st.one_of(
        st.lists(st.tuples(st.sampled_from("+-"), inner), min_size=1, max_size=3),
        st.lists(st.tuples(st.sampled_from("*/%"), inner), min_size=1, max_size=3),
        st.lists(st.tuples(st.just("^"), inner), min_size=1, max_size=1),
    )
    lists = st.lists(inner, min_size=1, max_size=3).map(tuple)
    patterns = strings | regexes.map(nodes.Regex)
    return st.one_of(
        _calls(inner),
        st.builds(nodes.Negative, inner),
        st.builds(nodes.Arithmetic, inner, pairs.map(tuple)),
        st.builds(nodes.Comparison, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), inner, inner),
        st.builds(nodes.Like, inner, patterns, st.booleans()),
        st.builds(nodes.In, inner, lists, st.booleans()),
        st.builds(nodes.Not, inner),
        st.builds(nodes.Logic, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple)),
    )


expressions = st.recursive(atoms, _operations, max_leaves=8)

conditions = expressions.filter(
    lambda node: isinstance(node, nodes.Comparison | nodes.Like | nodes.In | nodes.Not | nodes.Logic)
)

aliases = st.none() | st.sampled_from(["a", "b", "c-d", "srcAddr"])


@st.composite
def items(draw: st.DrawFn, of: st.SearchStrategy[nodes.Expression] = expressions) -> nodes.Item:
    return nodes.Item(draw(of), draw(aliases))


@st.composite
def aggregated(draw: st.DrawFn) -> nodes.Expression:
    aggregate = draw(st.sampled_from(AGGREGATES))
    if aggregate.star and draw(st.booleans()):
        return nodes.Call(aggregate.name.lower(), (), star=True)
    arguments = [draw(expressions)]
    if aggregate.least == 2:
        arguments.append(nodes.Number(str(draw(st.integers(0, 100)))))
    call = nodes.Call(aggregate.name.lower(), tuple(arguments))
    return nodes.Arithmetic(call, (("+", nodes.Number("1")),)) if draw(st.booleans()) else call


def _some(of: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, min_size=least, max_size=3).map(tuple)


by = st.one_of(
    items(), st.builds(lambda period, alias: nodes.Item(nodes.Call("bin", (period,)), alias), periods, aliases)
)


def _glob(parts: list[str]) -> nodes.ParseGlob:
    made = tuple(nodes.Name((f"p{number}",)) for number in range(len(parts) - 1))
    return nodes.ParseGlob(nodes.MESSAGE, nodes.String("*".join(parts)), made)


globs = st.lists(words.map(lambda word: word.replace("*", "")), min_size=2, max_size=4).map(_glob)
commands: st.SearchStrategy[nodes.Command] = st.one_of(
    st.builds(nodes.Fields, _some(items())),
    st.builds(nodes.Display, _some(items())),
    st.builds(nodes.Filter, conditions),
    st.builds(nodes.Stats, _some(items(aggregated())), _some(by, 0)),
    st.builds(nodes.Sort, _some(st.builds(nodes.SortKey, names(), st.booleans()))),
    st.builds(nodes.Limit, st.integers(1, 100_000)),
    st.builds(nodes.Dedup, _some(names())),
    globs,
    st.builds(nodes.ParseRegex, names(), st.just(nodes.Regex("(?<g1>\\w+)-(?<g2>.*)"))),
)
queries = st.builds(nodes.Query, st.lists(commands, min_size=1, max_size=4).map(tuple))
