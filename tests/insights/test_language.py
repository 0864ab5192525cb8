"""The language: what each command does, by the user guide's words and samples; the records are those of its pages."""

from __future__ import annotations

import pytest

from tests.insights.world import World
from vnotch.insights.malformed import MalformedQuery

LINE = "2 123456789012 eni-1 {} 1700000000 1700000060 {}"
MESSAGES = [
    LINE.format("10.0.0.1 10.0.1.5 1234 443 6 10 1000", "ACCEPT OK"),
    LINE.format("10.0.0.2 10.0.1.5 1235 22 6 5 500", "REJECT OK"),
    LINE.format("2001:db8::1 2001:db8::2 53 53 17 1 80", "ACCEPT OK"),
    LINE.format("- - - - - - -", "- NODATA"),
    '{"level": "ERROR", "n": 5, "user": {"id": "u1", "a.b": "dotted", "roles": ["x", "y"]}, "ok": true, "@kind": "k"}',
    "user=bob, method:GET, latency := 12.5",
    "user=eve, method:GET, latency := 7.5",
]


@pytest.fixture(scope="module")
def world() -> World:
    return World(MESSAGES)


# fields and display


def test_fields_add_up_and_the_last_display_replaces_them(world: World) -> None:
    assert world.ask("fields dstPort | fields bytes * 2 as twice | limit 7")[-1] == {"dstPort": "443", "twice": "2000"}
    assert world.ask("fields dstPort | display action | display bytes")[-1] == {"bytes": "1000"}


def test_an_alias_can_be_used_from_then_on(world: World) -> None:
    query = "fields bytes / packets as size | filter size = 100 | fields size * 2 as double | display double"
    assert world.ask(query) == [{"double": "200"}, {"double": "200"}]
    assert world.ask("fields srcAddr as source | filter source = '10.0.0.1' | display source") == [
        {"source": "10.0.0.1"}
    ]


def test_a_value_without_an_alias_is_called_as_it_is_written(world: World) -> None:
    (row,) = world.ask("fields strlen(action),  bytes + 1 | filter dstPort = 22")
    assert row == {"strlen(action)": "6", "bytes + 1": "501"}


def test_names_that_need_backticks(world: World) -> None:
    assert world.ask("filter isPresent(`level`) | fields user.`a.b` as v, user.roles[1] as r, @@kind as k") == [
        {"v": "dotted", "r": "y", "k": "k"}
    ]


def test_keywords_and_functions_in_any_case_and_comments(world: World) -> None:
    query = """FIELDS dstPort # the port
        # | filter dstPort = 443
        | Filter ISPRESENT(dstPort) AND dstPort IN [22, 443]
        | SORT dstPort DESC"""
    assert world.ask(query) == [{"dstPort": "443"}, {"dstPort": "22"}]


def test_names_of_fields_are_as_they_are(world: World) -> None:
    assert world.ask("filter srcaddr = '10.0.0.1'") == []


