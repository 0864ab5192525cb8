"""Where things are and what is default. Values only; every bound that a user may set is named here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENDPOINT_HOST = "127.0.0.1"
ENDPOINT_PORT = 4480
ACCOUNT = "123456789012"
REGION = "us-east-1"

SPOOL_BYTES = 2_000_000_000
SPOOL_SECONDS = 24 * 3600
FLOWS_PER_MAP = 131_072
TICK_SECONDS_MAX = 10
SYSTEM_DATA_DIR = Path("/var/lib/vnotch")


def data_dir() -> Path:
    """/var/lib/vnotch as root, else the XDG data folder; the variable VNOTCH_DATA_DIR overrides both."""
    if override := os.environ.get("VNOTCH_DATA_DIR"):
        return Path(override)
    if os.geteuid() == 0:
        return SYSTEM_DATA_DIR
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "vnotch"


@dataclass(frozen=True)
class Folders:
    """The layout below the data folder."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def buckets(self) -> Path:
        """What stands for an S3 endpoint where none is named: a bucket is a folder in it."""
        return self.root / "buckets"

    @property
    def credentials(self) -> Path:
        """The administrator's key as JSON, readable by its owner alone."""
        return self.root / "credentials.json"

    def agent(self, name: str) -> Path:
        """One agent's folder: key, journal, spool, status."""
        return self.root / "agents" / name
