"""Filter patterns against the rules and examples of the CloudWatch Logs user guide, "Filter pattern syntax"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pytest

from vnotch.errors import InputError
from vnotch.store.filter_pattern import FilterPattern

ACCEPTED = (
    "2 123456789010 eni-1235b8ca123456789 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK"
)
REJECTED = (
    "2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530010 1418530070 REJECT OK"
)
NODATA = "2 123456789010 eni-1235b8ca123456789 - - - - - - - 1431280876 1431280934 - NODATA"
RECORDS = (ACCEPTED, REJECTED, NODATA)
FIELDS = "version, accountid, interfaceid, srcaddr, dstaddr, srcport, dstport, protocol, packets, bytes, start, end"

ERRORS = ("[ERROR 400] BAD REQUEST", "[ERROR 401] UNAUTHORIZED REQUEST", "[ERROR 419] MISSING ARGUMENTS")
WEB = '127.0.0.1 - frank [10/Oct/2000:13:25:15 -0700] "GET /apache_pb.gif HTTP/1.0" 200 1534'
WEB_404 = '127.0.0.1 - frank [10/Oct/2000:13:35:22 -0700] "GET /index.html HTTP/1.0" 404 5324'


def matching(pattern: str, messages: Sequence[str]) -> list[str]:
    """The messages that match, by both evaluators."""
    read = FilterPattern.parse(pattern)
    in_python = [message for message in messages if read.matches(message)]
    predicate = read.predicate()
    if predicate is None:
        assert in_python == list(messages)
        return in_python
    in_sql = []
    for message in messages:
        sql = f"SELECT {predicate.sql} FROM (SELECT ?::VARCHAR AS message)"
        # The parameters of the condition come before the one of the message in the text.
        if duckdb.execute(sql, [*predicate.parameters, message]).fetchall() == [(True,)]:
            in_sql.append(message)
    assert in_sql == in_python
    return in_python


@pytest.mark.parametrize("pattern", ["", " ", "\t", '""', '" "'])
def test_an_empty_pattern_matches_everything(pattern: str) -> None:
    assert FilterPattern.parse(pattern).predicate() is None
    assert FilterPattern.parse(pattern).matches("x")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ERROR", ERRORS),
        ("error", ()),
        ("ERROR ARGUMENTS", ERRORS[2:]),
        ("REQUEST ERROR", ERRORS[:2]),
        ("?ERROR ?ARGUMENTS", ERRORS),
        ("?401 ?419", ERRORS[1:]),
        ("ERROR -ARGUMENTS", ERRORS[:2]),
        ("-REQUEST", ERRORS[2:]),
        ('"BAD REQUEST"', ERRORS[:1]),
        ('-"BAD REQUEST" ERROR', ERRORS[1:]),
        # Mixed with other terms, optional terms are ignored (user guide).
        ("?UNAUTHORIZED REQUEST", ERRORS[:2]),
        (r"%\[ERROR 4[0-9]0\]%", ERRORS[:1]),
        (r"%UNAUTH.* REQUEST$%", ERRORS[1:2]),
        # The guide's older form, with a blank after the sign.
        ('"ERROR" - "ARGUMENTS"', ERRORS[:2]),
        ('"\\"GET"', ()),
        ("ROR", ERRORS),
    ],
)
def test_terms(pattern: str, expected: Sequence[str]) -> None:
    assert matching(pattern, ERRORS) == list(expected)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (f"[{FIELDS}, action, logstatus]", RECORDS),
        # The last column takes what is left of the message, so one that is asked for something needs all before it.
        (f"[{FIELDS}, action]", RECORDS),
        (f"[{FIELDS}, action = REJECT]", ()),
        (f"[{FIELDS}, action = REJECT*]", [REJECTED]),
        (f"[{FIELDS}, action, logstatus, more]", ()),
        ("[..., action = REJECT, logstatus]", [REJECTED]),
        ("[version, ..., logstatus = NODATA]", [NODATA]),
        ("[version, account, eni, srcaddr = 172.31.9.*, ...]", [REJECTED]),
        ('[version, account, eni, source, destination, srcport, destport="22", protocol="6", ...]', [ACCEPTED]),
        (
            f"[{FIELDS.replace('dstport', 'dstport = 80 || dstport = 3389').replace('bytes', 'bytes >= 400')}"
            ", action = REJECT, logstatus]",
            [REJECTED],
        ),
        (f"[{FIELDS.replace('dstport', 'dstport != 22 && dstport != 3389')}, action, logstatus]", [NODATA]),
        (f"[{FIELDS.replace('bytes', 'bytes > 4249')}, action, logstatus]", ()),
        (f"[{FIELDS.replace('bytes', 'bytes <= 4249.0')}, action, logstatus]", [ACCEPTED, REJECTED]),
        ("[..., action = %^(?)REJ%, s]", None),
        ("[..., action = %^REJ%, s]", [REJECTED]),
        ('[..., action = A*T || action = "-", s]', [ACCEPTED, NODATA]),
        ("[a, ..., b, c, d, e, f, g, h, i, j, k, l, m, n, o]", ()),
    ],
)
def test_columns_of_flow_records(pattern: str, expected: Sequence[str] | None) -> None:
    if expected is None:
        with pytest.raises(InputError):
            FilterPattern.parse(pattern)
        return
    assert matching(pattern, RECORDS) == list(expected)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[ip, user, username, timestamp, request, status_code, bytes]", [WEB, WEB_404]),
        ("[ip, user, username, timestamp, request, status_code = 4*, bytes]", [WEB_404]),
        ("[ip, user, username, timestamp, request = *.html*, status_code = 4*, bytes]", [WEB_404]),
        ('[ip, user, username, timestamp, request = "GET /apache*", status_code, bytes]', [WEB]),
        ("[ip, user, username, timestamp = 10/Oct*, request, status_code, bytes > 2000]", [WEB_404]),
        ("[..., bytes > 1000 && bytes < 2000]", [WEB]),
    ],
)
def test_columns_in_quotes_and_brackets_are_one(pattern: str, expected: Sequence[str]) -> None:
    assert matching(pattern, [WEB, WEB_404]) == expected


def test_words_are_no_numbers() -> None:
    """`inf` and `nan` are words in a message, whatever a database's cast makes of them."""
    assert matching("[a > 5]", ["inf", "nan", "infinity", "1e9", "6", "5", "+7", "-7"]) == ["6", "+7"]
    assert matching("[a = 7]", ["7", "07", "7.0", "7x"]) == ["7", "07", "7.0"]


