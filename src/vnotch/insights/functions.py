"""THE table of functions: name, arguments, what it gives and how it is computed. The documentation is made from it.

The meanings are those of the user guide ("Boolean, comparison, numeric, datetime, and other functions"); how values of
different kinds meet is in `values.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError, ip_network

from vnotch.insights import addresses, nodes
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.regexes import checked
from vnotch.insights.times import UNITS, WEEK_ORIGIN_MS, capped
from vnotch.insights.values import (
    NOTHING,
    Kind,
    Sql,
    Value,
    bound,
    compare,
    double,
    each,
    integer,
    joined,
    number,
    number_value,
    present,
    sql,
    text,
    text_value,
    truth,
    truth_value,
)


@dataclass(frozen=True)
class Asked:
    """When a query was asked, and of which time: Unix ms, both ends included."""

    now_ms: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Use:
    """A call of a function: its node, its arguments as values (a period has none), and what it may look at."""

    call: nodes.Call
    arguments: Sequence[Value]
    asked: Asked
    timestamp: Callable[[], Value]  # @timestamp; raises MalformedQuery where there is none any more

    def value(self, number: int) -> Value:
        return self.arguments[number]

    def __len__(self) -> int:
        return len(self.arguments)

    def string(self, number: int, what: str) -> nodes.String:
        """An argument that must be a string as it stands in the query."""
        node = self.call.arguments[number]
        if not isinstance(node, nodes.String):
            raise MalformedQuery(f"{what} must be a string", node.place)
        return node

    def period(self, number: int) -> nodes.Period:
        node = self.call.arguments[number]
        if not isinstance(node, nodes.Period):
            raise MalformedQuery("a period should be here", node.place, "such as 30s, 5m, 1h or 1d")
        return node


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


# Numbers


def _numeric(template: str) -> Callable[[Use], Value]:
    """A function of one number."""
    return lambda use: number_value(sql(template, double(number(use.value(0)))))


def _extreme(name: str) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        return number_value(sql(f"{name}({{}})", joined(", ", [double(number(value)) for value in use.arguments])))

    return compiled


def _round(use: Use) -> Value:
    digits = integer(use.value(1)) if len(use) == 2 else Sql("0")
    return number_value(
        sql("round({}, CAST(greatest(-15, least(15, {})) AS INTEGER))", double(number(use.value(0))), digits)
    )


def _haversine(use: Use) -> Value:
    """With the mean radius of the earth, 6371.0088 km (IUGG)."""
    lat1, lon1, lat2, lon2 = (sql("radians({})", double(number(value))) for value in use.arguments)
    return number_value(
        sql(
            "(2 * 6371.0088 * asin(least(1, sqrt(pow(sin(({} - {}) / 2), 2) "
            "+ cos({}) * cos({}) * pow(sin(({} - {}) / 2), 2)))))",
            lat2,
            lat1,
            lat1,
            lat2,
            lon2,
            lon1,
        )
    )


def _to_int(use: Use) -> Value:
    return number_value(sql("CAST(try_cast({} AS INTEGER) AS BIGINT)", integer(use.value(0))))


# Times


def floor_ms(time_ms: Sql, period: nodes.Period) -> Sql:
    """The beginning of the period that a time is in."""
    unit, count = UNITS[period.unit], capped(period.count, period.unit)
    if unit.months:
        return sql(
            "epoch_ms(time_bucket(to_months(CAST({} AS INTEGER)), make_timestamp({} * 1000)))",
            bound(unit.months * count), time_ms,
        )  # fmt: skip
    length = str(unit.milliseconds * count)
    if period.unit == "w":
        origin = str(WEEK_ORIGIN_MS)
        return sql("((({} - " + origin + ") // " + length + ") * " + length + " + " + origin + ")", time_ms)
    return sql("(({} // " + length + ") * " + length + ")", time_ms)


def _ceiling_ms(time_ms: Sql, period: nodes.Period) -> Sql:
    unit, count = UNITS[period.unit], capped(period.count, period.unit)
    before = sql("({} - 1)", time_ms)
    if unit.months:
        return sql(
            "epoch_ms(make_timestamp({} * 1000) + to_months(CAST({} AS INTEGER)))",
            floor_ms(before, period), bound(unit.months * count),
        )  # fmt: skip
    return sql("({} + " + str(unit.milliseconds * count) + ")", floor_ms(before, period))


_YEARS_MS = ("-62135596800000", "253402300799999")
"""The years 1 to 9999, which are all that a time can be."""


def _milliseconds(value: Value) -> Sql:
    if value.kind is Kind.TIME:
        return value.main
    in_years = f"list_transform([{{}}], lambda x: CASE WHEN x BETWEEN {' AND '.join(_YEARS_MS)} THEN x END)[1]"
    return sql(in_years, integer(value))


def _time(of: Sql) -> Value:
    return Value(Kind.TIME, of)


def _bin(use: Use) -> Value:
    return _time(floor_ms(use.timestamp().main, use.period(0)))


_DIRECTIVES = "aAbBdHIjmMpSyYf%FTzZ"


def _format_date(use: Use) -> Value:
    node = use.string(1, "the format of a date")
    directives = node.value.replace("%%", "").split("%")[1:]
    if any(not part or part[0] not in _DIRECTIVES for part in directives):
        raise MalformedQuery("this is no format of a date", node.place, "directives of strftime, such as %Y-%m-%d")
    if len(use) == 3 and use.string(2, "a time zone").value.upper() != "UTC":
        raise MalformedQuery("vnotch knows the time zone UTC only", use.call.arguments[2].place)
    formatted = node.value.replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S")
    return text_value(sql("strftime(make_timestamp({} * 1000), {})", _milliseconds(use.value(0)), bound(formatted)))


# Texts


def _texts(template: str, least: int = 1) -> Callable[[Use], Value]:
    """A function of so many texts, each once in the template, in order."""
    return lambda use: text_value(sql(template, *(text(value) for value in use.arguments)))


def _trim(name: str) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        if len(use) == 1:
            blanks = Sql(r"E' \t\n\r\f\x0b'")
            return text_value(sql(f"{name}({{}}, {{}})", text(use.value(0)), blanks))
        return text_value(sql(f"{name}({{}}, {{}})", text(use.value(0)), text(use.value(1))))

    return compiled


def _substr(use: Use) -> Value:
    start = sql("greatest(0, {})", integer(use.value(1)))
    if len(use) == 2:
        return text_value(sql("substr({}, {} + 1)", text(use.value(0)), start))
    length = sql("greatest(0, {})", integer(use.value(2)))
    return text_value(sql("substr({}, {} + 1, {})", text(use.value(0)), start, length))


def _regex_replace(use: Use) -> Value:
    pattern = use.string(1, "a regular expression")
    checked_pattern = checked(pattern.value, pattern.place)
    return text_value(
        sql("regexp_replace({}, {}, {}, 'g')", text(use.value(0)), bound(checked_pattern), text(use.value(2)))
    )


def _contains(use: Use) -> Value:
    if len(use) == 2:
        return truth_value(each(use.value(0), lambda one: sql("contains({}, {})", text(one), text(use.value(1)))))
    flag = use.call.arguments[2]
    if not isinstance(flag, nodes.Truth):
        raise MalformedQuery("true or false should be here", flag.place)
    form = "contains(lower({}), lower({}))" if flag.value else "contains({}, {})"
    return truth_value(each(use.value(0), lambda one: sql(form, text(one), text(use.value(1)))))


def _starts(name: str) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        return truth_value(each(use.value(0), lambda one: sql(f"{name}({{}}, {{}})", text(one), text(use.value(1)))))

    return compiled


def _hex_to_dec(use: Use) -> Value:
    digits = sql("regexp_extract({}, '^(?:0[xX])?([0-9a-fA-F]{1,15})$', 1)", text(use.value(0)))
    return number_value(sql("try_cast('0x' || {} AS BIGINT)", digits))


def _dec_to_hex(use: Use) -> Value:
    return text_value(
        sql(
            "list_transform([{}], lambda x: CASE WHEN x < 0 THEN '-0x' ELSE '0x' END || lower(hex(abs(x))))[1]",
            integer(use.value(0)),
        )
    )


# Anything


def _coalesce(use: Use) -> Value:
    kinds = {value.kind for value in use.arguments}
    if kinds == {Kind.NUMBER}:
        return number_value(sql("coalesce({})", joined(", ", [double(value.main) for value in use.arguments])))
    if kinds == {Kind.TIME}:
        return _time(sql("coalesce({})", joined(", ", [value.main for value in use.arguments])))
    return text_value(sql("coalesce({})", joined(", ", [text(value) for value in use.arguments])))


def _choose(conditions: list[Value], results: list[Value]) -> Value:
    """The result of the first condition that holds; the last result, which has no condition, where none does."""
    kinds = {value.kind for value in results if value is not NOTHING}
    same = kinds.pop() if len(kinds) == 1 else Kind.TEXT
    if same not in (Kind.NUMBER, Kind.TIME):
        same = Kind.TEXT
    forms = [_as(same, result) for result in results]
    whens = [sql("WHEN {} THEN {}", truth(condition), form) for condition, form in zip(conditions, forms, strict=False)]
    return Value(same, sql("(CASE {} ELSE {} END)", joined(" ", whens), forms[-1]))


def _as(kind: Kind, value: Value) -> Sql:
    if kind is Kind.TEXT:
        return text(value)
    if value is NOTHING:
        return Sql("NULL")
    return double(number(value)) if kind is Kind.NUMBER else value.main


BRANCHES_MAX = 10


def _case(use: Use) -> Value:
    pairs, rest = divmod(len(use), 2)
    if pairs > BRANCHES_MAX:
        raise MalformedQuery(f"case has at most {BRANCHES_MAX} branches", use.call.place)
    default = use.value(len(use) - 1) if rest else NOTHING
    return _choose(list(use.arguments[: 2 * pairs : 2]), [*use.arguments[1 : 2 * pairs : 2], default])


def _if(use: Use) -> Value:
    return _choose([use.value(0)], [use.value(1), use.value(2)])


def _is_numeric(use: Use) -> Value:
    return truth_value(sql("({} IS NOT NULL)", number(use.value(0))))


def _blank(template: str) -> Callable[[Use], Value]:
    return lambda use: truth_value(sql(template, text(use.value(0))))


# JSON


def structure(of: Sql) -> Value:
    """A JSON text as a structure: missing where it is neither a map nor a list."""
    return Value(
        Kind.STRUCTURE,
        sql(
            "list_transform([{}], lambda x: CASE WHEN json_type(x) IN ('OBJECT', 'ARRAY') THEN x END)[1]",
            sql("try_cast({} AS JSON)", of),
        ),
    )


def _json_text(value: Value) -> Sql:
    return sql("CAST({} AS VARCHAR)", value.main) if value.kind is Kind.STRUCTURE else text(value)


def _json_size(use: Use) -> Value:
    return number_value(sql("try(json_array_length({}))", sql("try_cast({} AS JSON)", _json_text(use.value(0)))))


def _json_contains(use: Use) -> Value:
    items = sql("try(from_json({}, '[\"VARCHAR\"]'))", sql("try_cast({} AS JSON)", _json_text(use.value(0))))
    return truth_value(sql("coalesce(list_contains({}, {}), FALSE)", items, text(use.value(1))))


def _split(use: Use) -> Value:
    parts = sql("string_split({}, {})", text(use.value(0)), text(use.value(1)))
    return Value(Kind.STRUCTURE, sql("to_json({})", parts))


# Addresses


def _address(condition: Callable[[Sql], Sql]) -> Callable[[Use], Value]:
    return lambda use: truth_value(each(use.value(0), lambda one: condition(text(one))))


def _is_ip(of: Sql) -> Sql:
    return sql("({} OR {})", addresses.is_ipv4(of), addresses.is_ipv6(of))


def _is_private(of: Sql) -> Sql:
    return sql("({})", joined(" OR ", [addresses.in_ipv4(of, network) for network in addresses.PRIVATE]))


def _in_subnet(version: int | None) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        node = use.string(1, "the subnet")
        network = _network(node, version)
        inside: Callable[[Sql], Sql]
        if isinstance(network, IPv4Network):
            four = network
            inside = lambda of: addresses.in_ipv4(of, four)  # noqa: E731
        else:
            six = network
            inside = lambda of: addresses.in_ipv6(of, six)  # noqa: E731
        return truth_value(each(use.value(0), lambda one: inside(text(one))))

    return compiled


def _network(node: nodes.String, version: int | None) -> IPv4Network | IPv6Network:
    example = "2001:db8::/32" if version == 6 else "192.0.2.0/24"
    try:
        network = ip_network(node.value, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        network = None
    if network is None or "/" not in node.value or (version and network.version != version):
        kind = {4: "an IPv4 subnet", 6: "an IPv6 subnet", None: "a subnet"}[version]
        raise MalformedQuery(f"{node.value} is not {kind}", node.place, f"CIDR notation, such as {example}")
    return network


NUMERIC, DATES, GENERAL, JSON, ADDRESSES, TEXTS = AREAS = (
    "numeric", "datetime", "general", "JSON", "IP address", "string",
)  # fmt: skip

TABLE: tuple[Function, ...] = (
    Function("abs(a)", NUMERIC, "number", "Absolute value.", _numeric("abs({})"), 1, 1),
    Function("ceil(a)", NUMERIC, "number", "The smallest whole number not below `a`.", _numeric("ceil({})"), 1, 1),
    Function("floor(a)", NUMERIC, "number", "The largest whole number not above `a`.", _numeric("floor({})"), 1, 1),
    Function("greatest(a, b, ...)", NUMERIC, "number", "The largest; missing ones do not count.",
             _extreme("greatest"), 1, None),
    Function("least(a, b, ...)", NUMERIC, "number", "The smallest; missing ones do not count.",
             _extreme("least"), 1, None),
    Function("log(a)", NUMERIC, "number", "Natural logarithm; missing unless `a` is above 0.",
             _numeric("try(ln({}))"), 1, 1),
    Function("sqrt(a)", NUMERIC, "number", "Square root; missing where `a` is below 0.",
             _numeric("try(sqrt({}))"), 1, 1),
    Function("round(a, d)", NUMERIC, "number", "Rounded to a whole number, or to `d` decimal places.", _round, 1, 2),
    Function("haversine(lat1, lon1, lat2, lon2)", NUMERIC, "number", "Great-circle distance in km, from degrees.",
             _haversine, 4, 4),
    Function("toNumber(x)", NUMERIC, "number", "The text as a number.", _numeric("{}"), 1, 1),
    Function("toDouble(x)", NUMERIC, "number", "The text as a number.", _numeric("{}"), 1, 1),
    Function("toInt(x)", NUMERIC, "number", "As a whole number of 32 bits, cut towards 0; missing beyond.",
             _to_int, 1, 1),
    Function("toLong(x)", NUMERIC, "number", "As a whole number of 64 bits, cut towards 0; missing beyond.",
             lambda use: number_value(integer(use.value(0))), 1, 1),
    Function("bin(period)", DATES, "time", "`@timestamp`, cut to the beginning of its period: `bin(5m)`.",
             _bin, 1, 1, (0,)),
    Function("datefloor(t, period)", DATES, "time", "A time, cut to the beginning of its period.",
             lambda use: _time(floor_ms(_milliseconds(use.value(0)), use.period(1))), 2, 2, (1,)),
    Function("dateceil(t, period)", DATES, "time", "A time, rounded up to the beginning of the next period.",
             lambda use: _time(_ceiling_ms(_milliseconds(use.value(0)), use.period(1))), 2, 2, (1,)),
    Function("fromMillis(a)", DATES, "time", "Milliseconds since 1970 as a time.",
             lambda use: _time(_milliseconds(use.value(0))), 1, 1),
    Function("toMillis(t)", DATES, "number", "A time as milliseconds since 1970.",
             lambda use: number_value(_milliseconds(use.value(0))), 1, 1),
    Function("now()", DATES, "number", "When the query was started, in seconds since 1970.",
             lambda use: number_value(bound(use.asked.now_ms // 1000)), 0, 0),
    Function("formatDate(t, format, zone)", DATES, "text", "A time in a format of strftime; the zone can be UTC only.",
             _format_date, 2, 3),
    Function("strftime(t, format, zone)", DATES, "text", "As `formatDate`.", _format_date, 2, 3),
    Function("queryStartTime()", DATES, "number", "Where the query's time begins, in milliseconds since 1970.",
             lambda use: number_value(bound(use.asked.start_ms)), 0, 0),
    Function("queryEndTime()", DATES, "number", "Where the query's time ends, in milliseconds since 1970.",
             lambda use: number_value(bound(use.asked.end_ms)), 0, 0),
    Function("queryTimeRange()", DATES, "number", "How long the query's time is, in milliseconds.",
             lambda use: number_value(bound(use.asked.end_ms - use.asked.start_ms)), 0, 0),
    Function("isPresent(x)", GENERAL, "truth", "Whether the event has the field.",
             lambda use: truth_value(present(use.value(0))), 1, 1),
    Function("coalesce(x, y, ...)", GENERAL, "any", "The first that is not missing.", _coalesce, 1, None),
    Function("if(condition, x, y)", GENERAL, "any", "`x` where the condition holds, `y` where not.", _if, 3, 3),
    Function("case(condition, x, ..., default)", GENERAL, "any",
             "The value behind the first of at most 10 conditions that holds.", _case, 2, None),
    Function("isNumeric(x)", GENERAL, "truth", "Whether it reads as a number.", _is_numeric, 1, 1),
    Function("messageSize(x)", GENERAL, "number", "Bytes of a text.",
             lambda use: number_value(sql("strlen({})", text(use.value(0)))), 1, 1),
    Function("jsonParse(x)", JSON, "structure", "A JSON text as a map or a list; missing where it is none.",
             lambda use: structure(_json_text(use.value(0))), 1, 1),
    Function("jsonStringify(x)", JSON, "text", "A map or a list as JSON text.",
             lambda use: text_value(_json_text(use.value(0))), 1, 1),
    Function("jsonArraySize(x)", JSON, "number", "How many elements a JSON list has.", _json_size, 1, 1),
    Function("jsonArrayContains(x, value)", JSON, "truth", "Whether a JSON list has the value; case matters.",
             _json_contains, 2, 2),
    Function("isValidIp(x)", ADDRESSES, "truth", "Whether it is an IPv4 or IPv6 address.", _address(_is_ip), 1, 1),
    Function("isValidIpV4(x)", ADDRESSES, "truth", "Whether it is an IPv4 address.", _address(addresses.is_ipv4), 1, 1),
    Function("isValidIpV6(x)", ADDRESSES, "truth", "Whether it is an IPv6 address.", _address(addresses.is_ipv6), 1, 1),
    Function("isIpInSubnet(x, subnet)", ADDRESSES, "truth", "Whether it is an address of the IPv4 or IPv6 subnet.",
             _in_subnet(None), 2, 2),
    Function("isIpv4InSubnet(x, subnet)", ADDRESSES, "truth", "Whether it is an address of the IPv4 subnet.",
             _in_subnet(4), 2, 2),
    Function("isIpv6InSubnet(x, subnet)", ADDRESSES, "truth", "Whether it is an address of the IPv6 subnet.",
             _in_subnet(6), 2, 2),
    Function("ipv4ToNumber(x)", ADDRESSES, "number", "An IPv4 address as a number.",
             lambda use: number_value(addresses.ipv4_number(text(use.value(0)))), 1, 1),
    Function("isPrivateIP(x)", ADDRESSES, "truth", "Whether it is an address of RFC 1918.",
             _address(_is_private), 1, 1),
    Function("isEmpty(x)", TEXTS, "truth", "Whether it is missing or an empty text.",
             _blank("(coalesce({}, '') = '')"), 1, 1),
    Function("isBlank(x)", TEXTS, "truth", "Whether it is missing, empty or white space only.",
             _blank("(NOT regexp_matches(coalesce({}, ''), '[^ \\t\\n\\r\\f\\v]'))"), 1, 1),
    Function("concat(x, y, ...)", TEXTS, "text", "One after another; missing ones are empty.",
             lambda use: text_value(sql("concat({})", joined(", ", [text(value) for value in use.arguments]))),
             1, None),
    Function("ltrim(x, characters)", TEXTS, "text", "Without white space, or any of the characters, on the left.",
             _trim("ltrim"), 1, 2),
    Function("rtrim(x, characters)", TEXTS, "text", "Without white space, or any of the characters, on the right.",
             _trim("rtrim"), 1, 2),
    Function("trim(x, characters)", TEXTS, "text", "Without white space, or any of the characters, on both sides.",
             _trim("trim"), 1, 2),
    Function("strlen(x)", TEXTS, "number", "Length in Unicode code points.",
             lambda use: number_value(sql("length({})", text(use.value(0)))), 1, 1),
    Function("toupper(x)", TEXTS, "text", "In upper case.", _texts("upper({})"), 1, 1),
    Function("tolower(x)", TEXTS, "text", "In lower case.", _texts("lower({})"), 1, 1),
    Function("substr(x, start, length)", TEXTS, "text", "From `start`, counted from 0; to the end, or so many.",
             _substr, 2, 3),
    Function("replace(x, search, value)", TEXTS, "text", "Every occurrence replaced.",
             _texts("replace({}, {}, {})", 3), 3, 3),
    Function("regexReplace(x, pattern, value)", TEXTS, "text",
             "Every match of the regular expression (RE2) replaced; `\\1` is its first group.", _regex_replace, 3, 3),
    Function("strcontains(x, search, ignoreCase)", TEXTS, "truth", "Whether `search` occurs in it.", _contains, 2, 3),
    Function("startsWith(x, search)", TEXTS, "truth", "Whether it begins so.", _starts("starts_with"), 2, 2),
    Function("endsWith(x, search)", TEXTS, "truth", "Whether it ends so.", _starts("ends_with"), 2, 2),
    Function("split(x, delimiter)", TEXTS, "structure", "The parts as a list.", _split, 2, 2),
    Function("urlencode(x)", TEXTS, "text", "Percent-encoded.", _texts("url_encode({})"), 1, 1),
    Function("urldecode(x)", TEXTS, "text", "Percent-decoded.", _texts("try(url_decode({}))"), 1, 1),
    Function("base64encode(x)", TEXTS, "text", "The UTF-8 bytes in base64.", _texts("to_base64(encode({}))"), 1, 1),
    Function("base64decode(x)", TEXTS, "text", "The text in base64; missing where it is none.",
             _texts("try(decode(from_base64({})))"), 1, 1),
    Function("hexToAscii(x)", TEXTS, "text", "Hexadecimal digits as text; missing where they are none.",
             _texts("try(decode(unhex({})))"), 1, 1),
    Function("hexToDec(x)", TEXTS, "number", "A hexadecimal number, with or without 0x.", _hex_to_dec, 1, 1),
    Function("decToHex(a)", TEXTS, "text", "A whole number in hexadecimal, with 0x.", _dec_to_hex, 1, 1),
)  # fmt: skip

FUNCTIONS = {function.name.lower(): function for function in TABLE}


def check_arguments(call: nodes.Call, name: str, least: int, most: int | None) -> None:
    """Raises MalformedQuery where a call has not as many arguments as it takes."""
    count = len(call.arguments)
    if call.star or not (least <= count and (most is None or count <= most)):
        takes = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        raise MalformedQuery(f"{name} takes {takes} arguments", call.place)


def call_function(use: Use, function: Function) -> Value:
    return function.compile(use)


__all__ = ["AREAS", "FUNCTIONS", "TABLE", "Asked", "Function", "Use", "check_arguments", "compare", "structure"]
