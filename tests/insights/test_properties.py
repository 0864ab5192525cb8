"""What holds for every query: one reading, one kind of error, a statement that runs; filters as Python sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.insights import writing
from tests.insights.world import World
from tests.insights.writing import text_of
from vnotch.insights import nodes
from vnotch.insights.grammar import parse_query
from vnotch.insights.malformed import MalformedQuery

LINE = "2 123456789012 eni-1 {} 1700000000 1700000060 {}"
MESSAGES = [
    LINE.format("10.0.0.1 10.0.1.5 1234 443 6 10 1000", "ACCEPT OK"),
    LINE.format("10.0.0.2 10.0.1.5 1235 22 6 5 500", "REJECT OK"),
    LINE.format("2001:db8::1 2001:db8::2 53 53 17 1 80", "ACCEPT OK"),
    LINE.format("- - - - - - -", "- NODATA"),
    '{"level": "ERROR", "n": 5, "dstPort": 22, "user": {"id": "u1", "a.b": "dotted", "roles": ["x", "y"]}}',
    '{"level": "22", "n": "x", "srcAddr": "10.0.0.9", "bytes": "1e3", "action": null}',
    "no json: {",
]
WORLD = World(MESSAGES)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@SETTINGS
@given(writing.queries)
def test_what_is_written_is_read_back(query: nodes.Query) -> None:
    assert parse_query(text_of(query)) == query


PIECES = st.sampled_from(
    [*"|,()[]*/+-^%=<>!~@`'\"#.\\{}\n ", "fields ", "filter ", "stats ", " by ", "sort ", "parse ", " as ", "like",
     "not ", "in ", "5m", "1e5", "a", "@message", "count(", "/x/", "bin(", "\0", "é"]
)  # fmt: skip


@SETTINGS
@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
@example("fields `\0`")
@example("filter a like /[/")
@example("parse @message /(?<>x)/")
@example("parse @message /(?<g>[)/")
def test_any_text_is_understood_or_malformed(text: str) -> None:
    refused = None
    try:
        WORLD.compile(text)
    except MalformedQuery as error:
        refused = error
    if refused is not None:
        assert 0 <= refused.place.start <= refused.place.end <= len(text)
        assert refused.line >= 1


@SETTINGS
@given(writing.queries)
def test_what_compiles_is_a_statement_that_runs(query: nodes.Query) -> None:
    """Whatever the values are: a function of the wrong kind of thing is missing, not an error of the store."""
    text = text_of(query)
    try:
        compiled = WORLD.compile(text)
    except MalformedQuery:
        return
    WORLD.ask(text)
    for statement in filter(None, (compiled.matched, compiled.scanned)):
        WORLD.database.execute(statement.text, list(statement.parameters)).fetchall()


EVIL = "zq'\"); DROP TABLE events; --"


@pytest.mark.parametrize(
    "query",
    [
        f"filter srcAddr = {text_of(nodes.String(EVIL))}",
        f"filter srcAddr in [{text_of(nodes.String(EVIL))}, 'a']",
        f"filter srcAddr like {text_of(nodes.String(EVIL))}",
        "filter srcAddr like /zq'\"\\); DROP TABLE events; --/",
        f"fields {text_of(nodes.String(EVIL))} as `{EVIL}`",
        f"fields `{EVIL}`, a.`{EVIL}`, @@`{EVIL}`".replace("@@`", "`@@"),
        f"stats count(*) as `{EVIL}` by `{EVIL}x` | sort `{EVIL}`",
        f"parse @message {text_of(nodes.String('a' + EVIL + '*'))} as `{EVIL}` | dedup `{EVIL}`",
        f"fields jsonParse(@message) as `{EVIL}` | display `{EVIL}`.`{EVIL}`",
        'fields regexReplace(srcAddr, "zq\'", "\'zq"), formatDate(@timestamp, "%Y zq\'")',
        "parse @message /(?<zq>zq'.*)/",
    ],
)
def test_what_a_user_writes_is_bound_and_never_sql(query: str) -> None:
    world = World(MESSAGES)
    compiled = world.compile(query)
    assert "zq" not in compiled.statement.text
    assert "DROP" not in compiled.statement.text
    assert compiled.statement.text.count("?") == len(compiled.statement.parameters)
    world.ask(query)
    assert world.ask("stats count(*) as n") == [{"n": str(len(MESSAGES))}]


# Filters, against an evaluator of their own

FLOW = ("srcAddr", "dstPort", "bytes", "action")
EVENTS: list[Mapping[str, str]] = [
    {"srcAddr": "10.0.0.1", "dstPort": "443", "bytes": "1000", "action": "ACCEPT"},
    {"srcAddr": "10.0.0.2", "dstPort": "22", "bytes": "500", "action": "REJECT"},
    {"srcAddr": "2001:db8::1", "dstPort": "53", "bytes": "80", "action": "ACCEPT"},
    {"srcAddr": "-", "dstPort": "-", "bytes": "-", "action": "-"},
    {"level": "ERROR", "n": "5", "dstPort": "22"},
    {"level": "22", "n": "x", "srcAddr": "10.0.0.9", "bytes": "1e3"},
    {},
]
DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.ASCII | re.IGNORECASE)

fields = st.sampled_from([*FLOW, "level", "n", "nowhere"]).map(lambda name: nodes.Name((name,)))
literals = st.one_of(
    st.sampled_from(["22", "22.0", "443", "1000", "1e3", "5", "500", "0"]).map(nodes.Number),
    st.sampled_from(["22", "443.0", "-", "ACCEPT", "10.0.0.1", "10.0.0.9", "ERROR", "x", "", "+5"]).map(nodes.String),
)
operands = fields | literals
comparisons = st.builds(nodes.Comparison, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), operands, operands)
conditions = st.recursive(
    st.one_of(
        comparisons,
        st.builds(nodes.In, fields, st.lists(operands, min_size=1, max_size=3).map(tuple), st.booleans()),
        st.builds(
            nodes.Like, fields,
            st.sampled_from(["10.", "E", "2", "", "-"]).map(nodes.String)
            | st.sampled_from(["^1", "[0-9]+$", "(?i)accept", "^$|-"]).map(nodes.Regex), st.booleans(),
        ),
        fields.map(lambda name: nodes.Call("ispresent", (name,))),
        st.builds(
            lambda name, net: nodes.Call("isipv4insubnet", (name, nodes.String(net))), fields,
            st.sampled_from(["10.0.0.0/31", "10.0.0.0/8", "0.0.0.0/0", "10.0.0.9/32", "10.0.0.8/29"]),
        ),
    ),
    lambda inner: st.builds(nodes.Not, inner)
    | st.builds(nodes.Logic, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple)),
    max_leaves=6,
)  # fmt: skip


def value_of(node: nodes.Expression, event: Mapping[str, str]) -> str | None:
    match node:
        case nodes.Name():
            return event.get(node.keys[0])
        case nodes.Number():
            return node.text
        case nodes.String():
            return node.value
    raise AssertionError(node)


def decimal(text: str) -> float | None:
    return float(text) if DECIMAL.fullmatch(text) else None


def compared(operator: str, left: str | None, right: str | None) -> bool:
    """docs/insights.md: missing makes it false; two numbers as numbers; a number and a text differ, unordered."""
    if left is None or right is None:
        return False
    a, b = decimal(left), decimal(right)
    if (a is None) != (b is None):
        return operator == "!="
    one, other = (left, right) if a is None or b is None else (a, b)
    return {
        "=": one == other,
        "!=": one != other,
        "<": one < other,  # type: ignore[operator]
        "<=": one <= other,  # type: ignore[operator]
        ">": one > other,  # type: ignore[operator]
        ">=": one >= other,  # type: ignore[operator]
    }[operator]


def holds(node: nodes.Expression, event: Mapping[str, str]) -> bool:
    match node:
        case nodes.Logic():
            together = all if node.operator == "and" else any
            return together(holds(operand, event) for operand in node.operands)
        case nodes.Not():
            return not holds(node.operand, event)
        case nodes.Comparison():
            return compared(node.operator, value_of(node.left, event), value_of(node.right, event))
        case nodes.In():
            left = value_of(node.operand, event)
            return any(compared("=", left, value_of(item, event)) for item in node.items) != node.negated
        case nodes.Like():
            text = value_of(node.operand, event)
            found = text is not None and (
                re.search(node.pattern.pattern, text) is not None
                if isinstance(node.pattern, nodes.Regex)
                else node.pattern.value in text
            )
            return found != node.negated
        case nodes.Call("ispresent"):
            return value_of(node.arguments[0], event) is not None
        case nodes.Call("isipv4insubnet"):
            name, network = node.arguments
            assert isinstance(network, nodes.String)
            try:
                return IPv4Address(value_of(name, event) or "") in ip_network(network.value)
            except ValueError:
                return False
    raise AssertionError(node)


@settings(SETTINGS, max_examples=200)
@given(conditions)
def test_filters_agree_with_an_evaluator_in_python(condition: nodes.Expression) -> None:
    expected = [number for number, event in enumerate(EVENTS) if holds(condition, event)]
    query = f"filter {text_of(condition)} | sort @timestamp"
    assert WORLD.sequences(query) == expected
    assert WORLD.matched(query) == len(expected)


@SETTINGS
@given(st.lists(st.sampled_from(["", "a", "b", "ab", "1", "*"]), min_size=2, max_size=5), st.text("ab1", max_size=8))
def test_wildcards_of_parse_take_the_shortest_text(parts: list[str], message: str) -> None:
    parts = [part.replace("*", "") for part in parts]
    names = [f"p{number}" for number in range(len(parts) - 1)]
    glob, shown = text_of(nodes.String("*".join(parts))), ", ".join(names)
    query = f"fields {text_of(nodes.String(message))} as m | parse m {glob} as {shown} | limit 1 | display {shown}"
    pattern = "(.*?)".join(map(re.escape, parts)) + ("$" if not parts[-1] else "")
    match = re.search(pattern, message)
    assert WORLD.ask(query) == [{} if match is None else dict(zip(names, match.groups(), strict=True))]


def test_numbers_in_answers_have_four_decimal_places() -> None:
    assert WORLD.one("1 / 3") == f"{1 / 3:.4f}"
    assert not math.isnan(float(WORLD.one("0.1 + 0.2") or "nan"))


@pytest.mark.parametrize(
    ("condition", "typed"),
    [
        ('srcAddr = "10.0.0.1"', ['"srcaddr" = ?']),
        ('srcAddr = "10.0.0.1" or dstAddr = "10.0.0.1"', ['"srcaddr" = ?', '"dstaddr" = ?']),
        ('action = "REJECT" and dstPort in [22, 3389]', ['"action" = ?']),
        ('srcAddr = "-"', ['"srcaddr" = ?', '"srcaddr" IS NULL']),
        # What may hold where a value is missing has no branches.
        ('not (srcAddr = "10.0.0.1")', []),
        ("dstPort = 22 or ispresent(level)", []),
    ],
)
def test_records_are_asked_by_their_columns_one_by_one(condition: str, typed: list[str]) -> None:
    """A column alone in a condition is what the store can pass over files by."""
    first, *branches = WORLD.compile(f"filter {condition} | stats count(*)").statement.text.split(" UNION ALL ")
    selects = [first, *branches] if branches else []
    assert len(selects) == (len(typed) + 1 if typed else 0)
    for select, column in zip(selects, typed, strict=False):
        assert column in select
        assert "json" not in select.partition(" WHERE ")[2].partition("format_id")[0]
    assert not selects or "format_id IS NULL AND" in selects[-1]