def test_like_characters_are_plain_text() -> None:
    assert matching("[a = 50_*]", ["50_x", "50xx"]) == ["50_x"]
    assert matching('[a = "50%*"]', ["50%x", "50xx"]) == ["50%x"]
    assert matching('"\\"\\\\x"', ['"\\x', '"x']) == ['"\\x']


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("ERROR foo.bar", 10),
        ('"open', 1),
        ('x ""', 3),
        ("{ $.a 1 }", 7),
        ("  { $.a = 1", 12),
        ("{ $.a = }", 9),
        ("{ a = 1 }", 3),
        ("{ $.a IS OK }", 10),
        ("{ $.a IS NOT NULL }", 10),
        ("{ $.a EXISTS }", 7),
        ("{ $.a NOT NULL }", 11),
        ("{ ($.a = 1 }", 12),
        ("{ $.a = 1 || }", 14),
        ("{ $.a[x] = 1 }", 6),
        ("{ $.a > x }", 9),
        ("{ $.a.*.* = 1 }", 1),
        ("{ $.* = 1 || $.* = 2 || $.* = 3 || $.* = 4 }", 1),
        ("{ $.a = %a!% }", 11),
        ("%a{3, 5}%", 3),
        ("%[a[b]]%", 4),
        ("%a}%", 3),
        ("%é%", 2),
        ("%a++%", 1),
        ("%open", 1),
        ("%a(b)%", 3),
        ("%[%", 1),
        ("[a, b", 6),
        ("[a b]", 4),
        ("[a = ]", 6),
        ("[a == 1]", 5),
        ("[a =! 1]", 5),
        ("[a <> 1]", 5),
        ("[a = 1;]", 7),
        ("[a = '1']", 6),
        ("[.., a]", 2),
        ("{ $.a == 1 }", 8),
        ("{ $.a = '1' }", 9),
        ("{ $.a = 1; }", 10),
        ("[a > x]", 6),
        ("[..., a, ...]", 10),
        ("[a = 1 || b = 2]", 11),
        ("[a = 1] x", 9),
        ("[]", 2),
        ("%a% %b% %c%", 9),
        ("- ", 2),
    ],
)
def test_what_is_not_understood_names_the_place(pattern: str, place: int) -> None:
    with pytest.raises(InputError, match=rf"Invalid filter pattern: .* at character {place} "):
        FilterPattern.parse(pattern)


