"""The state's schema from release to release: Alembic's environment, found beside this file wherever it is installed.

`versions/` has one revision for each change of the tables, numbered in order. What is read here costs no import of
Alembic, so that a server whose state is at `HEAD` starts without it (`vnotch.store.schema`).

A change of a table declared on `Base` and the revision that makes it are one commit: `make migration TEXT="what it is"`
writes the revision, which is then read over, and `REVISIONS` gets its number; tests/store/test_schema.py holds tables
and revisions to each other.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""All that there are, in their order. A state with another one is of a later release."""
HEAD = REVISIONS[-1]
