"""The grammar of the language, and the text of a query -> nodes.

One LALR(1) grammar (lark): a text has one reading or none. Keywords and functions are known in any case of letters,
names of fields are as they stand. What lark builds is made into nodes at once, so that no tree of unbounded depth is
ever walked: a node knows its depth, and one too deep is refused.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from vnotch.insights import nodes
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.nodes import Place
from vnotch.insights.times import COUNT_MAX, UNIT_OF

KEYWORDS = (
    "_fields", "_display", "_filter", "_stats", "_sort", "_limit", "_dedup", "_parse", "_by", "_as",
    "_or", "_and", "_in", "_like", "not", "asc", "desc",
)  # fmt: skip
"""Names of terminals. A keyword ends where its word ends: `andstPort` is no `and stPort`, `filterIndex` no filter."""

CHARACTERS_MAX = 10_000
COMMANDS_MAX = 100
DEPTH_MAX = 40
OPERANDS_MAX = 500
"""Of one expression: terms of a sum, alternatives of an `or`, items of a list."""

LIMIT_MAX = 100_000

NOT_UNDERSTOOD = (
    "anomaly", "diff", "expand", "filterIndex", "head", "join", "lookup", "pattern", "SOURCE", "tail", "unmask",
    "unnest",
)  # fmt: skip
"""Commands that exist at AWS, or once did, and not here. They are refused by name."""

GRAMMAR = r"""
start: command ("|" command)*

?command: fields | display | filter | stats | sort | limit | dedup | parse

fields: _FIELDS items
display: _DISPLAY items
filter: _FILTER _expression
stats: _STATS items [_BY items]
sort: _SORT [_BY] key ("," key)*
limit: _LIMIT NUMBER
dedup: _DEDUP name ("," name)*
parse: _PARSE [name] STRING _AS name ("," name)* -> parse_glob
     | _PARSE [name] REGEX                         -> parse_regex

items: item ("," item)*
item: _expression [_AS name]
key: name [ASC | DESC]

_expression: either
?either: both (_OR both)*
?both: negation (_AND negation)*
?negation: NOT negation -> inverse
         | comparison
?comparison: sum
           | sum COMPARE sum         -> compared
           | sum [NOT] _IN list    -> within
           | sum [NOT] _LIKE pattern -> like
           | sum _MATCHES pattern     -> matches
list: "[" _expression ("," _expression)* "]"
pattern: STRING | REGEX
?sum: product (SIGN product)*
?product: signed (TIMES signed)*
?signed: SIGN signed -> sign
       | power
?power: atom (POWER signed)?
?atom: NUMBER -> number
     | STRING -> string
     | PERIOD -> period
     | TRUTH  -> truth
     | name
     | call
     | "(" _expression ")"
call: NAME "(" [STAR | _expression ("," _expression)*] ")"
name: NAME

