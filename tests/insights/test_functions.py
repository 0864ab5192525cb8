"""Functions: the user guide's own examples first, then what its words say at the edges."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.insights.world import World
from vnotch.insights import aggregates, functions
from vnotch.insights.document import page
from vnotch.insights.malformed import MalformedQuery

RECORD = "2 123456789012 eni-1 10.0.0.1 2001:db8::1 1234 443 6 10 1000 1700000000 1700000060 ACCEPT OK"


@pytest.fixture(scope="module")
def world() -> World:
    return World([RECORD])


DOCUMENTED = [
    ("2 ^ 3", "8"),
    ("10 % 3", "1"),
    ('ltrim("xyZxyfooxyZ", "xyZ")', "fooxyZ"),
    ('rtrim("xyZfooxyxyZ", "xyZ")', "xyZfoo"),
    ('trim("xyZxyfooxyxyZ", "xyZ")', "foo"),
    ('substr("xyZfooxyZ", 3, 3)', "foo"),
    ('replace("foo", "o", "0")', "f00"),
    ('hexToAscii("48656c6c6f")', "Hello"),
    ('hexToDec("0xff")', "255"),
    ("decToHex(255)", "0xff"),
    ("toMillis(fromMillis(1642195111000))", "1642195111000"),
]
EDGES = [
    # Numbers
    ("-7 % 3", "-1"),
    ("2 ^ 3 ^ 2", "512"),
    ("-2 ^ 2", "-4"),
    ("1 - 2 - 3", "-4"),
    ("2 + 3 * 4", "14"),
    ("(2 + 3) * 4", "20"),
    ("7 / 2", "3.5"),
    ("1 / 3", "0.3333"),
    ("1 / 0", None),
    ("5 % 0", None),
    ('"a" + 1', None),
    ('"1.5" + 1', "2.5"),
    ("abs(-2.5)", "2.5"),
    ("ceil(1.2)", "2"),
    ("ceil(-1.2)", "-1"),
    ("floor(1.8)", "1"),
    ("floor(-1.2)", "-2"),
    ("greatest(1, 3, 2)", "3"),
    ("greatest(1, nowhere)", "1"),
    ("least(4, 3.5)", "3.5"),
    ("log(1)", "0"),
    ("log(0)", None),
    ("log(-1)", None),
    ("sqrt(16)", "4"),
    ("sqrt(-1)", None),
    ("round(2.5)", "3"),
    ("round(2.449, 1)", "2.4"),
    ('round(2.449, "x")', None),
    ("round(2.449, 99)", "2.449"),
    ('toNumber("12.50")', "12.5"),
    ('toNumber("x")', None),
    ('toInt("12.9")', "12"),
    ("toInt(-1.9)", "-1"),
    ("toInt(2147483648)", None),
    ("toLong(2147483648)", "2147483648"),
    ("toDouble(1)", "1"),
    ("haversine(0, 0, 0, 180)", "20015.1144"),
    ('haversine(1, 2, "x", 4)', None),
    ("haversine(1, 2, missing, 4)", None),
    ("10 ^ 400", None),
    ("1e15 + 1", "1000000000000001"),
    # Times: @timestamp is 2023-11-14 22:13:20 UTC
    ("bin(1h)", "2023-11-14 22:00:00.000"),
    ("bin(5m)", "2023-11-14 22:10:00.000"),
    ("bin(300s)", "2023-11-14 22:13:00.000"),
    ("bin(1d)", "2023-11-14 00:00:00.000"),
    ("bin(1w)", "2023-11-13 00:00:00.000"),
    ("bin(1mo)", "2023-11-01 00:00:00.000"),
    ("bin(1q)", "2023-10-01 00:00:00.000"),
    ("bin(1yr)", "2023-01-01 00:00:00.000"),
    ("bin(2hrs)", "2023-11-14 22:00:00.000"),
    ("bin(500msecs)", "2023-11-14 22:13:20.000"),
    ("bin(90m)", "2023-11-14 22:00:00.000"),
    ("datefloor(@timestamp, 1h)", "2023-11-14 22:00:00.000"),
    ("dateceil(@timestamp, 1h)", "2023-11-14 23:00:00.000"),
    ("dateceil(fromMillis(3600000), 1h)", "1970-01-01 01:00:00.000"),
    ("dateceil(@timestamp, 1mo)", "2023-12-01 00:00:00.000"),
    ("fromMillis(0)", "1970-01-01 00:00:00.000"),
    ("fromMillis(1e300)", None),
    ('fromMillis("x")', None),
    ("now()", "1700003600"),
    ("queryStartTime()", "1700000000000"),
    ("queryEndTime()", "1700003600999"),
    ("queryTimeRange()", "3600999"),
    ('formatDate(@timestamp, "%Y-%m-%d %H:%M", "UTC")', "2023-11-14 22:13"),
    ('strftime(@timestamp, "%j%%")', "318%"),
    # Anything
    ("isPresent(srcAddr)", "1"),
    ("isPresent(nowhere)", "0"),
    ("coalesce(nowhere, srcAddr)", "10.0.0.1"),
    ("coalesce(nowhere, 2)", "2"),
    ('if(dstPort = 443, "tls", "other")', "tls"),
    ("if(dstPort = 22, 1, bytes / 3)", "333.3333"),
    ("case(dstPort = 22, 1, dstPort = 443, 2, 3)", "2"),
    ("case(dstPort = 22, 1)", None),
    ('isNumeric("1e3")', "1"),
    ('isNumeric("0x1")', "0"),
    ("isNumeric(bytes)", "1"),
    ('messageSize("äöü")', "6"),
    ("dstPort = 443", "1"),
    # JSON
    ('jsonStringify(jsonParse("[1, 2]"))', "[1, 2]"),
    ('jsonParse("7")', None),
    ('jsonParse("{x")', None),
    ('jsonArraySize("[1, [2, 3]]")', "2"),
    ('jsonArraySize("x")', None),
    ("jsonArrayContains('[\"a\"]', 'a')", "1"),
    ("jsonArrayContains('[\"a\"]', 'A')", "0"),
    ("jsonArrayContains('x', 'a')", "0"),
    # Addresses
    ("isValidIp(srcAddr)", "1"),
    ("isValidIp(dstAddr)", "1"),
    ('isValidIp("10.0.0.256")', "0"),
    ("isValidIpV4(dstAddr)", "0"),
    ("isValidIpV6(dstAddr)", "1"),
    ('isValidIpV6("::ffff:1.2.3.4")', "1"),
    ('isValidIpV6("1::2::3")', "0"),
    ('isIpInSubnet(srcAddr, "10.0.0.0/8")', "1"),
    ('isIpInSubnet(dstAddr, "2001:db8::/32")', "1"),
    ('isIpInSubnet(dstAddr, "10.0.0.0/8")', "0"),
    ('isIpv4InSubnet(srcAddr, "10.0.0.0/30")', "1"),
    ('isIpv4InSubnet("10.0.0.4", "10.0.0.0/30")', "0"),
    ('isIpv4InSubnet("x10.0.0.1", "0.0.0.0/0")', "0"),
    ('isIpv6InSubnet("2001:DB8:0:0::5", "2001:db8::/64")', "1"),
    ('isIpv6InSubnet("2001:db9::", "2001:db8::/32")', "0"),
    ('isIpv6InSubnet("::ffff:10.0.0.1", "::ffff:a00:0/104")', "1"),
    ('ipv4ToNumber("1.2.3.4")', "16909060"),
    ('ipv4ToNumber("1.2.3")', None),
    ('isPrivateIP("172.31.255.255")', "1"),
    ('isPrivateIP("172.32.0.0")', "0"),
    # Texts
    ('isEmpty("")', "1"),
    ("isEmpty(nowhere)", "1"),
    ('isEmpty(" ")', "0"),
    ('isBlank(" \\t")', "1"),
    ('isBlank("x ")', "0"),
    ('concat("a", 1, nowhere, "b")', "a1b"),
    ('trim("  a \\n")', "a"),
    ('strlen("äöü")', "3"),
    ("strlen(bytes)", "4"),
    ('toupper("ä1")', "Ä1"),
    ('tolower("ÄB")', "äb"),
    ('substr("abc", 1)', "bc"),
    ('substr("abc", 9)', ""),
    ('substr("abc", 99999999999)', ""),
    ('substr("abc", 1, 99999999999)', "bc"),
    ('substr("abc", "x")', None),
    ('substr("abc", 0, "x")', None),
    ('substr("abc", -1, 2)', "ab"),
    ('regexReplace("a1b22", "[0-9]+", "#")', "a#b#"),
    ('regexReplace("john", "(j)(o)", "\\\\2\\\\1")', "ojhn"),
    ('strcontains("abc", "b")', "1"),
    ('strcontains("abc", "B")', "0"),
    ('strcontains("abc", "B", true)', "1"),
    ('startsWith("abc", "ab")', "1"),
    ('endsWith("abc", "ab")', "0"),
    ('urlencode("a b/ü")', "a%20b%2F%C3%BC"),
    ('urldecode("a%20b")', "a b"),
    ('base64encode("hi")', "aGk="),
    ('base64decode("aGk=")', "hi"),
    ('base64decode("?")', None),
    ('hexToAscii("xyz")', None),
    ('hexToDec("ff")', "255"),
    ('hexToDec("g")', None),
    ("decToHex(-10.9)", "-0xa"),
    ('jsonStringify(split("a,b", ","))', '["a","b"]'),
]


@pytest.mark.parametrize(("expression", "expected"), DOCUMENTED + EDGES)
def test_function(world: World, expression: str, expected: str | None) -> None:
    assert world.one(expression) == expected


@pytest.mark.parametrize("function", ["urldecode", "base64decode", "hexToAscii", "jsonArraySize", "sqrt", "log"])
def test_functions_that_may_fail_take_a_message(function: str) -> None:
    """A record's message is an expression that raises an error where its format is unknown."""
    record = "2 123456789012 eni-1 10.0.0.1 10.0.0.2 1 22 6 1 40 1700000000 1700000060 REJECT OK"
    found = World([record, "[1,2]"]).ask(f"fields {function}(@message) as x | sort @timestamp")
    assert [row.get("x") for row in found] == {"urldecode": [record, "[1,2]"], "jsonArraySize": [None, "2"]}.get(
        function, [None, None]
    )
    contained = World(["[1,2]", record]).ask("filter jsonArrayContains(@message, 2)")
    assert len(contained) == 1


