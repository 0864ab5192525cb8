"""Filter patterns of CloudWatch Logs, compiled to a condition on the message.

Understood (CloudWatch Logs user guide, "Filter pattern syntax"):
    ""                                   everything
    ERROR "two words" -timeout           all terms occur, none of the excluded; case matters
    ?ERROR ?WARN                         any of them; ignored where another kind of term stands beside them
    %10\\.0\\.[0-9]+%                      a regular expression in AWS's subset, without parentheses
    [a, b = 10.0.*, c >= 400 || c = 7]   columns split on blanks; "..." and [...] in the message are one column
    [..., action = REJECT, status]       any number of columns before
JSON patterns (`{ $.a = 1 }`) and all else that is not understood raise InputError with the place, and match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vnotch.errors import InputError
from vnotch.store.lake import Predicate

PATTERN_CHARACTERS_MAX = 1024
REGEXES_MAX = 2
REGEX_TEXT = re.compile(r"(?:[A-Za-z0-9:_#=@/;,\-^$?\[\]{}|*+. ]|\\[dswDSW]|\\x[0-9A-Fa-f]{2}|\\[^A-Za-z0-9()])*")
WORD = re.compile(r"[^\W]+")
NAME = re.compile(r"[A-Za-z0-9_$.\-]+")
NUMBER = r"[-+]?[0-9]+(\.[0-9]+)?"
COLUMNS = r"""regexp_extract_all(message, '"[^"]*"|\[[^\]]*\]|\S+')"""
UNWRAPPED = r"""regexp_replace({}, '^(?:"(.*)"|\[(.*)\])$', '\1\2')"""


def compile_pattern(pattern: str) -> Predicate | None:
    """The pattern as a condition on `message`; None where it matches everything. Raises InputError."""
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise InputError(f"Invalid filter pattern: longer than {PATTERN_CHARACTERS_MAX} characters.")
    reader = _Reader(pattern)
    reader.skip_blanks()
    if reader.at_end():
        return None
    if reader.peek("{"):
        raise reader.error("JSON patterns are not supported yet")
    predicate = _columns(reader) if reader.peek("[") else _terms(reader)
    reader.skip_blanks()
    if not reader.at_end():
        raise reader.error("the pattern should end here")
    return predicate


class _Reader:
    """The pattern and how far it has been read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.regexes = 0

    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def peek(self, expected: str) -> bool:
        return self.text.startswith(expected, self.at)

    def take(self, expected: str) -> bool:
        if not self.peek(expected):
            return False
        self.at += len(expected)
        return True

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None or not found.group():
            return None
        self.at = found.end()
        return found.group()

    def skip_blanks(self) -> None:
        while not self.at_end() and self.text[self.at].isspace():
            self.at += 1

    def error(self, what: str, at: int | None = None) -> InputError:
        place = self.at if at is None else at
        rest = self.text[place : place + 20]
        return InputError(f"Invalid filter pattern: {what}, at character {place + 1} ({rest!r}).")

    def quoted(self) -> str:
        """The text of "..." with \\" and \\\\ resolved; the reader stands on the opening quote."""
        begin = self.at
        self.at += 1
        text = ""
        while not self.at_end():
            character = self.text[self.at]
            if character == '"':
                self.at += 1
                return text
            if character == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "\\"):
                self.at += 1
                character = self.text[self.at]
            text += character
            self.at += 1
        raise self.error("the quotation mark is not closed", begin)

    def regex(self) -> str:
        """The expression of %...%; the reader stands on the opening percent sign."""
        begin = self.at
        end = self.text.find("%", begin + 1)
        if end < 0:
            raise self.error("the regular expression is not closed by %", begin)
        expression = self.text[begin + 1 : end]
        if not expression:
            raise self.error("the regular expression is empty", begin)
        good = REGEX_TEXT.match(expression)
        assert good is not None  # it matches the empty text too
        if good.end() < len(expression):
            raise self.error("this is not allowed in a regular expression", begin + 1 + good.end())
        try:
            # The same engine (RE2, which is linear in time) that will run it.
            pc.match_substring_regex(pa.array([""]), expression)
        except pa.ArrowInvalid:
            raise self.error("the regular expression is not valid", begin) from None
        self.regexes += 1
        if self.regexes > REGEXES_MAX:
            raise self.error(f"a pattern can have {REGEXES_MAX} regular expressions", begin)
        self.at = end + 1
        return expression


# Terms


def _terms(reader: _Reader) -> Predicate:
    kinds: dict[str, list[Predicate]] = {"": [], "-": [], "?": []}
    while not reader.at_end():
        kind = "?" if reader.take("?") else "-" if reader.take("-") else ""
        kinds[kind].append(_term(reader))
        if not reader.at_end() and not reader.text[reader.at].isspace():
            raise reader.error("terms with other characters than letters, digits and _ need double quotes")
        reader.skip_blanks()
    if not kinds[""] and not kinds["-"]:
        return _joined(" OR ", kinds["?"])
    return _joined(" AND ", [*kinds[""], *(Predicate(f"NOT {no.sql}", no.parameters) for no in kinds["-"])])


def _term(reader: _Reader) -> Predicate:
    if reader.peek('"'):
        begin = reader.at
        phrase = reader.quoted()
        if not phrase:
            raise reader.error("the phrase is empty", begin)
        return Predicate("contains(message, ?)", (phrase,))
    if reader.peek("%"):
        return Predicate("regexp_matches(message, ?)", (reader.regex(),))
    word = reader.match(WORD)
    if word is None:
        raise reader.error("a term should be here; other characters than letters, digits and _ need double quotes")
    return Predicate("contains(message, ?)", (word,))