def test_a_pattern_has_at_most_1024_characters() -> None:
    assert FilterPattern.parse("a" * 1024).matches("a" * 1024)
    with pytest.raises(InputError):
        FilterPattern.parse("a" * 1025)


# The examples of the user guide (2026) by its own words: what each pattern matches and what it does not.

REQUESTS = ("[INFO] REQUEST FAILED", "[WARN] UNAUTHORIZED REQUEST", "[ERROR] 400 BAD REQUEST")
ORDERED = (
    "INFO 09/25/2014 12:00:00 GET /service/resource/67 1200",
    "INFO 09/25/2014 12:00:01 POST /service/resource/67/part/111 1310",
    "WARNING 09/25/2014 12:00:02 Invalid user request",
    "ERROR 09/25/2014 12:00:02 Failed to process request",
)
TRAIL = (
    '{"eventType": "UpdateTrail", "sourceIPAddress": "111.111.111.111", "arrayKey": ["value", "another value"],'
    ' "objectList": [{"name": "a", "id": 1}, {"name": "b", "id": 2}], "SomeObject": null, "ThisFlag": true,'
    ' "cluster.name": "c"}'
)
USERS = (
    '{"user": {"id": 1, "email": "John.Stiles@example.com"}, "users": [{"id": 2, "email": "John.Doe@example.com"},'
    ' {"id": 3, "email": "Jane.Doe@example.com"}], "actions": ["GET", "PUT", "DELETE"],'
    ' "coordinates": [[0, 1, 2], [4, 5, 6], [7, 8, 9]]}'
)
FOOS = ('{"foo": "bar"}', '{"foo": "baz"}')