@pytest.mark.parametrize("period", ["1000000y", "1000000mo"])
def test_periods_beyond_the_calendar_give_nothing_and_fail_nothing(world: World, period: str) -> None:
    for expression in (f"datefloor(0 - 1, {period})", f"dateceil(now(), {period})", f"bin({period})"):
        world.one(expression)


def test_every_function_is_called_here(world: World) -> None:
    called = " ".join(expression for expression, _ in DOCUMENTED + EDGES).lower()
    assert [name for name in functions.FUNCTIONS if f"{name}(" not in called] == []


def test_names_of_functions_and_aggregates_are_told_apart() -> None:
    assert not functions.FUNCTIONS.keys() & aggregates.AGGREGATES.keys()


def test_the_document_has_the_tables_of_the_code() -> None:
    document = Path(__file__).parents[2] / "docs" / "insights.md"
    assert document.read_text() == page(document.read_text()), "run: make docs"


HOSTILE = [
    """{"t":"ten","e":"","n":5,"neg":-3.7,"big":1e300,"huge":"99999999999999999999999","nan":"nan","inf":"inf","b":true,
    "nul":null,"l":[1,2],"m":{"a":1},"hex":"fffffffffffffffffffff","ip":"10.0.0.1","cidr":"10.0.0.0/8","pct":"%f%"}""",
    "2 123456789012 eni-1 10.0.0.1 10.0.0.2 1024 22 6 5 9223372036854775807 1700000000 1700000060 REJECT OK",
]
ARGUMENTS = [
    *("t", "e", "n", "neg", "big", "huge", "nan", "inf", "b", "nul", "l", "m", "hex", "ip", "cidr", "pct", "missing"),
    *("bytes", "srcAddr", "@timestamp", "@message", "jsonParse(@message)", "1/0", '""', "-1", "1e18", "1e308", "now()"),
]
USES = ["fields {} as z", "filter {} = 1", "stats max({}) as z", "fields {} as z | sort z", "stats count(*) by {}"]


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_no_argument_fails_a_query(name: str) -> None:
    """Whatever the values are, a query is refused before it runs or has an answer."""
    function, chance, hostile = functions.FUNCTIONS[name], random.Random(name), World(HOSTILE)
    most = function.least + 2 if function.most is None else function.most
    for _ in range(6):
        count = chance.randint(function.least, most)
        arguments = [
            chance.choice(["5m", "3w", "1000000y"]) if place in function.periods else chance.choice(ARGUMENTS)
            for place in range(count)
        ]
        with suppress(MalformedQuery):
            hostile.ask(chance.choice(USES).format(f"{name}({', '.join(arguments)})"))
