"""How functions are computed: what each makes of its arguments, as SQL. `functions.TABLE` says what they are."""

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
    double,
    each,
    integer,
    joined,
    number,
    number_value,
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


# Numbers


def tried(function: str) -> str:
    """A template: a function of `x` whose errors are NULL, of a value that is read once.

    TRY itself takes no expression that may raise an error by intention, as a message does where its format is unknown;
    of the parameter of a lambda it asks nothing.
    """
    return f"list_transform([{{}}], lambda x: try({function}))[1]"


def numeric(template: str) -> Callable[[Use], Value]:
    """A function of one number."""
    return lambda use: number_value(sql(template, double(number(use.value(0)))))


def extreme(name: str) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        return number_value(sql(f"{name}({{}})", joined(", ", [double(number(value)) for value in use.arguments])))

    return compiled


def rounded(use: Use) -> Value:
    digits = integer(use.value(1)) if len(use) == 2 else Sql("0")
    return number_value(sql("round({}, CAST({} AS INTEGER))", double(number(use.value(0))), _between(digits, -15, 15)))


def haversine(use: Use) -> Value:
    """With the mean radius of the earth, 6371.0088 km (IUGG)."""
    lat1, lon1, lat2, lon2 = (sql("radians({})", double(number(value))) for value in use.arguments)
    half = sql(
        "sqrt(pow(sin(({} - {}) / 2), 2) + cos({}) * cos({}) * pow(sin(({} - {}) / 2), 2))",
        lat2, lat1, lat1, lat2, lon2, lon1,
    )  # fmt: skip
    return number_value(sql("(2 * 6371.0088 * asin({}))", _between(half, 0, 1)))


def _between(value: Sql, least: int, greatest: int) -> Sql:
    """A number cut to a range, and missing where it is: DuckDB's least and greatest pass over what is missing."""
    return sql(
        f"(CASE WHEN {{}} < {least} THEN {least} WHEN {{}} > {greatest} THEN {greatest} ELSE {{}} END)",
        value, value, value,
    )  # fmt: skip


def to_int(use: Use) -> Value:
    return number_value(sql("CAST(try_cast({} AS INTEGER) AS BIGINT)", integer(use.value(0))))


# Times


def floor_ms(time_ms: Sql, period: nodes.Period) -> Sql:
    """The beginning of the period that a time is in."""
    unit, count = UNITS[period.unit], capped(period.count, period.unit)
    if unit.months:
        months = f"to_months(CAST({unit.months * count} AS INTEGER))"
        return sql(tried(f"epoch_ms(time_bucket({months}, make_timestamp(x * 1000)))"), time_ms)
    length = str(unit.milliseconds * count)
    if period.unit == "w":
        origin = str(WEEK_ORIGIN_MS)
        return sql("((({} - " + origin + ") // " + length + ") * " + length + " + " + origin + ")", time_ms)
    return sql("(({} // " + length + ") * " + length + ")", time_ms)


def ceiling_ms(time_ms: Sql, period: nodes.Period) -> Sql:
    unit, count = UNITS[period.unit], capped(period.count, period.unit)
    before = sql("({} - 1)", time_ms)
    if unit.months:
        later = f"epoch_ms(make_timestamp(x * 1000) + to_months(CAST({unit.months * count} AS INTEGER)))"
        return sql(tried(later), floor_ms(before, period))
    return sql("({} + " + str(unit.milliseconds * count) + ")", floor_ms(before, period))


_YEARS_MS = ("-62135596800000", "253402300799999")
"""The years 1 to 9999, which are all that a time can be."""


def milliseconds(value: Value) -> Sql:
    if value.kind is Kind.TIME:
        return value.main
    in_years = f"list_transform([{{}}], lambda x: CASE WHEN x BETWEEN {' AND '.join(_YEARS_MS)} THEN x END)[1]"
    return sql(in_years, integer(value))


def time_value(of: Sql) -> Value:
    return Value(Kind.TIME, of)


def bin_of(use: Use) -> Value:
    return time_value(floor_ms(use.timestamp().main, use.period(0)))


_DIRECTIVES = "aAbBdHIjmMpSyYf%FTzZ"


def format_date(use: Use) -> Value:
    node = use.string(1, "the format of a date")
    directives = node.value.replace("%%", "").split("%")[1:]
    if not directives or any(not part or part[0] not in _DIRECTIVES for part in directives):
        raise MalformedQuery("this is no format of a date", node.place, "directives of strftime, such as %Y-%m-%d")
    if len(use) == 3 and use.string(2, "a time zone").value.upper() != "UTC":
        raise MalformedQuery("vnotch knows the time zone UTC only", use.call.arguments[2].place)
    formatted = node.value.replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S")
    return text_value(sql("strftime(make_timestamp({} * 1000), {})", milliseconds(use.value(0)), bound(formatted)))


# Texts


def texts(template: str) -> Callable[[Use], Value]:
    """A function of so many texts, each once in the template, in order."""
    return lambda use: text_value(sql(template, *(text(value) for value in use.arguments)))


