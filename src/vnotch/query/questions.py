"""Named questions: SQL files with a header that says what they answer, what they need and what one may set.

    -- title: Top talkers
    -- answers: Which source addresses sent the most.
    -- parameter: limit integer = 20: how many addresses
    -- parameter: by = bytes (bytes, packets): what to rank by
    -- parameter: address network: required, having no default
    -- needs: srcaddr, bytes              fields without which there is no answer
    -- optional: pkt_srcaddr              fields that are NULL where the flow logs have none
    -- addresses: source                  columns of the answer that labels are added to
    -- chart: bars source bytes           bars LABEL VALUE, or time TIME VALUE; $by is the column that `by` names

Comment lines behind the header are notes for people. A parameter stands in the SQL as `$name` and is bound as a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from vnotch.errors import InputError
from vnotch.fields import column_name
from vnotch.query.columns import COLUMN_TYPES

_HEADER = re.compile(r"--\s*([a-z]+):\s*(.*)")
_PARAMETER = re.compile(
    r"(?P<name>[a-z_]+)(?:\s+(?P<type>[a-z]+))?(?:\s*=\s*(?P<default>[^:(]*?))?(?:\s*\((?P<choices>[^)]*)\))?\s*:\s*(?P<meaning>.*)"
)
_DURATION = re.compile(r"([0-9]+)([smhdw]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def _integer(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**62:
        raise ValueError
    return number


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e18:
        raise ValueError
    return number


def _duration(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError
    return int(match[1]) * _UNITS[match[2]]


def _network(text: str) -> str:
    """An address as records have it, or a CIDR."""
    return str(ip_network(text, strict=False)) if "/" in text else str(ip_address(text))


def _list(text: str) -> str:
    if not re.fullmatch(r"\s*[0-9]{1,5}\s*(,\s*[0-9]{1,5}\s*)*", text):
        raise ValueError
    return text


TYPES: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "text": (str, "a text"),
    "integer": (_integer, "a whole number"),
    "number": (_number, "a number"),
    "duration": (_duration, "seconds, or a duration such as 10m, 2h, 1d"),
    "network": (_network, "an IPv4 or IPv6 address or CIDR"),
    "list": (_list, "whole numbers parted by commas"),
}
"""Types of parameters: how a text becomes the value that is bound, and what is right."""


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    default: str | None
    choices: tuple[str, ...]
    meaning: str

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    def value(self, text: str) -> Any:
        """The value to bind. Raises InputError."""
        parse, right = TYPES[self.type]
        if self.choices and text not in self.choices:
            raise InputError(f"{self.name} {text!r} is not right", "one of " + ", ".join(self.choices))
        try:
            return parse(text)
        except ValueError:
            raise InputError(f"{self.name} {text!r} is not right", right) from None


@dataclass(frozen=True)
class Chart:
    kind: str
    """`bars` or `time`."""
    label: str
    value: str


@dataclass(frozen=True)
class Question:
    name: str
    title: str
    answers: str
    parameters: tuple[Parameter, ...]
    needs: tuple[str, ...]
    optional: tuple[str, ...]
    addresses: tuple[str, ...]
    chart: Chart | None
    sql: str
    path: str

    def bind(self, values: Sequence[str], named: Mapping[str, str]) -> dict[str, Any]:
        """Values in the order of the parameters, and by name -> what is bound. Raises InputError."""
        known = {parameter.name: parameter for parameter in self.parameters}
        if len(values) > len(self.parameters):
            raise InputError(f"{self.name} takes at most {len(self.parameters)} values", self.usage)
        texts = dict(zip(known, values, strict=False))
        for name, text in named.items():
            if name not in known:
                raise InputError(f"{self.name} has no parameter {name}", self.usage)
            if name in texts:
                raise InputError(f"{name} is given twice", self.usage)
            texts[name] = text
        bound = {}
        for name, parameter in known.items():
            chosen = texts.get(name, parameter.default)
            if chosen is None:
                raise InputError(f"{self.name} needs {name}: {parameter.meaning}", self.usage)
            bound[name] = parameter.value(chosen)
        return bound

    @property
    def usage(self) -> str:
        required = [item.name.upper() for item in self.parameters if item.default is None]
        optional = [f"[{item.option} {item.default}]" for item in self.parameters if item.default is not None]
        return " ".join(["vnotch ask", self.name, *required, *optional, "--from ..."])

    def drawn(self, bound: Mapping[str, Any]) -> Chart | None:
        """The chart, with the value that a parameter chooses."""
        if self.chart is None or not self.chart.value.startswith("$"):
            return self.chart
        return replace(self.chart, value=str(bound[self.chart.value[1:]]))

    def check_columns(self, columns: Mapping[str, str]) -> None:
        """Raises InputError that names the fields which the question needs and the flow logs lack."""
        missing = [name for name in self.needs if name not in columns]
        if missing:
            names = ", ".join(name.replace("_", "-") for name in missing)
            raise InputError(f"{self.name} needs fields that the format of these flow logs lacks: {names}")


def parse_question(name: str, sql: str, path: str) -> Question:
    """Raises InputError that names the file."""
    found: dict[str, list[str]] = {}
    for line in sql.splitlines():
        match = _HEADER.fullmatch(line.strip())
        if match is None:
            break
        found.setdefault(match[1], []).append(match[2].strip())
    known = {"title", "answers", "parameter", "needs", "optional", "addresses", "chart"}
    if unknown := sorted(set(found) - known):
        raise InputError(f"{path}: unknown header {unknown[0]}", "one of " + ", ".join(sorted(known)))
    if "title" not in found:
        raise InputError(f"{path}: the first line is no header", "begin with: -- title: What it is about")
    parameters = tuple(_parameter(text, path) for text in found.get("parameter", ()))
    for parameter in parameters:
        if not re.search(rf"\${parameter.name}\b", sql):
            raise InputError(f"{path}: the parameter {parameter.name} does not occur in the SQL")
        if parameter.default is not None:
            try:
                parameter.value(parameter.default)
            except InputError as error:
                raise InputError(f"{path}: {error.message}", error.remedy) from None
    return Question(
        name,
        found["title"][0],
        " ".join(found.get("answers", ())),
        parameters,
        _columns(found, "needs", path),
        _columns(found, "optional", path),
        _names(found, "addresses"),
        _chart(found["chart"][0], parameters, path) if "chart" in found else None,
        sql,
        path,
    )


def _parameter(text: str, path: str) -> Parameter:
    match = _PARAMETER.fullmatch(text)
    type_ = (match["type"] or "text") if match else ""
    if match is None or type_ not in TYPES:
        raise InputError(f"{path}: parameter {text!r} is not right", "write: -- parameter: limit integer = 20: meaning")
    choices = tuple(choice.strip() for choice in match["choices"].split(",")) if match["choices"] else ()
    return Parameter(match["name"], type_, match["default"] or None, choices, match["meaning"])


def _names(found: Mapping[str, list[str]], header: str) -> tuple[str, ...]:
    return tuple(name.strip() for line in found.get(header, ()) for name in line.split(",") if name.strip())


def _columns(found: Mapping[str, list[str]], header: str, path: str) -> tuple[str, ...]:
    columns = tuple(column_name(name) for name in _names(found, header))
    for column in columns:
        if column not in COLUMN_TYPES:
            raise InputError(f"{path}: {header} names {column}, which is no field")
    return columns


def _chart(text: str, parameters: Sequence[Parameter], path: str) -> Chart:
    words = text.split()
    chosen = {f"${parameter.name}" for parameter in parameters if parameter.choices}
    if len(words) != 3 or words[0] not in ("bars", "time") or (words[2].startswith("$") and words[2] not in chosen):
        raise InputError(f"{path}: chart {text!r} is not right", "bars LABEL VALUE, or time TIME VALUE")
    return Chart(*words)


def questions(folder: Path | None = None) -> dict[str, Question]:
    """All named questions by name, vnotch's own and those in the user's folder, which count where a name is in both.

    Raises InputError that names the file which is not right.
    """
    found: dict[str, Question] = {}
    own = resources.files("vnotch.query") / "questions"
    for entry in sorted(own.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            name = entry.name.removesuffix(".sql")
            found[name] = parse_question(name, entry.read_text(), entry.name)
    if folder is not None and folder.is_dir():
        for path in sorted(folder.glob("*.sql")):
            if not _NAME.fullmatch(path.stem):
                raise InputError(f"{path}: a question's name is lower case letters, digits and dashes")
            try:
                found[path.stem] = parse_question(path.stem, path.read_text(), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: {error}") from None
    return found


def find_question(name: str, folder: Path | None = None) -> Question:
    """Raises InputError with what is nearest."""
    known = questions(folder)
    if name not in known:
        similar = get_close_matches(name, known, n=1)
        hint = f"did you mean {similar[0]}?" if similar else "`vnotch ask` lists them"
        raise InputError(f"there is no question {name}", hint)
    return known[name]