def _joined(operator: str, parts: list[Predicate]) -> Predicate:
    if len(parts) == 1:
        return parts[0]
    sql = "(" + operator.join(part.sql for part in parts) + ")"
    return Predicate(sql, tuple(parameter for part in parts for parameter in part.parameters))


# Space-delimited columns


@dataclass(frozen=True)
class _Column:
    """One column of the pattern; `condition` makes the predicate from the SQL of the column's text."""

    name: str
    condition: Callable[[str], Predicate] | None
    required_text: str | None = None
    """A text that every match has somewhere: a cheap test before the columns are split."""


def _columns(reader: _Reader) -> Predicate:
    reader.take("[")
    columns: list[_Column | None] = []
    while True:
        reader.skip_blanks()
        if reader.take("..."):
            if None in columns:
                raise reader.error("a pattern can have ... once", reader.at - 3)
            columns.append(None)
        else:
            columns.append(_column(reader))
        reader.skip_blanks()
        if reader.take("]"):
            break
        if not reader.take(","):
            raise reader.error("a comma or ] should be here")
    return _predicate(columns)


def _predicate(columns: list[_Column | None]) -> Predicate:
    named = sum(column is not None for column in columns)
    open_at = columns.index(None) if None in columns else None
    cheap: list[Predicate] = []
    parts = [Predicate(f"len({COLUMNS}) {'=' if open_at is None else '>='} {named}")]
    for number, column in enumerate(columns):
        if column is None or column.condition is None:
            continue
        # Columns behind `...` are counted from the end, as negative positions.
        position = number + 1 if open_at is None or number < open_at else number - len(columns)
        parts.append(column.condition(UNWRAPPED.format(f"{COLUMNS}[{position}]")))
        if column.required_text:
            cheap.append(Predicate("contains(message, ?)", (column.required_text,)))
    return _joined(" AND ", [*cheap, *parts])


def _column(reader: _Reader) -> _Column:
    begin = reader.at
    name = reader.match(NAME)
    if name is None:
        raise reader.error("the name of a column should be here")
    reader.skip_blanks()
    if reader.at_end() or reader.text[reader.at] in ",]":
        return _Column(name, None)
    reader.at = begin
    alternatives: list[list[_Comparison]] = [[]]
    while True:
        alternatives[-1].append(_comparison(reader, name))
        reader.skip_blanks()
        if reader.take("||"):
            alternatives.append([])
        elif not reader.take("&&"):
            break

    def condition(text: str) -> Predicate:
        return _joined(" OR ", [_joined(" AND ", [part.predicate(text) for part in parts]) for parts in alternatives])

    only = alternatives[0][0] if len(alternatives) == 1 else None
    return _Column(name, condition, only.required_text() if only is not None else None)


@dataclass(frozen=True)
class _Comparison:
    operator: str
    value: str
    is_regex: bool

    def predicate(self, text: str) -> Predicate:
        """`text` is the SQL of the column; a column that is not there makes no match."""
        number = f"CASE WHEN regexp_full_match({text}, '{NUMBER}') THEN TRY_CAST({text} AS DOUBLE) END"
        if self.operator not in ("=", "!="):
            return Predicate(f"coalesce({number} {self.operator} ?, false)", (float(self.value),))
        if self.is_regex:
            same = Predicate(f"regexp_matches({text}, ?)", (self.value,))
        elif "*" in self.value:
            escaped = re.sub(r"([\\%_])", r"\\\1", self.value).replace("*", "%")
            same = Predicate(f"{text} LIKE ? ESCAPE '\\'", (escaped,))
        elif re.fullmatch(NUMBER, self.value):
            same = Predicate(f"({text} = ? OR coalesce({number} = ?, false))", (self.value, float(self.value)))
        else:
            same = Predicate(f"{text} = ?", (self.value,))
        return same if self.operator == "=" else Predicate(f"NOT ({same.sql})", same.parameters)

    def required_text(self) -> str | None:
        plain = self.operator == "=" and not self.is_regex and "*" not in self.value
        return self.value if plain and not re.fullmatch(NUMBER, self.value) else None


OPERATOR = re.compile(r"!=|<=|>=|=|<|>")
BARE_VALUE = re.compile(r"[^\s,\]\[|&\"%()]+")


def _comparison(reader: _Reader, name: str) -> _Comparison:
    reader.skip_blanks()
    begin = reader.at
    if reader.match(NAME) != name:
        raise reader.error(f"a comparison of {name} should be here", begin)
    reader.skip_blanks()
    operator = reader.match(OPERATOR)
    if operator is None:
        raise reader.error("one of = != < > <= >= should be here")
    reader.skip_blanks()
    place = reader.at
    is_regex = reader.peek("%")
    if is_regex:
        value = reader.regex()
    elif reader.peek('"'):
        value = reader.quoted()
    else:
        bare = reader.match(BARE_VALUE)
        if bare is None:
            raise reader.error("a value should be here")
        value = bare
    if operator not in ("=", "!=") and (is_regex or not re.fullmatch(NUMBER, value)):
        raise reader.error(f"{operator} compares with a number", place)
    return _Comparison(operator, value, is_regex)