# filter


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("dstPort = 22", [1]),
        ('dstPort = "22"', [1]),
        ("22 = dstPort", [1]),
        ("dstPort > 50 and dstPort < 500", [0, 2]),
        ("500 > dstPort and 50 < dstPort", [0, 2]),
        ('action = "REJECT" or protocol = 17', [1, 2]),
        ('srcAddr in ["10.0.0.1", "10.0.0.9"]', [0]),
        ('not (srcAddr in ["10.0.0.1"])', [1, 2, 3, 4, 5, 6]),
        ('srcAddr not in ["10.0.0.1"]', [1, 2, 3, 4, 5, 6]),
        ('srcAddr like "10.0."', [0, 1]),
        ("srcAddr like /^10\\.0\\.0\\.[2-9]$/", [1]),
        ("srcAddr =~ /^2001/", [2]),
        ('@message =~ "method"', [5, 6]),
        ("@message not like /eni/", [4, 5, 6]),
        ("level like /(?i)error/", [4]),
        ("level like /error/", []),
        ("n = 5", [4]),
        ("n < 5.5", [4]),
        ('user.id = "u1"', [4]),
        ("ok = true", [4]),
        ("isPresent(dstPort)", [0, 1, 2, 3]),
        ("isPresent(level) or logStatus = 'NODATA'", [3, 4]),
        ("dstPort = '-'", [3]),
        # What is missing makes every comparison false; `-` is a text, which differs from every number.
        ("dstPort != 22", [0, 2, 3]),
        ("not dstPort = 22", [0, 2, 3, 4, 5, 6]),
        ("nowhere != 1", []),
        ("nowhere < 1 or nowhere >= 1", []),
        ("dstPort < 'x'", [3]),
        ("bytes / packets = 100", [0, 1]),
        ("srcPort = dstPort", [2, 3]),
        ("strcontains(action, 'JEC')", [1]),
        ("isempty(action)", [4, 5, 6]),
        ("true", [0, 1, 2, 3, 4, 5, 6]),
        ("toMillis(@timestamp) >= now() * 1000 - 3500000", [2, 3, 4, 5, 6]),
        ("@timestamp = 1700000060000", [1]),
        ("@logStream = 'eni-1-all' and @log = '123456789012:flow' and dstPort = 22", [1]),
        ("@ingestionTime - @timestamp = 5 and dstPort = 22", [1]),
        ("startTime = 1700000000 and start = 1700000000 and endTime = end and dstPort = 22", [1]),
    ],
)  # fmt: skip
def test_filter(world: World, condition: str, expected: list[int]) -> None:
    query = f"filter {condition} | sort @timestamp"
    assert world.sequences(query) == expected
    assert world.matched(query) == len(expected)


# stats


def test_every_aggregate(world: World) -> None:
    query = """stats count(*) as events, count() as also, count(dstPort) as ports,
        count_distinct(protocol) as protocols,
        sum(bytes) as total, avg(bytes) as mean, min(bytes) as least, max(bytes) as most, pct(bytes, 50) as median,
        stddev(bytes) as deviation, earliest(srcAddr) as first, latest(srcAddr) as last,
        sortsFirst(action) as lowest, sortsLast(dstPort) as highest"""
    # Of 80, 500 and 1000: mean 526.6667, median 500, sample deviation 460.5793.
    assert world.ask(query) == [
        {
            "events": "7", "also": "7", "ports": "4", "protocols": "3", "total": "1580", "mean": "526.6667",
            "least": "80", "most": "1000", "median": "500", "deviation": "460.5793", "first": "10.0.0.1", "last": "-",
            "lowest": "-", "highest": "443",
        }
    ]  # fmt: skip


def test_aggregates_can_be_computed_with(world: World) -> None:
    query = "stats sum(bytes) as b, b / 1000 as kb, sum(bytes) / sum(packets) as size by action | sort b desc | limit 1"
    assert world.ask(query) == [{"action": "ACCEPT", "b": "1080", "kb": "1.08", "size": "98.1818"}]


def test_groups_come_before_results_and_a_missing_group_has_no_value(world: World) -> None:
    found = world.ask("stats count(*) as n by action, bin(1h)")
    assert [list(row) for row in found] == [["bin(1h)", "n"], *[["action", "bin(1h)", "n"]] * 3]
    assert [row["n"] for row in found] == ["3", "1", "2", "1"]


def test_stats_of_stats(world: World) -> None:
    query = (
        "stats sum(bytes) as b by srcAddr, action | stats max(b) as most, count(*) as sources by action | sort action"
    )
    assert world.ask(query) == [
        {"sources": "1"},
        {"action": "-", "sources": "1"},
        {"action": "ACCEPT", "most": "1000", "sources": "2"},
        {"action": "REJECT", "most": "500", "sources": "1"},
    ]


