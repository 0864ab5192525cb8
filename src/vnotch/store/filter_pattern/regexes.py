"""Regular expressions of filter patterns: AWS's subset, checked before RE2 has them."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

_REGEX_PART = re.compile(
    r"""(?P<escape>\\(?:[dswDSW]|x[0-9A-Fa-f]{2}|[!-~](?<![A-Za-z0-9()])))
      | (?P<repeat>\{(?P<low>[0-9]*),?(?P<high>[0-9]*)\})
      | (?P<open>\[\^?\]?)
      | (?P<close>\])
      | (?P<brace>[{}])
      | (?P<plain>[A-Za-z0-9:_\#=@/;,\-^$?|*+.\ ])""",
    re.VERBOSE,
)


class Refused(Exception):
    """What a pattern cannot have, and at which character."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__(what)
        self.what = what
        self.at = at


def checked_regex(text: str, begin: int) -> str:
    """What stands between the percent signs, from the character `begin` on -> the expression for RE2, which takes time
    linear in the text. Raises Refused.

    AWS's subset has no parentheses. RE2 would take a brace that is no repetition and a bracket inside a class as plain
    characters, where AWS's engine does not; they are refused rather than understood in another way.
    """
    if not text:
        raise Refused("the regular expression is empty", begin - 1)
    parts: list[str] = []
    at, in_class = 0, False
    while at < len(text):
        part = _REGEX_PART.match(text, at)
        kind = part.lastgroup if part is not None else None
        misplaced = ("open",) if in_class else ("close", "brace")
        if part is None or kind in misplaced or part.group() in ("{}", "{,}"):
            raise Refused("this is not allowed in a regular expression", begin + at)
        written = part.group()
        if kind == "repeat" and not in_class:
            # The guide lets the minimum be left out; RE2 wants it.
            written = written.replace("{,", "{0,")
        elif part["open"] is not None:
            in_class = True
        elif part["close"] is not None:
            in_class = False
        parts.append(written)
        at = part.end()
    expression = "".join(parts)
    try:
        pc.match_substring_regex(pa.array([""]), expression)
    except pa.ArrowInvalid:
        raise Refused("the regular expression is not valid", begin - 1) from None
    return expression
