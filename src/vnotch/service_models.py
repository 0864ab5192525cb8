"""botocore's service models and sessions, read quickly: each command and each server pays for it at its start.

Only the models that come with botocore are read, not those in a user's `~/.aws/models`: they must not change what the
server speaks.
"""

from __future__ import annotations

import gzip
import os
from functools import cache
from typing import Any

import orjson
from botocore.loaders import JSONFileLoader, Loader
from botocore.session import Session


class _Files(JSONFileLoader):  # type: ignore[misc]
    def load_file(self, file_path: str) -> Any:
        """The model below `file_path`, plain or packed, or None: as the parent's, by a parser that takes a fifth of the
        time and makes plain dicts, which keep their order as well."""
        for ending, opened in ((".json.gz", gzip.open), (".json", open)):
            if os.path.isfile(file_path + ending):
                with opened(file_path + ending, "rb") as file:
                    return orjson.loads(file.read())
        return None


class _Models(Loader):  # type: ignore[misc]
    def list_available_services(self, type_name: str) -> list[str]:
        """Names of folders. The parent looks into each of the four hundred for a model of the type; where there is
        none, the next step says so (DataNotFoundError)."""
        return sorted(entry.name for path in self.search_paths for entry in os.scandir(path) if entry.is_dir())


@cache
def models() -> Loader:
    """Reads models and keeps them; one for all sessions of a process."""
    paths = [Loader.BUILTIN_DATA_PATH]
    return _Models(file_loader=_Files(), include_default_search_paths=False, extra_search_paths=paths)


def session(**settings: Any) -> Session:
    """A session of botocore with these models; settings as for botocore's own."""
    made = Session(**settings)
    made.register_component("data_loader", models())
    return made
