"""The language of filter patterns: its grammar, and how a pattern is read into its tree.

Source: CloudWatch Logs user guide, "Filter pattern syntax for metric filters, subscription filters, filter log events,
and Live Tail". What is not understood raises InputError that names the place, and matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from vnotch.errors import InputError
from vnotch.store.filter_pattern.nodes import (
    All,
    AnyOf,
    Column,
    Columns,
    Compare,
    Comparison,
    Condition,
    Is,
    Json,
    Missing,
    Step,
    Syntax,
    Terms,
    Text,
    Wildcard,
)
from vnotch.store.filter_pattern.regexes import Refused, checked_regex

PATTERN_CHARACTERS_MAX = 1024
REGEXES_MAX = 2
WILDCARDS_MAX = 3
"""Wildcard selectors in a JSON pattern; one selector has at most one."""

NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
"""A number in a pattern."""

# Values without quotes are wide here: the guide says alphanumeric ones, and its examples have *, ., /, : and - in them.
# What begins as an operator (`a == 1`), `;` and single quotes are slips, and match nothing that anyone means.
GRAMMAR = r"""
terms: item (_BLANK item)*
item: "?" _text -> optional
    | "-" _BLANK? _text -> excluded
    | _text -> required
_text: word | quoted | regex
word: WORD

columns: "[" column ("," column)* "]"
column: ELLIPSIS -> rest
      | -> unnamed
      | NAME -> named
      | column_any
column_any: column_all ("||" column_all)*
column_all: column_comparison ("&&" column_comparison)*
column_comparison: NAME OPERATOR (quoted | regex | bare)
bare: VALUE

json: "{" any "}"
?any: all ("||" all)*
?all: _one ("&&" _one)*
_one: "(" any ")" | json_comparison | json_is | json_missing
json_comparison: SELECTOR OPERATOR (quoted | regex | json_bare)
json_is: SELECTOR "IS" KEYWORD
json_missing: SELECTOR "NOT" "EXISTS"
json_bare: JSON_VALUE

quoted: QUOTED
regex: REGEX