def test_stats_after_a_filter_that_nothing_meets(world: World) -> None:
    assert world.ask("filter dstPort = 1 | stats count(*) as n, sum(bytes) as b") == [{"n": "0"}]
    assert world.ask("filter dstPort = 1 | stats count(*) by srcAddr") == []


def test_numbers_in_json_are_added_up_with_those_of_records() -> None:
    world = World([MESSAGES[0], '{"bytes": 24, "packets": "2"}', '{"bytes": "many"}'])
    assert world.ask("stats sum(bytes) as b, sum(packets) as p, max(bytes) as most, count(bytes) as n") == [
        {"b": "1024", "p": "12", "most": "1000", "n": "3"}
    ]


# sort, limit, dedup


def test_the_natural_order() -> None:
    """User guide, "sort": what is no number comes before numbers, runs of digits by their length."""
    expected = [
        "!:",
        "#",
        "*%04",
        "0#",
        "5A",
        "111A",
        "2345_",
        "@",
        "@_",
        "A",
        "A9876fghj",
        "a12345hfh",
        "0",
        "01",
        "1",
        "2",
        "3",
    ]
    world = World([f'{{"v": "{value}"}}' for value in reversed(expected)])
    found = [row["v"] for row in world.ask("fields v | sort v asc")]
    assert found[:12] == expected[:12]
    assert [float(value) for value in found[12:]] == [0, 1, 1, 2, 3]
    assert [row["v"] for row in world.ask("fields v | sort v desc")][-12:] == expected[11::-1]


def test_numbers_of_records_sort_as_numbers_behind_what_is_none(world: World) -> None:
    assert [row.get("dstPort") for row in world.ask("fields dstPort | sort dstPort")] == [
        None, None, None, "-", "22", "53", "443",
    ]  # fmt: skip
    assert [row.get("dstPort") for row in world.ask("fields dstPort | sort dstPort desc | limit 2")] == ["443", "53"]


def test_several_keys(world: World) -> None:
    assert world.sequences("filter isPresent(action) | sort by action desc, bytes asc") == [1, 2, 0, 3]


def test_without_sort_the_newest_events_come_first(world: World) -> None:
    assert world.sequences("limit 3") == [6, 5, 4]
    assert world.sequences("limit 3 | sort @timestamp") == [4, 5, 6]


def test_dedup_keeps_the_first_in_order_and_all_that_miss_a_value(world: World) -> None:
    """User guide, "dedup": without sort the newest is kept; events with a null value are no duplicates."""
    assert world.sequences("dedup action") == [6, 5, 4, 3, 2, 1]
    assert world.sequences("filter isPresent(action) | sort @timestamp asc | dedup action") == [0, 1, 3]
    assert world.sequences("dedup action, protocol | limit 4") == [6, 5, 4, 3]


# parse


def test_parse_by_wildcards(world: World) -> None:
    """The user guide's example, which gives the mean latency by method and user."""
    query = """parse @message "user=*, method:*, latency := *" as @user, @method, @latency
        | filter isPresent(@user) | stats avg(@latency) by @method, @user | sort @user"""
    assert world.ask(query) == [
        {"@method": "GET", "@user": "bob", "avg(@latency)": "12.5"},
        {"@method": "GET", "@user": "eve", "avg(@latency)": "7.5"},
    ]


def test_parse_reads_the_message_where_no_field_is_named(world: World) -> None:
    assert world.ask('parse "user=*," as who | filter isPresent(who) | display who') == [{"who": "eve"}, {"who": "bob"}]


def test_parse_by_named_groups(world: World) -> None:
    query = r"parse @message /user=(?<who>\w+), method:(?<how>[A-Z]+)/ | filter who = 'bob' | display who, how"
    assert world.ask(query) == [{"who": "bob", "how": "GET"}]


