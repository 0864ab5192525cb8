"""Conditions on IP addresses in SQL. Python's `ipaddress` reads the subnet, DuckDB the addresses."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from vnotch.insights.values import Sql, bound, sql

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP = "[0-9a-fA-F]{1,4}"
IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"


def _ipv6() -> str:
    """RFC 4291, section 2.2: eight groups, or fewer with one `::`, the last two perhaps as an IPv4 address."""
    tail = rf"(?:{_GROUP}:{_GROUP}|{IPV4})"
    forms = [rf"(?:{_GROUP}:){{6}}{tail}", rf"::(?:{_GROUP}:){{5}}{tail}"]
    for before in range(1, 6):
        # `before` groups at most, `::`, then so many groups that at least one is left out.
        forms.append(rf"(?:{_GROUP}(?::{_GROUP}){{0,{before - 1}}})::(?:{_GROUP}:){{{5 - before}}}{tail}")
    forms.append(rf"(?:{_GROUP}(?::{_GROUP}){{0,5}})::{_GROUP}")
    forms.append(rf"(?:{_GROUP}(?::{_GROUP}){{0,6}})::")
    forms.append(rf"::{_GROUP}")
    forms.append("::")
    for after in range(1, 6):
        forms.append(rf"::(?:{_GROUP}:){{{after - 1}}}{tail}")
    return "(?:" + "|".join(forms) + ")"


IPV6 = _ipv6()

PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
"""RFC 1918."""


def is_ipv4(text: Sql) -> Sql:
    return sql(f"regexp_full_match({{}}, '{IPV4}')", text)


def is_ipv6(text: Sql) -> Sql:
    return sql(f"regexp_full_match({{}}, '{IPV6}')", text)


def ipv4_number(text: Sql) -> Sql:
    """The address as a number from 0 to 2**32 - 1; NULL where the text is none."""
    return sql(
        "list_sum(list_transform(string_split(nullif(regexp_extract({}, '^" + IPV4 + "$'), ''), '.'), "
        "lambda x, i: CAST(x AS BIGINT) << CAST(8 * (4 - i) AS INTEGER)))",
        text,
    )


def in_ipv4(text: Sql, network: IPv4Network) -> Sql:
    """The text is an address of the network. First by the octets that all its addresses begin with, which is cheap."""
    whole, rest = divmod(network.prefixlen, 8)
    octets = str(network.network_address).split(".")
    fixed = octets[:whole]
    pattern = list(fixed)
    if whole < 4:
        first = int(octets[whole])
        last = first + 2 ** (8 - rest) - 1
        pattern.append(_OCTET if rest == 0 else "(?:" + "|".join(str(octet) for octet in range(first, last + 1)) + ")")
        pattern += [_OCTET] * (3 - whole)
    matches = sql("regexp_full_match({}, ?)", text)
    matches = Sql(matches.text, (*matches.parameters, r"\.".join(pattern)))
    if not fixed or whole == 4:
        return matches
    return sql("(starts_with({}, {}) AND {})", text, bound(".".join(fixed) + "."), matches)


def in_ipv6(text: Sql, network: IPv6Network) -> Sql:
    """The text is an address of the network: its 32 hexadecimal digits lie between those of the first and the last."""
    first = network.network_address.exploded.replace(":", "")
    last = network.broadcast_address.exploded.replace(":", "")
    return sql(
        "({} AND {} BETWEEN {} AND {})",
        sql("contains({}, ':') AND {}", text, is_ipv6(text)), _digits(text), bound(first), bound(last),
    )  # fmt: skip


def _digits(text: Sql) -> Sql:
    """The 32 hexadecimal digits of a valid IPv6 address."""
    # An IPv4 address at the end becomes two groups.
    groups = sql(
        "list_transform([{}], lambda a: CASE WHEN contains(a, '.') THEN "
        "regexp_replace(a, '[0-9.]+$', '') || list_aggregate(list_transform("
        "string_split(regexp_extract(a, '[0-9.]+$'), '.'), "
        "lambda x, i: lpad(lower(hex(CAST(x AS INTEGER))), 2, '0') || CASE WHEN i = 2 THEN ':' ELSE '' END), "
        "'string_agg', '') ELSE a END)[1]",
        text,
    )
    return sql(
        "list_transform(list_transform([{}], lambda a: [list_filter(string_split(split_part(a, '::', 1), ':'), "
        "lambda g: g != ''), list_filter(string_split(split_part(a, '::', 2), ':'), lambda g: g != '')]), "
        "lambda p: list_aggregate(list_transform(list_concat(list_concat(p[1], "
        "list_resize([]::VARCHAR[], 8 - len(p[1]) - len(p[2]), '0')), p[2]), "
        "lambda g: lpad(lower(g), 4, '0')), 'string_agg', ''))[1]",
        groups,
    )