def trim(name: str) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        if len(use) == 1:
            blanks = Sql(r"E' \t\n\r\f\x0b'")
            return text_value(sql(f"{name}({{}}, {{}})", text(use.value(0)), blanks))
        return text_value(sql(f"{name}({{}}, {{}})", text(use.value(0)), text(use.value(1))))

    return compiled


_CHARACTERS_MAX = 2**31 - 2
"""More than a text has, and what DuckDB's substr takes."""


def substr(use: Use) -> Value:
    start = _between(integer(use.value(1)), 0, _CHARACTERS_MAX)
    if len(use) == 2:
        return text_value(sql("substr({}, {} + 1)", text(use.value(0)), start))
    length = _between(integer(use.value(2)), 0, _CHARACTERS_MAX)
    return text_value(sql("substr({}, {} + 1, {})", text(use.value(0)), start, length))


def regex_replace(use: Use) -> Value:
    pattern = use.string(1, "a regular expression")
    checked_pattern = checked(pattern.value, pattern.place)
    return text_value(
        sql("regexp_replace({}, {}, {}, 'g')", text(use.value(0)), bound(checked_pattern), text(use.value(2)))
    )


def contains(use: Use) -> Value:
    if len(use) == 2:
        return truth_value(each(use.value(0), lambda one: sql("contains({}, {})", text(one), text(use.value(1)))))
    flag = use.call.arguments[2]
    if not isinstance(flag, nodes.Truth):
        raise MalformedQuery("true or false should be here", flag.place)
    form = "contains(lower({}), lower({}))" if flag.value else "contains({}, {})"
    return truth_value(each(use.value(0), lambda one: sql(form, text(one), text(use.value(1)))))


def starts(name: str) -> Callable[[Use], Value]:
    def compiled(use: Use) -> Value:
        return truth_value(each(use.value(0), lambda one: sql(f"{name}({{}}, {{}})", text(one), text(use.value(1)))))

    return compiled


def hex_to_dec(use: Use) -> Value:
    digits = sql("regexp_extract({}, '^(?:0[xX])?([0-9a-fA-F]{1,15})$', 1)", text(use.value(0)))
    return number_value(sql("try_cast('0x' || {} AS BIGINT)", digits))


def dec_to_hex(use: Use) -> Value:
    return text_value(
        sql(
            "list_transform([{}], lambda x: CASE WHEN x < 0 THEN '-0x' ELSE '0x' END || lower(hex(abs(x))))[1]",
            integer(use.value(0)),
        )
    )


# Anything


def first_present(use: Use) -> Value:
    kinds = {value.kind for value in use.arguments}
    if kinds == {Kind.NUMBER}:
        return number_value(sql("coalesce({})", joined(", ", [double(value.main) for value in use.arguments])))
    if kinds == {Kind.TIME}:
        return time_value(sql("coalesce({})", joined(", ", [value.main for value in use.arguments])))
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


def first_of(use: Use) -> Value:
    pairs, rest = divmod(len(use), 2)
    if pairs > BRANCHES_MAX:
        raise MalformedQuery(f"case has at most {BRANCHES_MAX} branches", use.call.place)
    default = use.value(len(use) - 1) if rest else NOTHING
    return _choose(list(use.arguments[: 2 * pairs : 2]), [*use.arguments[1 : 2 * pairs : 2], default])


def either(use: Use) -> Value:
    return _choose([use.value(0)], [use.value(1), use.value(2)])


def is_numeric(use: Use) -> Value:
    return truth_value(sql("({} IS NOT NULL)", number(use.value(0))))


def blank(template: str) -> Callable[[Use], Value]:
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


def json_text(value: Value) -> Sql:
    return sql("CAST({} AS VARCHAR)", value.main) if value.kind is Kind.STRUCTURE else text(value)


def json_size(use: Use) -> Value:
    return number_value(sql(tried("json_array_length(x)"), sql("try_cast({} AS JSON)", json_text(use.value(0)))))


def json_contains(use: Use) -> Value:
    items = sql(tried("from_json(x, '[\"VARCHAR\"]')"), sql("try_cast({} AS JSON)", json_text(use.value(0))))
    return truth_value(sql("coalesce(list_contains({}, {}), FALSE)", items, text(use.value(1))))


def split(use: Use) -> Value:
    parts = sql("string_split({}, {})", text(use.value(0)), text(use.value(1)))
    return Value(Kind.STRUCTURE, sql("to_json({})", parts))


# Addresses


def address(condition: Callable[[Sql], Sql]) -> Callable[[Use], Value]:
    return lambda use: truth_value(each(use.value(0), lambda one: condition(text(one))))


def is_ip(of: Sql) -> Sql:
    return sql("({} OR {})", addresses.is_ipv4(of), addresses.is_ipv6(of))


def is_private(of: Sql) -> Sql:
    return sql("({})", joined(" OR ", [addresses.in_ipv4(of, network) for network in addresses.PRIVATE]))


def in_subnet(version: int | None) -> Callable[[Use], Value]:
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