@pytest.mark.parametrize(
    ("pattern", "messages", "expected"),
    [
        ("%AUTHORIZED%", ["[ERROR 401] UNAUTHORIZED REQUEST", "[SUCCESS 200] AUTHORIZED REQUEST"], 2),
        ("%^[hc]at%", ["hat", "cat", "the hat"], 2),
        ("%[hc]at$%", ["hat", "a cat", "cats"], 2),
        ("%colou?r%", ["color", "colour", "colouur"], 2),
        ("%[abcx-z]%", ["b", "y", "d"], 2),
        ("%^a{3,5}$%", ["aaa", "aaaaa", "aa", "aaaaaa"], 2),
        ("%^a{,2}$%", ["a", "aa", "aaa"], 2),
        ("%^starting|^initializing|^shutting down%", ["starting up", "shutting down", "skipping initializing"], 2),
        (r"%\[.\]%", ["[a]", "[]]", "[ab]"], 2),
        (r"%10\.10\.0\.1%", ["10.10.0.1", "10010,051"], 1),
        ("%10.10.0.1%", ["10.10.0.1", "10010,051"], 2),
        ("%ab*c%", ["ac", "abbbc", "bc"], 2),
        ("%ab+c%", ["abc", "abbbc", "ac"], 2),
        ("%.at%", ["4at", "#at", "at"], 2),
        (r"%^\d\D$%", ["1a", "a1"], 1),
        (r"%^\w\W$%", ["_.", "._"], 1),
        (r"%\x3A%", [":", ";"], 1),
        (r"%\x28%", ["(", ")"], 1),
        ("?ERROR ?ARGUMENTS REQUEST", REQUESTS, 3),
        ("[ip=%127\\.0\\.0\\.[1-9]%, user, username, timestamp, request =*.html*, status_code = 4*, bytes]",
         [WEB_404, WEB], 1),
        ("[..., request =*.html*, status_code = 4*, bytes]", [WEB_404, WEB], 1),
        ("[ip, user, username, timestamp, request =*.html*, status_code = 404 || status_code = 410, bytes]",
         [WEB_404, WEB], 1),
        ("[ip, user, ..., status_code, bytes]", [WEB, WEB_404, "a b c"], 2),
        ("[..., request=*.html*, status_code=4*,]", [WEB_404, WEB], 1),
        ("[w1=ERROR, w2]", ORDERED[::-1], 1),
        ("[w1=ERROR || w1=WARNING, w2]", ORDERED[::-1], 2),
        ("[w1!=ERROR && w1!=WARNING, w2]", ORDERED, 2),
        ("[logLevel, date, time, method, url=%/service/resource/[0-9]+$%, response_time]", ORDERED, 1),
        ("[logLevel, date, time, method, url=%/service/resource/[0-9]+/part/[0-9]+$%, response_time]",
         ORDERED[1:], 1),
        ('[timestamp=*Z, request_id="*-*", event]', ['2015-01-01T00:00:00Z\tb-1\t{"a": 1} and more', "x y z"], 1),
        ('{ $.eventType = "UpdateTrail" }', [TRAIL, USERS], 1),
        ("{ $.sourceIPAddress != 123.123.* }", [TRAIL, USERS], 1),
        ('{ $.arrayKey[0] = "value" }', [TRAIL, USERS], 1),
        ("{ $.objectList[1].id = 2 }", [TRAIL, USERS], 1),
        ("{ $.eventType = %Trail% }", [TRAIL, USERS], 1),
        ("{ $.arrayKey[*] = %val.{2}% }", [TRAIL, USERS], 1),
        (r"{ $.* = %111\.111\.111\.1[0-9]{1,2}% }", [TRAIL, USERS], 1),
        ("{ $.['cluster.name'] = \"c\" }", [TRAIL, USERS], 1),
        ("{ $.SomeObject IS NULL }", [TRAIL, USERS], 1),
        ("{ $.SomeOtherObject NOT EXISTS }", [TRAIL, '{"SomeOtherObject": null}', "no JSON"], 1),
        ("{ $.ThisFlag IS TRUE }", [TRAIL, '{"ThisFlag": false}', '{"ThisFlag": "true"}'], 1),
        ("{ $.ThisFlag IS FALSE }", ['{"ThisFlag": false}', TRAIL], 1),
        ('{ ($.user.id = 1) && ($.users[0].email = "John.Doe@example.com") }', [USERS, TRAIL], 1),
        ('{ $.user.email = "John.Stiles@example.com" || $.coordinates[0][1] = nonmatch && $.actions[2] = nomatch }',
         [USERS, TRAIL], 1),
        ('{ ($.user.email = "John.Stiles@example.com" || $.coordinates[0][1] = nonmatch) && $.actions[2] = nomatch }',
         [USERS, TRAIL], 0),
        ('{ ($.user.id = 2 && $.users[0].email = "nonmatch") || $.actions[2] = "GET" }', [USERS, TRAIL], 0),
        ("{ $.users = 1 }", ['{"users": [1, 2, 3]}'], 0),
        ("{ $.users != 1 }", ['{"users": [1, 2, 3]}'], 0),
        ("{$.foo = bar}", FOOS, 1),
        ("{$.foo = bar || $.foo = baz}", FOOS, 2),
        ("{ $.bandwidth > 75 }", ['{"bandwidth": 76}', '{"bandwidth": 75}', '{"bandwidth": "76"}'], 1),
        ("{ $.errorCode = 400}", ['{"errorCode": 400}', '{"errorCode": "400"}', '{"errorCode": 4001}'], 2),
        ("{ $.errorCode != 500 }", ['{"errorCode": 400}', '{"errorCode": 500}', "{}"], 1),
        ("{ $.number[0] = 1e+3 }", ['{"number": [1000]}', '{"number": [1000.0]}', '{"number": [1e2]}'], 2),
        ("{ $.number[0] != 1e-3 }", ['{"number": [0.01]}', '{"number": [0.001]}'], 1),
        ("{ $.latency > +1000 }", ['{"latency": 1001}', '{"latency": 1000}'], 1),
        ("{ $.latency = * }", ['{"latency": 5}', '{"latency": null}', "{}"], 1),
        # The CIS benchmark's pattern for a changed key, as people have it in their accounts.
        ("{($.eventSource = kms.amazonaws.com) && (($.eventName=DisableKey)||($.eventName=ScheduleKeyDeletion))}",
         ['{"eventSource": "kms.amazonaws.com", "eventName": "DisableKey"}', '{"eventName": "DisableKey"}'], 1),
    ],
)  # fmt: skip
def test_examples_of_the_guide(pattern: str, messages: Sequence[str], expected: int) -> None:
    """The first `expected` messages match and the others do not."""
    assert matching(pattern, messages) == list(messages[:expected])


