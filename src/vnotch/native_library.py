"""Native libraries by ctypes: each is loaded if it is of the version that the Python beside it was written for."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from vnotch.errors import HostError

Signatures: TypeAlias = Mapping[str, tuple[object, Sequence[object]]]
"""Function -> type of its result and types of its arguments."""

REMEDY = "build it: python hatch_build.py"


def load_native(path: Path, abi_function: str, abi: int, signatures: Signatures) -> ctypes.CDLL:
    """The library at `path` with its signatures; `abi_function` says its version.

    Raises HostError where it is missing or of another version.
    """
    try:
        lib = ctypes.CDLL(str(path))
        found = int(getattr(lib, abi_function)())
    except (OSError, AttributeError) as error:
        raise HostError(f"the native library cannot be used: {error}", REMEDY) from error
    if found != abi:
        raise another_version()
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, list(arguments)
    return lib


def another_version() -> HostError:
    return HostError("the native library is of another version than vnotch", REMEDY)