WORD: /\w+/
QUOTED: /"(\\.|[^"\\])*"/s
REGEX: /%[^%]*%/
OPERATOR: /!=|<=|>=|=|<|>/
ELLIPSIS.2: "..."
NAME: /(?!\.\.)[A-Za-z0-9_$.\-]+/
VALUE: /(?![=<>!])[^\s,\]\[|&"%();']+/
KEYWORD: "NULL" | "TRUE" | "FALSE"
JSON_VALUE: /(?![=<>!])[^\s,\]\[|&"%(){};']+/
SELECTOR: /\$\.(\*|[A-Za-z0-9_\-]+|\['[^']+'\])(\.?\['[^']+'\]|\.\*|\.[A-Za-z0-9_\-]+|\[[0-9]+\]|\[\*\])*/
_BLANK: /\s+/
"""


def parse(pattern: str) -> Syntax:
    """The pattern as a tree. Raises InputError."""
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise InputError(f"Invalid filter pattern: longer than {PATTERN_CHARACTERS_MAX} characters.")
    stripped = pattern.strip()
    if stripped in ("", '""', '" "'):
        return None
    place = _Place(pattern, len(pattern) - len(pattern.lstrip()))
    start = {"{": "json", "[": "columns"}.get(stripped[0], "terms")
    try:
        tree: Any = _parser(start).parse(stripped)
    except Refused as refused:
        raise place.error(refused.what, refused.at) from None
    except UnexpectedInput as error:
        raise place.error(*_words(error, start, stripped)) from None
    _check_counts(tree, place)
    return tree  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Place:
    pattern: str
    offset: int

    def error(self, what: str, at: int) -> InputError:
        begin = self.offset + at
        rest = self.pattern[begin : begin + 20]
        return InputError(f"Invalid filter pattern: {what}, at character {begin + 1} ({rest!r}).")


@lru_cache(maxsize=3)
def _parser(start: str) -> Lark:
    # LALR reads in linear time without recursion, so no pattern of 1,024 characters is too deep or too slow.
    blanks = "" if start == "terms" else "\n%ignore _BLANK\n"
    return Lark(GRAMMAR + blanks, start=start, parser="lalr", lexer="contextual", transformer=_Tree())


_EXPECTED = (
    ({"QUOTED", "VALUE"}, "a value should be here"),
    ({"QUOTED", "JSON_VALUE"}, "a value should be here"),
    ({"SELECTOR"}, "a property selector such as $.name or $.list[0] should be here"),
    ({"KEYWORD"}, "one of NULL, TRUE and FALSE should be here"),
    ({"EXISTS"}, "EXISTS should be here"),
    ({"IS", "NOT", "OPERATOR"}, "one of = != < > <= >=, IS and NOT EXISTS should be here"),
    ({"OPERATOR", "COMMA"}, "one of = != < > <= >=, a comma or ] should be here"),
    ({"OPERATOR"}, "one of = != < > <= >= should be here"),
    ({"COMMA", "ELLIPSIS"}, "the name of a column should be here"),
    ({"COMMA"}, "a comma or ] should be here"),
    ({"NAME"}, "a comparison should be here"),
    ({"RBRACE"}, "&&, || or } should be here"),
    ({"RPAR"}, "&&, || or ) should be here"),
    ({"WORD"}, "a term should be here; other characters than letters, digits and _ need double quotes"),
    ({"_BLANK"}, "terms with other characters than letters, digits and _ need double quotes"),
)
"""What may stand at a place, by the terminals that the parser would take; the first that fits."""


def _words(error: UnexpectedInput, start: str, text: str) -> tuple[str, int]:
    at = error.pos_in_stream
    if at is None or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        at = len(text)
    if isinstance(error, UnexpectedCharacters):
        expected = set(error.allowed or ())
    else:
        expected = set(getattr(error, "accepts", None) or getattr(error, "expected", None) or ())
    rest = text[at:]
    if rest.startswith('"') and "QUOTED" in expected:
        return "the quotation mark is not closed", at
    if rest.startswith("%") and "REGEX" in expected:
        return "the regular expression is not closed by %", at
    if expected == {"$END"}:
        return "the pattern should end here", at
    for terminals, words in _EXPECTED:
        if terminals <= expected:
            return words, at
    return "this is not understood", at


def _check_counts(tree: Any, place: _Place) -> None:
    regexes = wildcards = 0
    for match in re.finditer(r'"(?:\\.|[^"\\])*"|%[^%]*%', place.pattern, re.DOTALL):
        if match.group().startswith("%"):
            regexes += 1
            if regexes > REGEXES_MAX:
                raise place.error(f"a pattern can have {REGEXES_MAX} regular expressions", match.start() - place.offset)
    if isinstance(tree, Json):
        for selector in _selectors(tree.condition):
            here = sum(isinstance(step, Wildcard) for step in selector)
            wildcards += here
            if here > 1:
                raise place.error("a property selector can have one wildcard", 0)
        if wildcards > WILDCARDS_MAX:
            raise place.error(f"a pattern can have {WILDCARDS_MAX} wildcard selectors", 0)


def _selectors(condition: Condition) -> Iterator[tuple[Step, ...]]:
    if isinstance(condition, All | AnyOf):
        for part in condition.parts:
            yield from _selectors(part)
    else:
        yield condition.selector


@v_args(inline=True)
class _Tree(Transformer[Token, Any]):
    """Builds the tree while the parser reduces."""

    def word(self, token: Token) -> Text:
        return Text(str(token))

    def quoted(self, token: Token) -> tuple[Token, Text]:
        return token, Text(re.sub(r'\\(["\\])', r"\1", token[1:-1]))

    def regex(self, token: Token) -> tuple[Token, Text]:
        return token, Text(checked_regex(token[1:-1], (token.start_pos or 0) + 1), is_regex=True)

    def bare(self, token: Token) -> tuple[Token, Text]:
        return token, Text(str(token))

    json_bare = bare

    def required(self, term: Any) -> tuple[str, Text]:
        return "required", _term(term)

    def excluded(self, term: Any) -> tuple[str, Text]:
        return "excluded", _term(term)

    def optional(self, term: Any) -> tuple[str, Text]:
        return "optional", _term(term)

    def terms(self, *items: tuple[str, Text]) -> Terms:
        kinds: dict[str, list[Text]] = {"required": [], "excluded": [], "optional": []}
        for kind, text in items:
            kinds[kind].append(text)
        if kinds["required"] or kinds["excluded"]:
            kinds["optional"] = []
        return Terms(*(tuple(texts) for texts in kinds.values()))

    def rest(self, token: Token) -> Token:
        return token

    def unnamed(self) -> Column:
        return Column(None)

    def named(self, name: Token) -> Column:
        return Column(str(name))

    def column(self, column: Column) -> Column:
        return column

    def column_comparison(self, name: Token, operator: Token, value: tuple[Token, Text]) -> tuple[Token, Comparison]:
        return name, _comparison(operator, value)

    def column_all(self, *comparisons: tuple[Token, Comparison]) -> tuple[tuple[Token, Comparison], ...]:
        return comparisons

    def column_any(self, *alternatives: tuple[tuple[Token, Comparison], ...]) -> Column:
        name = alternatives[0][0][0]
        for other, _ in (pair for comparisons in alternatives for pair in comparisons):
            if other != name:
                raise Refused(f"a comparison of {name} should be here", other.start_pos or 0)
        return Column(str(name), tuple(tuple(comparison for _, comparison in part) for part in alternatives))

    def columns(self, *columns: Column | Token) -> Columns:
        places = [number for number, column in enumerate(columns) if isinstance(column, Token)]
        if len(places) > 1:
            again = columns[places[1]]
            assert isinstance(again, Token)
            raise Refused("a pattern can have ... once", again.start_pos or 0)
        if columns == (Column(None),):
            raise Refused("the name of a column should be here", 1)
        named = [column for column in columns if isinstance(column, Column)]
        at = places[0] if places else len(columns)
        return Columns(tuple(named[:at]), tuple(named[at:]) if places else None)

    def json_comparison(self, selector: Token, operator: Token, value: tuple[Token, Text]) -> Compare:
        return Compare(_steps(selector), _comparison(operator, value))

    def json_is(self, selector: Token, keyword: Token) -> Is:
        return Is(_steps(selector), str(keyword).lower())

    def json_missing(self, selector: Token) -> Missing:
        return Missing(_steps(selector))

    def all(self, *parts: Condition) -> Condition:
        return All(parts) if len(parts) > 1 else parts[0]

    def any(self, *parts: Condition) -> Condition:
        return AnyOf(parts) if len(parts) > 1 else parts[0]

    def json(self, condition: Condition) -> Json:
        return Json(condition)


def _term(term: Text | tuple[Token, Text]) -> Text:
    if isinstance(term, Text):
        return term
    token, text = term
    if not text.text:
        raise Refused("the phrase is empty", token.start_pos or 0)
    return text


def _comparison(operator: Token, value: tuple[Token, Text]) -> Comparison:
    token, text = value
    number = None if text.is_regex or not NUMBER.fullmatch(text.text) else float(text.text)
    if operator not in ("=", "!=") and number is None:
        raise Refused(f"{operator} compares with a number", token.start_pos or 0)
    return Comparison(str(operator), text.text, text.is_regex, number)


_STEP = re.compile(r"\.?\['([^']+)'\]|\.([A-Za-z0-9_\-]+)|\[([0-9]+)\]|\.\*|\[\*\]")


def _steps(selector: Token) -> tuple[Step, ...]:
    steps: list[Step] = []
    for match in _STEP.finditer(selector, 1):
        quoted, name, index = match.groups()
        if index is not None:
            steps.append(int(index))
        else:
            steps.append(quoted or name or Wildcard(match.group()))
    for step in steps:
        if isinstance(step, str) and ('"' in step or "\\" in step):
            raise Refused("a property's name cannot have \" or \\ here", selector.start_pos or 0)
        if isinstance(step, int) and step >= 2**31:
            raise Refused("an index is below 2147483648", selector.start_pos or 0)
    return tuple(steps)
