"""Copies an SQLite database as of one moment: `python -m vnotch.store.database_copy SOURCE TARGET`.

A process of its own, and nothing imported that has an SQLite library of its own (see `backup`).
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def copy_database(source: Path, target: Path) -> None:
    """Raises sqlite3.Error."""
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as database,
        closing(sqlite3.connect(target)) as copy,
    ):
        # All at once: in steps the copy would begin anew with each commit of the server.
        database.backup(copy)


def main(arguments: list[str]) -> int:
    try:
        copy_database(Path(arguments[0]), Path(arguments[1]))
    except sqlite3.Error as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