def test_parse_of_a_parsed_field_and_events_that_do_not_match(world: World) -> None:
    query = "parse @message 'latency := *' as latency | parse latency '*.*' as whole, rest | sort @timestamp desc"
    found = world.ask(query)
    assert len(found) == len(MESSAGES)
    assert found[0] == {
        "@timestamp": "2023-11-14 22:19:20.000",
        "@message": MESSAGES[6],
        "latency": "7.5",
        "whole": "7",
        "rest": "5",
    }
    assert found[-1].keys() == {"@timestamp", "@message"}


# JSON


def test_structures(world: World) -> None:
    parsed = "fields jsonParse(@message) as j | filter isPresent(j)"
    assert world.ask(f"{parsed} | display j.user.roles[0] as r, j.n + 1 as m, toupper(j) as u") == [
        {"r": "x", "m": "6"}
    ]
    assert world.ask("fields jsonParse(@message) as j | filter j = 'x' or j != 'x'") == []
    assert world.ask("fields jsonParse(@message) as j | filter isPresent(j) | display jsonStringify(j) as t")[0][
        "t"
    ].startswith('{"level"')


# What is refused


@pytest.mark.parametrize(
    ("query", "line", "position", "said"),
    [
        ("", 1, 0, "unexpected symbol found <EOF>"),
        ("fields", 1, 6, "unexpected symbol found <EOF>"),
        ("fields a,", 1, 9, "unexpected symbol found <EOF>"),
        ("fields a | ", 1, 11, "unexpected symbol found <EOF>"),
        ("| limit 1", 1, 0, "unexpected symbol found |"),
        ("fields a b", 1, 9, "unexpected symbol found b"),
        ("sort bin(1d) desc", 1, 8, "unexpected symbol found ("),
        ("filter @message like /x/i", 1, 24, "unexpected symbol found i"),
        ("filter a == 1", 1, 10, "unexpected symbol found ="),
        ("filter a <> 1", 1, 10, "unexpected symbol found >"),
        ("filter a = 1 && b = 2", 1, 13, "unexpected symbol found &"),
        ("fields a\n  | filter 'x", 2, 11, "unexpected symbol found '"),
        ("limit 1 | pattern @message", 1, 10, "vnotch does not understand the command pattern"),
        ("limit 1 | where a = 1", 1, 10, "a command is one of fields, display"),
        ("limit 0", 1, 6, "limit takes a number from 1"),
        ("limit 100001", 1, 6, "limit takes a number from 1"),
        ("limit 1.5", 1, 6, "limit takes a number from 1"),
        ("filter a", 1, 7, "this is no condition"),
        ("filter a + 1", 1, 7, "this is no condition"),
        ("filter toupper(a)", 1, 7, "this is no condition"),
        ("fields foo(a)", 1, 7, "vnotch knows no function foo"),
        ("fields strlen(a, b)", 1, 7, "strlen takes 1 arguments"),
        ("fields count(*)", 1, 7, "count stands in stats only"),
        ("stats srcAddr by dstAddr", 1, 6, "srcAddr is neither aggregated nor in by"),
        ("stats sum(max(bytes))", 1, 10, "max stands in stats only"),
        ("stats pct(bytes, 101)", 1, 17, "the percentile must be a number from 0 to 100"),
        ("stats count(*) by a | stats count(*) by a | stats count(*)", 1, 44, "a query can have 2 stats commands"),
        ("stats count(*) by a | sort a | stats count(*)", 1, 22, "sort must stand behind the last stats"),
        ("stats count(*) by a | filter b = 1", 1, 29, "there is no field b behind stats"),
        ("stats count(*) by a | stats count(*) by bin(1h)", 1, 40, "bin needs @timestamp"),
        ("stats count(*) by a | stats latest(a)", 1, 28, "latest needs @timestamp"),
        ("limit 1 | filter a = 1", 1, 10, "after limit only"),
        ("dedup a | filter a = 1", 1, 10, "after dedup only limit"),
        ("fields @foo", 1, 7, "there is no field @foo"),
        ("fields bin(5)", 1, 11, "a period should be here"),
        ("fields bin(5x)", 1, 12, "unexpected symbol found x"),
        ("fields 5m", 1, 7, "a period of time stands in"),
        ("filter @timestamp > '2023-01-01'", 1, 20, "a time is compared with milliseconds"),
        ('filter isIpv4InSubnet(a, "10.0.0.0/33")', 1, 25, "10.0.0.0/33 is not an IPv4 subnet"),
        ('filter isIpv4InSubnet(a, "2001:db8::/32")', 1, 25, "is not an IPv4 subnet"),
        ('filter isIpInSubnet(a, "10.0.0.1")', 1, 23, "is not a subnet"),
        ("filter isIpInSubnet(a, b)", 1, 23, "the subnet must be a string"),
        ("filter a like /(?=x)/", 1, 14, "the regular expression is not valid"),
        (r"filter a like /(x)\1/", 1, 14, "the regular expression is not valid"),
        ("parse @message /(x)/", 1, 15, "no named group"),
        ("parse @message 'a*b*' as x", 1, 15, "the pattern of parse has 2 wildcards for 1 names"),
        ("parse 'a*b*' as x, x", 1, 0, "two fields of one name"),
        ("fields jsonParse(a) as j | sort j", 1, 32, "a map or a list cannot be sorted"),
        ("fields jsonParse(a) as j | dedup j", 1, 33, "a map or a list cannot be compared"),
        ("fields jsonParse(a) as j | stats count(*) by j", 1, 45, "a map or a list cannot be grouped by"),
        # A keyword ends where its word ends.
        ("filter a = 1 andb = 2", 1, 13, "unexpected symbol found andb"),
        ("filter a = 1 orb = 2", 1, 13, "unexpected symbol found orb"),
        ("filterIndex = 'x'", 1, 0, "vnotch does not understand the command filterIndex"),
        ("filteraction = 'x'", 1, 0, "unexpected symbol found filteraction"),
        ("limit5", 1, 0, "unexpected symbol found limit5"),
        ("stats count(*) byaction", 1, 15, "unexpected symbol found byaction"),
        ("stats count(*) asx", 1, 15, "unexpected symbol found asx"),
        ("sort a descending", 1, 7, "unexpected symbol found descending"),
        ("stats count(*) as a by a", 1, 6, "stats makes two columns named a"),
        ("stats sum(a) as x, count(*) as x", 1, 19, "stats makes two columns named x"),
        ("stats count(*) by a as x, b as x", 1, 26, "stats makes two columns named x"),
        ("fields formatDate(@timestamp, 'yyyy-MM-dd')", 1, 30, "this is no format of a date"),
        ("filter a = null", 1, 11, "there is no null"),
        ("fields a as b | fields b.c", 1, 23, "b is no map and no list"),
        ("fields 1e999", 1, 7, "is too large"),
        ("fields +1", 1, 7, "unexpected symbol found +"),
        ("fields case(" + ", ".join(["a = 1, 2"] * 11) + ")", 1, 7, "case has at most 10 branches"),
        (" | ".join(["limit 1"] * 101), 1, 1000, "more than 100 commands"),
        ("fields " + "a" * 10_000, 1, 10_000, "longer than 10000 characters"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_place(
    world: World, query: str, line: int, position: int, said: str
) -> None:
    with pytest.raises(MalformedQuery) as caught:
        world.compile(query)
    assert said in str(caught.value)
    assert (caught.value.line, caught.value.position) == (line, position)
    assert f"at line {line} and position {position}" in caught.value.message


@pytest.mark.parametrize("nested", ["abs(" * 60 + "a" + ")" * 60, "-" * 60 + "a", "2 ^ " * 60 + "2"])
def test_expressions_that_nest_too_deep_are_refused(world: World, nested: str) -> None:
    with pytest.raises(MalformedQuery, match="nest deeper than 40"):
        world.compile(f"fields {nested}")


def test_parentheses_alone_do_not_nest(world: World) -> None:
    assert world.one("(" * 500 + "7" + ")" * 500) == "7"
