"""Where Firehose delivery streams lead: a file of the user's that names an HTTPS endpoint for each.

    [flow-logs]                                          # arn:aws:firehose:...:deliverystream/flow-logs
    url = "https://http-intake.example.org/v1/input"
    access_key_file = "/etc/vnotch/intake.key"           # or access_key = "..."
    compress = true                                      # GZIP, the default
    attributes = { source = "vnotch" }                   # common attributes, text

Vendors (Datadog, Splunk, Elastic, ...) give URL and key for their Firehose integration.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vnotch.errors import InputError

ACCESS_KEY_BYTES_MAX = 4096
ATTRIBUTES_MAX = 50
"""AWS's bounds (API HttpEndpointConfiguration, HttpEndpointRequestConfiguration)."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_STREAM_ARN = re.compile(r"arn:aws[a-z-]*:firehose:[a-z0-9-]+:\d{12}:deliverystream[/:](?P<name>[A-Za-z0-9_.-]{1,64})")
_MEMBERS = {"url", "access_key", "access_key_file", "compress", "attributes"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class DeliveryStream:
    url: str
    access_key: str = ""
    compress: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)


def stream_name(arn: str) -> str | None:
    """The name in a delivery stream's ARN; None for what is no such ARN."""
    match = _STREAM_ARN.fullmatch(arn)
    return match["name"] if match else None


def read_streams(path: Path) -> dict[str, DeliveryStream]:
    """Name -> delivery stream. Raises InputError that names the place and what is right."""
    try:
        text = path.read_text()
        document = tomllib.loads(text)
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", "tables such as [name] with url = 'https://...'") from None
    found = {name: _stream(path, name, table) for name, table in document.items()}
    if mode & (stat.S_IRWXO | stat.S_IWGRP) and "access_key" in text.replace("access_key_file", ""):
        raise InputError(f"{path} has access keys and others may read it", f"chmod 600 {path}")
    return found


def _stream(path: Path, name: str, table: Any) -> DeliveryStream:
    place = f"{path}: [{name}]"
    if not _NAME.fullmatch(name) or not isinstance(table, dict):
        raise InputError(f"{place} is no delivery stream", "a table with a name of A-Z a-z 0-9 _ . - and 64 at most")
    if unknown := set(table) - _MEMBERS:
        raise InputError(f"{place} has {', '.join(sorted(unknown))}", f"it may have {', '.join(sorted(_MEMBERS))}")
    url = table.get("url")
    parts = urlsplit(url) if isinstance(url, str) else None
    plain_here = parts is not None and parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts is None or not parts.hostname or not (parts.scheme == "https" or plain_here):
        raise InputError(f"{place} url {url!r}", "an https:// URL; http:// on this host alone")
    compress, attributes = table.get("compress", True), table.get("attributes", {})
    if not isinstance(compress, bool):
        raise InputError(f"{place} compress", "true or false")
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise InputError(f"{place} attributes", "names and texts")
    if len(attributes) > ATTRIBUTES_MAX:
        raise InputError(f"{place} has {len(attributes)} attributes", f"at most {ATTRIBUTES_MAX}")
    return DeliveryStream(str(url), _access_key(place, table), compress, attributes)


def _access_key(place: str, table: Mapping[str, Any]) -> str:
    key, file = table.get("access_key", ""), table.get("access_key_file")
    if file is not None:
        try:
            key = Path(str(file)).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{place} access_key_file {file}: {error}") from None
    if not isinstance(key, str) or len(key) > ACCESS_KEY_BYTES_MAX or not (key.isprintable() and key.isascii()):
        raise InputError(f"{place} access_key", f"printable ASCII, at most {ACCESS_KEY_BYTES_MAX} characters, one line")
    return key
