"""Names for addresses: a file of CIDRs and their labels.

The file has one CIDR or address and its label a line, parted by a comma or blanks; `#` begins a comment. Of several
CIDRs that hold an address the longest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton

import numpy as np
import pyarrow as pa

from vnotch.address import Prefixes
from vnotch.errors import InputError

_REMEMBERED_MAX = 1_000_000
_LINE = re.compile(r"([^\s,]+)\s*[\s,]\s*(.+)")


class Labels:
    """Which CIDR, and which label of it, an address has. Texts that are no addresses have none."""

    def __init__(self, cidrs: Iterable[str], names: Iterable[str]) -> None:
        """Raises InputError for what is no CIDR."""
        self._names = list(names)
        self._prefixes = Prefixes(cidrs)
        self._remembered: dict[str | None, str | None] = {}

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Raises InputError that names the line."""
        cidrs, names = [], []
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not text in UTF-8") from None
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text or (number == 1 and text.lower().startswith("cidr")):
                continue
            match = _LINE.fullmatch(text)
            try:
                if match is None:
                    raise InputError("a CIDR and a label are needed, as in: 10.0.1.0/24,databases")
                Prefixes([match[1]])
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error.message}", error.remedy) from None
            cidrs.append(match[1])
            names.append(match[2].strip())
        return cls(cidrs, names)

    def of(self, addresses: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The label of each address, null where it has none."""
        return pa.array(self._of(addresses.to_pylist()), pa.string())

    def have(self, addresses: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Whether each address has a label."""
        return pa.array([label is not None for label in self._of(addresses.to_pylist())], pa.bool_())

    def _of(self, texts: list[str | None]) -> list[str | None]:
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.clear()
        known = self._remembered
        new = [text for text in set(texts) if text is not None and text not in known]
        known.update(zip(new, self._find(new), strict=True))
        known[None] = None
        return [known[text] for text in texts]

    def _find(self, texts: list[str]) -> list[str | None]:
        raw = [_packed(text) for text in texts]
        known = [number for number, address in enumerate(raw) if address is not None]
        found: list[str | None] = [None] * len(texts)
        if known:
            data = b"".join((raw[number] or b"").ljust(16, b"\0") for number in known)
            is_four = np.array([len(raw[number] or b"") == 4 for number in known])
            places = self._prefixes.find(np.frombuffer(data, np.uint8).reshape(-1, 16), is_four).tolist()
            for number, place in zip(known, places, strict=True):
                found[number] = self._names[place] if place >= 0 else None
        return found


def _packed(text: str) -> bytes | None:
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):  # ValueError: a NUL character
        return None
