"""THE table of functions: name, arguments, what it gives and how it is computed. The documentation is made from it.

The meanings are those of the user guide ("Boolean, comparison, numeric, datetime, and other functions"); how values of
different kinds meet is in `values.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vnotch.insights import addresses, calls, nodes
from vnotch.insights.calls import Use
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.values import (
    Value,
    bound,
    integer,
    joined,
    number_value,
    present,
    sql,
    text,
    text_value,
    truth_value,
)


@dataclass(frozen=True)
class Function:
    """`least` and `most` arguments (None: any number). `periods` are the places of arguments that are periods."""

    signature: str
    area: str
    gives: str
    meaning: str
    compile: Callable[[Use], Value]
    least: int
    most: int | None
    periods: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]


NUMERIC, DATES, GENERAL, JSON, ADDRESSES, TEXTS = AREAS = (
    "numeric", "datetime", "general", "JSON", "IP address", "string",
)  # fmt: skip

TABLE: tuple[Function, ...] = (
    Function("abs(a)", NUMERIC, "number", "Absolute value.", calls.numeric("abs({})"), 1, 1),
    Function("ceil(a)", NUMERIC, "number", "The smallest whole number not below `a`.", calls.numeric("ceil({})"), 1, 1),
    Function("floor(a)", NUMERIC, "number", "The largest whole number not above `a`.",
             calls.numeric("floor({})"), 1, 1),
    Function("greatest(a, b, ...)", NUMERIC, "number", "The largest; missing ones do not count.",
             calls.extreme("greatest"), 1, None),
    Function("least(a, b, ...)", NUMERIC, "number", "The smallest; missing ones do not count.",
             calls.extreme("least"), 1, None),
    Function("log(a)", NUMERIC, "number", "Natural logarithm; missing unless `a` is above 0.",
             calls.numeric(calls.tried("ln(x)")), 1, 1),
    Function("sqrt(a)", NUMERIC, "number", "Square root; missing where `a` is below 0.",
             calls.numeric(calls.tried("sqrt(x)")), 1, 1),
    Function("round(a, d)", NUMERIC, "number", "Rounded to a whole number, or to `d` decimal places.",
             calls.rounded, 1, 2),
    Function("haversine(lat1, lon1, lat2, lon2)", NUMERIC, "number", "Great-circle distance in km, from degrees.",
             calls.haversine, 4, 4),
    Function("toNumber(x)", NUMERIC, "number", "The text as a number.", calls.numeric("{}"), 1, 1),
    Function("toDouble(x)", NUMERIC, "number", "The text as a number.", calls.numeric("{}"), 1, 1),
    Function("toInt(x)", NUMERIC, "number", "As a whole number of 32 bits, cut towards 0; missing beyond.",
             calls.to_int, 1, 1),
    Function("toLong(x)", NUMERIC, "number", "As a whole number of 64 bits, cut towards 0; missing beyond.",
             lambda use: number_value(integer(use.value(0))), 1, 1),
    Function("bin(period)", DATES, "time", "`@timestamp`, cut to the beginning of its period: `bin(5m)`.",
             calls.bin_of, 1, 1, (0,)),
    Function("datefloor(t, period)", DATES, "time", "A time, cut to the beginning of its period.",
             lambda use: calls.time_value(calls.floor_ms(calls.milliseconds(use.value(0)), use.period(1))), 2, 2, (1,)),
    Function("dateceil(t, period)", DATES, "time", "A time, rounded up to the beginning of the next period.",
             lambda use: calls.time_value(calls.ceiling_ms(calls.milliseconds(use.value(0)), use.period(1))),
             2, 2, (1,)),
    Function("fromMillis(a)", DATES, "time", "Milliseconds since 1970 as a time.",
             lambda use: calls.time_value(calls.milliseconds(use.value(0))), 1, 1),
    Function("toMillis(t)", DATES, "number", "A time as milliseconds since 1970.",
             lambda use: number_value(calls.milliseconds(use.value(0))), 1, 1),
    Function("now()", DATES, "number", "When the query was started, in seconds since 1970.",
             lambda use: number_value(bound(use.asked.now_ms // 1000)), 0, 0),
    Function("formatDate(t, format, zone)", DATES, "text", "A time in a format of strftime; the zone can be UTC only.",
             calls.format_date, 2, 3),
    Function("strftime(t, format, zone)", DATES, "text", "As `formatDate`.", calls.format_date, 2, 3),
    Function("queryStartTime()", DATES, "number", "Where the query's time begins, in milliseconds since 1970.",
             lambda use: number_value(bound(use.asked.start_ms)), 0, 0),
    Function("queryEndTime()", DATES, "number", "Where the query's time ends, in milliseconds since 1970.",
             lambda use: number_value(bound(use.asked.end_ms)), 0, 0),
    Function("queryTimeRange()", DATES, "number", "How long the query's time is, in milliseconds.",
             lambda use: number_value(bound(use.asked.end_ms - use.asked.start_ms)), 0, 0),
    Function("isPresent(x)", GENERAL, "truth", "Whether the event has the field.",
             lambda use: truth_value(present(use.value(0))), 1, 1),
    Function("coalesce(x, y, ...)", GENERAL, "any", "The first that is not missing.", calls.first_present, 1, None),
    Function("if(condition, x, y)", GENERAL, "any", "`x` where the condition holds, `y` where not.",
             calls.either, 3, 3),
    Function("case(condition, x, ..., default)", GENERAL, "any",
             "The value behind the first of at most 10 conditions that holds.", calls.first_of, 2, None),
    Function("isNumeric(x)", GENERAL, "truth", "Whether it reads as a number.", calls.is_numeric, 1, 1),
    Function("messageSize(x)", GENERAL, "number", "Bytes of a text.",
             lambda use: number_value(sql("strlen({})", text(use.value(0)))), 1, 1),
    Function("jsonParse(x)", JSON, "structure", "A JSON text as a map or a list; missing where it is none.",
             lambda use: calls.structure(calls.json_text(use.value(0))), 1, 1),
    Function("jsonStringify(x)", JSON, "text", "A map or a list as JSON text.",
             lambda use: text_value(calls.json_text(use.value(0))), 1, 1),
    Function("jsonArraySize(x)", JSON, "number", "How many elements a JSON list has.", calls.json_size, 1, 1),
    Function("jsonArrayContains(x, value)", JSON, "truth", "Whether a JSON list has the value; case matters.",
             calls.json_contains, 2, 2),
    Function("isValidIp(x)", ADDRESSES, "truth", "Whether it is an IPv4 or IPv6 address.",
             calls.address(calls.is_ip), 1, 1),
    Function("isValidIpV4(x)", ADDRESSES, "truth", "Whether it is an IPv4 address.",
             calls.address(addresses.is_ipv4), 1, 1),
    Function("isValidIpV6(x)", ADDRESSES, "truth", "Whether it is an IPv6 address.",
             calls.address(addresses.is_ipv6), 1, 1),
    Function("isIpInSubnet(x, subnet)", ADDRESSES, "truth", "Whether it is an address of the IPv4 or IPv6 subnet.",
             calls.in_subnet(None), 2, 2),
    Function("isIpv4InSubnet(x, subnet)", ADDRESSES, "truth", "Whether it is an address of the IPv4 subnet.",
             calls.in_subnet(4), 2, 2),
    Function("isIpv6InSubnet(x, subnet)", ADDRESSES, "truth", "Whether it is an address of the IPv6 subnet.",
             calls.in_subnet(6), 2, 2),
    Function("ipv4ToNumber(x)", ADDRESSES, "number", "An IPv4 address as a number.",
             lambda use: number_value(addresses.ipv4_number(text(use.value(0)))), 1, 1),
    Function("isPrivateIP(x)", ADDRESSES, "truth", "Whether it is an address of RFC 1918.",
             calls.address(calls.is_private), 1, 1),
    Function("isEmpty(x)", TEXTS, "truth", "Whether it is missing or an empty text.",
             calls.blank("(coalesce({}, '') = '')"), 1, 1),
    Function("isBlank(x)", TEXTS, "truth", "Whether it is missing, empty or white space only.",
             calls.blank("(NOT regexp_matches(coalesce({}, ''), '[^ \\t\\n\\r\\f\\v]'))"), 1, 1),
    Function("concat(x, y, ...)", TEXTS, "text", "One after another; missing ones are empty.",
             lambda use: text_value(sql("concat({})", joined(", ", [text(value) for value in use.arguments]))),
             1, None),
    Function("ltrim(x, characters)", TEXTS, "text", "Without white space, or any of the characters, on the left.",
             calls.trim("ltrim"), 1, 2),
    Function("rtrim(x, characters)", TEXTS, "text", "Without white space, or any of the characters, on the right.",
             calls.trim("rtrim"), 1, 2),
    Function("trim(x, characters)", TEXTS, "text", "Without white space, or any of the characters, on both sides.",
             calls.trim("trim"), 1, 2),
    Function("strlen(x)", TEXTS, "number", "Length in Unicode code points.",
             lambda use: number_value(sql("length({})", text(use.value(0)))), 1, 1),
    Function("toupper(x)", TEXTS, "text", "In upper case.", calls.texts("upper({})"), 1, 1),
    Function("tolower(x)", TEXTS, "text", "In lower case.", calls.texts("lower({})"), 1, 1),
    Function("substr(x, start, length)", TEXTS, "text", "From `start`, counted from 0; to the end, or so many.",
             calls.substr, 2, 3),
    Function("replace(x, search, value)", TEXTS, "text", "Every occurrence replaced.",
             calls.texts("replace({}, {}, {})"), 3, 3),
    Function("regexReplace(x, pattern, value)", TEXTS, "text",
             "Every match of the regular expression (RE2) replaced; `\\1` is its first group.",
             calls.regex_replace, 3, 3),
    Function("strcontains(x, search, ignoreCase)", TEXTS, "truth", "Whether `search` occurs in it.",
             calls.contains, 2, 3),
    Function("startsWith(x, search)", TEXTS, "truth", "Whether it begins so.", calls.starts("starts_with"), 2, 2),
    Function("endsWith(x, search)", TEXTS, "truth", "Whether it ends so.", calls.starts("ends_with"), 2, 2),
    Function("split(x, delimiter)", TEXTS, "structure", "The parts as a list.", calls.split, 2, 2),
    Function("urlencode(x)", TEXTS, "text", "Percent-encoded.", calls.texts("url_encode({})"), 1, 1),
    Function("urldecode(x)", TEXTS, "text", "Percent-decoded.", calls.texts(calls.tried("url_decode(x)")), 1, 1),
    Function("base64encode(x)", TEXTS, "text", "The UTF-8 bytes in base64.",
             calls.texts("to_base64(encode({}))"), 1, 1),
    Function("base64decode(x)", TEXTS, "text", "The text in base64; missing where it is none.",
             calls.texts(calls.tried("decode(from_base64(x))")), 1, 1),
    Function("hexToAscii(x)", TEXTS, "text", "Hexadecimal digits as text; missing where they are none.",
             calls.texts(calls.tried("decode(unhex(x))")), 1, 1),
    Function("hexToDec(x)", TEXTS, "number", "A hexadecimal number, with or without 0x.", calls.hex_to_dec, 1, 1),
    Function("decToHex(a)", TEXTS, "text", "A whole number in hexadecimal, with 0x.", calls.dec_to_hex, 1, 1),
)  # fmt: skip

FUNCTIONS = {function.name.lower(): function for function in TABLE}


def check_arguments(call: nodes.Call, name: str, least: int, most: int | None) -> None:
    """Raises MalformedQuery where a call has not as many arguments as it takes."""
    count = len(call.arguments)
    if call.star or not (least <= count and (most is None or count <= most)):
        takes = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        raise MalformedQuery(f"{name} takes {takes} arguments", call.place)