@pytest.mark.parametrize(
    ("pattern", "message", "values"),
    [
        # User guide, "Extracted fields for the log event and filter pattern".
        (
            "[..., request=*.html*, status_code=4*,]",
            '127.0.0.1 - frank [10/Oct/2000:13:25:15 -0700] "GET /products/index.html HTTP/1.0" 404 1534',
            {
                "$status_code": "404",
                "$request": "GET /products/index.html HTTP/1.0",
                "$7": "1534",
                "$4": "10/Oct/2000:13:25:15 -0700",
                "$3": "frank",
                "$2": "-",
                "$1": "127.0.0.1",
            },
        ),
        ("[w1, w2]", "ERROR  two\t[words] ", {"$w1": "ERROR", "$w2": "two\t[words]"}),
        ("[w1, ...]", "a b", {"$w1": "a", "$2": "b"}),
        ("ERROR", "ERROR", {}),
        ("{ $.a = 1 }", '{"a": 1}', {}),
        ("[a = 1, b]", "2 3", None),
    ],
)
def test_extracted_values(pattern: str, message: str, values: Any) -> None:
    assert FilterPattern.parse(pattern).extract(message) == values


def test_patterns_and_messages_made_to_cost_time_do_not() -> None:
    """Each of these takes minutes with an engine that backtracks, or with a scan from every bracket to the end."""
    long = "a" * 50_000
    assert matching("%a*a*a*a*a*a*a*a*b%", [long]) == []
    assert matching("[x = a*a*a*a*a*a*a*b]", [long]) == []
    assert matching("[x, ..., y]", ["[ " * 50_000]) == ["[ " * 50_000]
    assert matching('{ $.a = "a*a*a*a*a*b" }', ['{"a": "' + long + '"}']) == []
    assert FilterPattern.parse("{" + "(" * 500 + "$.a = 1" + ")" * 500 + "}").matches('{"a": 1}')
    assert FilterPattern.parse("{ $.a = 1 }").matches('{"b": ' + "[" * 20_000) is False
