"""Wildcards and policy variables (IAM user guide, "IAM policy elements: Variables and tags", "Resource").

`*` is any run of characters, `?` is one. `${aws:username}` is the value of a context key, `${aws:username, 'x'}` has a
default, `${*}`, `${?}` and `${$}` are these characters themselves. A variable without a value makes its statement
invalid: `Unresolved` is raised, and the statement applies to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from vnotch.iam.context_keys import key_is_known

Context = Mapping[str, str | tuple[str, ...]]
"""Context keys in lower case, with one value (text) or several (a tuple)."""


class Variants(tuple[str, ...]):
    """The values of tags whose keys differ in case alone, as EC2 and CloudWatch Logs allow: one condition key stands
    for all of them (IAM user guide, aws:ResourceTag: it "matches either, but not both"). An Allow holds where it would
    for each of the values, a Deny where it would for one, so that a second spelling never gets anybody more."""


class Unresolved(Exception):
    """A policy variable has no value in this request."""


@lru_cache(maxsize=4096)
def wildcard(pattern: str, ignore_case: bool = False) -> re.Pattern[str]:
    """A pattern with wildcards; everything but `*` and `?` stands for itself."""
    return re.compile(_wildcard_source(pattern), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def any_wildcard(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """What any of the patterns matches, or None for no pattern."""
    return re.compile("|".join(map(_wildcard_source, patterns)), re.DOTALL) if patterns else None


def common_literal(patterns: Sequence[str]) -> str:
    """A text, as long as can be, that whatever matches one of the patterns has in it."""
    first, *others = [re.split(r"[*?]", pattern) for pattern in patterns]
    for literal in sorted(first, key=len, reverse=True):
        if all(any(literal in piece for piece in pieces) for pieces in others):
            return literal
    return ""


def _wildcard_source(pattern: str) -> str:
    # Plain `.*` for each star would take time in a power of the text's length. The pieces between stars may be found
    # one after the other, each leftmost and for good (an atomic group), and runs of stars are one star.
    pieces = [_piece(piece) for piece in re.split(r"\*+", pattern)]
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1] if piece)
    return f"{pieces[0]}{middle}.*{pieces[-1]}"


def _piece(text: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in text)


_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_LITERALS = {"*": "*", "?": "?", "$": "$"}


def has_variable(text: str) -> bool:
    return "${" in text


def variable_names(text: str) -> list[str]:
    """The context keys that the variables of a text name, as they are written."""
    return [m[1].partition(",")[0].strip() for m in _VARIABLE.finditer(text) if m[1] not in _LITERALS]


def check_variables(text: str, any_key: bool = False) -> None:
    """ValueError for a policy variable that is not understood."""
    for name in variable_names(text):
        if not any_key and not key_is_known(name.lower()):
            raise ValueError(f"the policy variable ${{{name}}} is not known")
    if "${" in _VARIABLE.sub("", text):
        raise ValueError(f"the policy variable in {text!r} is not closed")


def substituted(text: str, context: Context, escape: Callable[[str], str] = str) -> str:
    """`text` with its variables filled in. Raises Unresolved where one has no single value and no default."""

    def value(match: re.Match[str]) -> str:
        if match[1] in _LITERALS:
            return escape(_LITERALS[match[1]])
        name, comma, default = match[1].partition(",")
        found = context.get(name.strip().lower())
        if isinstance(found, str):
            return escape(found)
        if comma:
            return escape(default.strip().strip("'"))
        raise Unresolved(name)

    return _VARIABLE.sub(value, text)


# A wildcard in a variable's value must not act as one, so such characters are put into code points that no text has
# (halves of surrogate pairs) while the pattern is compiled, in the pattern and in the value that is matched against it.
_SHELTER = str.maketrans({"*": "\ud800", "?": "\ud801"})


def sheltered(text: str) -> str:
    return text.translate(_SHELTER)


def glob_matches(pattern: str, value: str, context: Context) -> bool:
    """Whether `value` matches a pattern that may hold wildcards and policy variables. Case matters."""
    if not has_variable(pattern):
        return wildcard(pattern).fullmatch(value) is not None
    return wildcard(substituted(pattern, context, sheltered)).fullmatch(sheltered(value)) is not None
