"""The setting of an alert: `KIND,log-group=NAME[,name=value...]=URL`, such as
`rejects,log-group=/vnotch/lab/all,count=100,seconds=60=https://example.com/hook`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from vnotch.api.cloudwatch.webhooks import is_url
from vnotch.errors import InputError
from vnotch.store.flow_alerts import NEW_LISTENER, PORT_SCAN, REJECTS, FlowAlert

ALERTS_MAX = 50
_FORM = "KIND,log-group=NAME[,name=value...]=URL"
_SETTING = re.compile(r"(?P<kind>[^=,]*)(?P<options>(?:,[^=,]*=[^=,]*)*)=(?P<url>.*)", re.DOTALL)
_GROUP = re.compile(r"[A-Za-z0-9_./#-]{1,512}")

_NUMBERS: dict[str, dict[str, tuple[int, int, int]]] = {
    REJECTS: {"count": (100, 1, 1_000_000), "seconds": (60, 1, 3600)},
    PORT_SCAN: {"ports": (20, 2, 65_536), "seconds": (600, 1, 3600)},
    NEW_LISTENER: {"seconds": (600, 1, 3600), "days": (7, 0, 31)},
}
"""Kind -> option -> default, least, most."""
_BY = ("source", "all")


def flow_alerts(settings: Iterable[str]) -> list[FlowAlert]:
    """The alerts of some settings; those that differ in their URL alone are one alert. Raises InputError."""
    found: dict[str, FlowAlert] = {}
    for setting in settings:
        alert = _alert(setting)
        if (same := found.get(alert.text)) is not None:
            alert = replace(same, urls=tuple(dict.fromkeys(same.urls + alert.urls)))
        found[alert.text] = alert
    if len(found) > ALERTS_MAX:
        raise InputError(f"{len(found)} alerts", f"at most {ALERTS_MAX}")
    return list(found.values())


def _alert(setting: str) -> FlowAlert:
    match = _SETTING.fullmatch(setting)
    if match is None or not is_url(match["url"]):
        what = f"alert {setting!r} does not end in =URL" if match is None else f"alert URL {match['url']!r}"
        raise InputError(what, f"{_FORM} with an http or https URL without a user in it")
    kind = match["kind"]
    if kind not in _NUMBERS:
        raise InputError(f"alert kind {kind!r}", f"one of {', '.join(_NUMBERS)}: {_FORM}")
    numbers = _NUMBERS[kind]
    allowed = ["log-group", *numbers, *(["by"] if kind == REJECTS else [])]
    given: dict[str, str] = {}
    for option in match["options"].split(",")[1:]:
        name, _, value = option.partition("=")
        if name not in allowed or name in given:
            fault = "is given twice" if name in given else "is not known"
            raise InputError(f"alert {kind}: {name!r} {fault}", f"it may have {', '.join(allowed)}")
        given[name] = value
    group = given.get("log-group", "")
    if not _GROUP.fullmatch(group):
        raise InputError(f"alert {kind}: log-group {group!r}", "the name of a log group, such as /vnotch/lab/all")
    values = {name: _number(kind, name, given.get(name), bounds) for name, bounds in numbers.items()}
    by = given.get("by", "source")
    if by not in _BY:
        raise InputError(f"alert {kind}: by {by!r}", "source or all")
    said = {"log-group": group, **values, **({"by": by} if kind == REJECTS else {})}
    text = ",".join([kind, *(f"{name}={value}" for name, value in said.items())])
    least = values.get("count") or values.get("ports") or 1
    urls = (match["url"],)
    return FlowAlert(kind, group, text, urls, values["seconds"], least, by == "source", values.get("days", 0))


def _number(kind: str, name: str, text: str | None, bounds: tuple[int, int, int]) -> int:
    default, least, most = bounds
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise InputError(f"alert {kind}: {name} {text!r}", f"a whole number from {least} to {most}")
    return int(text)