KEYWORDS
_MATCHES.2: "=~"
COMPARE: "!=" | "<=" | ">=" | "=" | "<" | ">"
SIGN: "+" | "-"
TIMES: STAR | "/" | "%"
STAR: "*"
POWER: "^"
TRUTH.2: /(?:true|false)(?![\w.@\[`(])/i
PERIOD.2: /[0-9]+(?:PERIODS)(?!\w)/i
NUMBER: /(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[-+]?[0-9]+)?/i
NAME: /(?:@{0,2}[a-z_]\w*|`[^`\n]+`)(?:\.(?:[\w@]+|`[^`\n]+`)|\[[0-9]+\])*/i
STRING: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/s
REGEX: /\/(?:[^\/\\\n]|\\[^\n])+\//
COMMENT: /#[^\n]*/
BLANK: /[ \t\r\n\f\v\u00a0]+/
%ignore COMMENT
%ignore BLANK
"""

_KEY = re.compile(r"`([^`\n]+)`|\[([0-9]+)\]|([\w@]+)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\"}


def parse_query(text: str) -> nodes.Query:
    """The query as nodes. Raises MalformedQuery with the place; no other exception, whatever the text."""
    if len(text) > CHARACTERS_MAX:
        raise MalformedQuery(
            f"the query is longer than {CHARACTERS_MAX} characters", Place(CHARACTERS_MAX, len(text))
        ).located(text)
    try:
        return _Builder(text).query(_parser().parse(text))
    except UnexpectedInput as error:
        raise _unexpected(error, text).located(text) from None
    except MalformedQuery as error:
        raise error.located(text) from None


@cache
def _parser() -> Lark:
    """The grammar's tables take longer than any query: they are made once."""
    spellings = "|".join(sorted(UNIT_OF, key=len, reverse=True))
    keywords = "\n".join(rf"{name.upper()}.1: /{name.strip('_')}(?![\w.])/i" for name in KEYWORDS)
    grammar = GRAMMAR.replace("PERIODS", spellings).replace("KEYWORDS", keywords)
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def _unexpected(error: UnexpectedInput, text: str) -> MalformedQuery:
    if isinstance(error, UnexpectedToken):
        token = error.token
        if token.type == "$END":
            return MalformedQuery("unexpected symbol found <EOF>", Place(len(text), len(text)))
        start = token.start_pos or 0
        symbol, place = str(token), Place(start, start + len(token))
        return MalformedQuery(f"unexpected symbol found {_shown(symbol)}", place, _remedy(symbol, error))
    start = error.pos_in_stream or 0
    symbol = text[start : start + 1]
    if isinstance(error, UnexpectedCharacters) and symbol in "\"'`/":
        what = {"/": "regular expression", "`": "name"}.get(symbol, "string")
        return MalformedQuery(f"unexpected symbol found {symbol}", Place(start, len(text)), f"this {what} has no end")
    return MalformedQuery(f"unexpected symbol found {_shown(symbol)}", Place(start, start + 1))


def _shown(symbol: str) -> str:
    return symbol if len(symbol) <= 40 else symbol[:40] + "..."


def _remedy(symbol: str, error: UnexpectedToken) -> str | None:
    """What may help where the symbol is no accident."""
    known = {name.lower(): name for name in NOT_UNDERSTOOD}
    if "_FIELDS" in error.accepts | error.expected:
        if symbol.lower() in known:
            return f"vnotch does not understand the command {known[symbol.lower()]}"
        return "a command is one of " + ", ".join(COMMANDS)
    if symbol in ("==", "<>", "&&", "||", "!"):
        return "operators are = != < <= > >= and or not"
    return None


COMMANDS = ("fields", "display", "filter", "stats", "sort", "limit", "dedup", "parse")


class _Builder:
    """Makes nodes of lark's tree: children before parents, without recursion, so that depth can be bounded here."""

    def __init__(self, text: str) -> None:
        self._text = text

    def query(self, tree: Tree[Token]) -> nodes.Query:
        made: dict[int, Any] = {}
        depths: dict[int, int] = {}
        for part in tree.iter_subtrees():
            children = [made.get(id(child), child) for child in part.children]
            place = Place(getattr(part.meta, "start_pos", 0), getattr(part.meta, "end_pos", len(self._text)))
            depth = 1 + max((depths.get(id(child), 0) for child in part.children), default=0)
            if depth > DEPTH_MAX:
                raise MalformedQuery(f"expressions nest deeper than {DEPTH_MAX}", place)
            if part.data != "start" and len(children) > 2 * OPERANDS_MAX:
                raise MalformedQuery(f"more than {OPERANDS_MAX} parts in one expression", place)
            depths[id(part)] = depth
            made[id(part)] = getattr(self, f"_{part.data}")(children, place)
        query = made[id(tree)]
        assert isinstance(query, nodes.Query)
        return query

    # Commands

    def _start(self, children: Any, place: Place) -> nodes.Query:
        if len(children) > COMMANDS_MAX:
            raise MalformedQuery(f"more than {COMMANDS_MAX} commands", children[COMMANDS_MAX].place)
        return nodes.Query(tuple(children))

    def _fields(self, children: Any, place: Place) -> nodes.Fields:
        return nodes.Fields(children[0], place)

    def _display(self, children: Any, place: Place) -> nodes.Display:
        return nodes.Display(children[0], place)

    def _filter(self, children: Any, place: Place) -> nodes.Filter:
        return nodes.Filter(children[0], place)

    def _stats(self, children: Any, place: Place) -> nodes.Stats:
        return nodes.Stats(children[0], children[1] or (), place)

    def _sort(self, children: Any, place: Place) -> nodes.Sort:
        return nodes.Sort(tuple(children), place)

    def _key(self, children: Any, place: Place) -> nodes.SortKey:
        name, order = children
        return nodes.SortKey(name, order is not None and order.type == "DESC")

    def _limit(self, children: Any, place: Place) -> nodes.Limit:
        (token,) = children
        if not token.isdigit() or not 1 <= (rows := int(token[:9])) <= LIMIT_MAX:
            raise MalformedQuery(f"limit takes a number from 1 to {LIMIT_MAX}", _of(token))
        return nodes.Limit(rows, place)

    def _dedup(self, children: Any, place: Place) -> nodes.Dedup:
        return nodes.Dedup(tuple(children), place)

    def _parse_glob(self, children: Any, place: Place) -> nodes.ParseGlob:
        source, pattern, *names = children
        return nodes.ParseGlob(source or nodes.MESSAGE, _string(pattern), tuple(names), place)

    def _parse_regex(self, children: Any, place: Place) -> nodes.ParseRegex:
        source, regex = children
        return nodes.ParseRegex(source or nodes.MESSAGE, _regex(regex), place)

    def _items(self, children: Any, place: Place) -> tuple[nodes.Item, ...]:
        return tuple(children)

    def _item(self, children: Any, place: Place) -> nodes.Item:
        expression, alias = children
        if alias is None:
            written = " ".join(self._text[place.start : place.end].split())
            label = written if not isinstance(expression, nodes.Name) else name_text(expression)
            return nodes.Item(expression, None, label, place)
        return nodes.Item(expression, ".".join(alias.keys), ".".join(alias.keys), place)

    # Expressions

    def _either(self, children: Any, place: Place) -> nodes.Logic:
        return nodes.Logic("or", tuple(children), place)

    def _both(self, children: Any, place: Place) -> nodes.Logic:
        return nodes.Logic("and", tuple(children), place)

    def _inverse(self, children: Any, place: Place) -> nodes.Not:
        return nodes.Not(children[-1], place)

    def _compared(self, children: Any, place: Place) -> nodes.Comparison:
        left, operator, right = children
        return nodes.Comparison(str(operator), left, right, place)

    def _within(self, children: Any, place: Place) -> nodes.In:
        operand, negated, items = children
        return nodes.In(operand, items, negated is not None, place)

    def _list(self, children: Any, place: Place) -> tuple[nodes.Expression, ...]:
        return tuple(children)

    def _like(self, children: Any, place: Place) -> nodes.Like:
        operand, negated, pattern = children
        return nodes.Like(operand, pattern, negated is not None, place)

    def _matches(self, children: Any, place: Place) -> nodes.Like:
        return nodes.Like(children[0], children[1], False, place)

    def _pattern(self, children: Any, place: Place) -> nodes.String | nodes.Regex:
        (token,) = children
        return _regex(token) if token.type == "REGEX" else _string(token)

    def _sum(self, children: Any, place: Place) -> nodes.Arithmetic:
        first, *rest = children
        pairs = tuple((str(operator), operand) for operator, operand in zip(rest[::2], rest[1::2], strict=True))
        return nodes.Arithmetic(first, pairs, place)

    _product = _sum
    _power = _sum

    def _sign(self, children: Any, place: Place) -> nodes.Expression:
        sign, operand = children
        if sign == "+":
            raise MalformedQuery("unexpected symbol found +", _of(sign))
        return nodes.Negative(operand, place)

    def _number(self, children: Any, place: Place) -> nodes.Number:
        if not math.isfinite(float(children[0])):
            raise MalformedQuery(f"the number {_shown(children[0])} is too large", place)
        return nodes.Number(str(children[0]), place)

    def _string(self, children: Any, place: Place) -> nodes.String:
        return _string(children[0])

    def _truth(self, children: Any, place: Place) -> nodes.Truth:
        return nodes.Truth(children[0].lower() == "true", place)

    def _period(self, children: Any, place: Place) -> nodes.Period:
        match = re.fullmatch(r"([0-9]+)([a-z]+)", children[0].lower())
        assert match is not None
        if len(match[1]) > 9 or not 1 <= int(match[1]) <= COUNT_MAX:
            raise MalformedQuery(f"a period has a number from 1 to {COUNT_MAX}", place)
        return nodes.Period(int(match[1]), UNIT_OF[match[2]], place)

    def _call(self, children: Any, place: Place) -> nodes.Call:
        name, *arguments = (child for child in children if child is not None)
        star = any(isinstance(argument, Token) for argument in arguments)
        return nodes.Call(name.lower(), () if star else tuple(arguments), star, place)

    def _name(self, children: Any, place: Place) -> nodes.Name:
        if children[0].lower() == "null":  # a field of that name needs backticks
            raise MalformedQuery("there is no null", place, "isPresent(x) and not isPresent(x) ask for what is missing")
        return nodes.Name(_keys(children[0]), place)


def _of(token: Token) -> Place:
    return Place(token.start_pos or 0, token.end_pos or 0)


def _string(token: Token) -> nodes.String:
    """`\\n`, `\\t`, `\\r`, quotes and the backslash are escapes; any other backslash is itself."""
    text = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[0]), token[1:-1])
    return nodes.String(text, _of(token))


def _regex(token: Token) -> nodes.Regex:
    return nodes.Regex(token[1:-1].replace("\\/", "/"), _of(token))


def _keys(text: str) -> tuple[str, ...]:
    return tuple(next(group for group in match.groups() if group is not None) for match in _KEY.finditer(text))


def name_text(name: nodes.Name) -> str:
    """A name as answers show it, without backticks."""
    return ".".join(name.keys)
