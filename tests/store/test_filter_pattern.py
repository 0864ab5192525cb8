"""Filter patterns against the rules and examples of the CloudWatch Logs user guide, "Filter pattern syntax"."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pytest

from vnotch.errors import InputError
from vnotch.store.filter_pattern import compile_pattern

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
    predicate = compile_pattern(pattern)
    if predicate is None:
        return list(messages)
    found = []
    for message in messages:
        sql = f"SELECT {predicate.sql} FROM (SELECT ?::VARCHAR AS message)"
        # The parameters of the condition come before the one of the message in the text.
        if duckdb.execute(sql, [*predicate.parameters, message]).fetchall() == [(True,)]:
            found.append(message)
    return found


@pytest.mark.parametrize("pattern", ["", " ", "\t"])
def test_an_empty_pattern_matches_everything(pattern: str) -> None:
    assert compile_pattern(pattern) is None


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
        (f"[{FIELDS}, action]", ()),
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
            compile_pattern(pattern)
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
        ('""', 1),
        ("{ $.a = 1 }", 1),
        ("%open", 1),
        ("%a(b)%", 3),
        ("%[%", 1),
        ("[a, b", 6),
        ("[a b]", 4),
        ("[a = ]", 6),
        ("[a > x]", 6),
        ("[..., a, ...]", 10),
        ("[a = 1 || b = 2]", 11),
        ("[a = 1] x", 9),
        ("[]", 2),
        ("%a% %b% %c%", 9),
        ("- a", 2),
    ],
)
def test_what_is_not_understood_names_the_place(pattern: str, place: int) -> None:
    with pytest.raises(InputError, match=rf"Invalid filter pattern: .* at character {place} "):
        compile_pattern(pattern)


def test_a_pattern_has_at_most_1024_characters() -> None:
    assert compile_pattern("a" * 1024) is not None
    with pytest.raises(InputError):
        compile_pattern("a" * 1025)
