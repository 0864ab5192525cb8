"""Compile the datapath (eBPF programs, native library) and the parser of lines with the zig that `ziglang` brings.

Hatchling calls `CustomBuildHook` when a wheel is built, editable installs included. `python hatch_build.py` does the
same in place, for work in a checkout; `python hatch_build.py --force` rebuilds what looks up to date.

    bpf/vnotch.bpf.c   -> src/vnotch/capture/native/vnotch.bpf.o      loaded by capture/loaded.py
    bpf/firewall.bpf.c -> src/vnotch/capture/native/firewall.bpf.o    loaded by capture/host_firewall.py
    bpf/pcap.c         -> src/vnotch/capture/native/libvnotch.so      loaded by capture/pcap.py
    native/lines.c     -> src/vnotch/native/liblines.so               loaded by line_parser.py
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, where hatchling need not be installed
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "src" / "vnotch"
OUTPUTS = PACKAGE / "capture" / "native"

GLIBC = "2.36"
"""The oldest C library that the native library runs on: Debian 12's."""

MACHINES = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}

WARNINGS = ("-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter")


def machine() -> str:
    """The processor that we build for, as zig and wheel tags name it."""
    name = platform.machine()
    if not sys.platform.startswith("linux") or name not in MACHINES:
        raise SystemExit(f"vnotch builds on Linux on {' and '.join(sorted(set(MACHINES.values())))}, not on {name}")
    return MACHINES[name]


def targets() -> dict[Path, tuple[Path, list[str]]]:
    """Output -> (source, compiler arguments)."""
    datapath = ROOT / "bpf"
    to_bpf = ["-target", "bpfel-freestanding", "-mcpu=v3", "-O2", "-g", "-fno-asynchronous-unwind-tables", "-c"]
    to_library = ["-target", f"{machine()}-linux-gnu.{GLIBC}", "-O3", "-shared", "-fPIC"]
    return {
        OUTPUTS / "vnotch.bpf.o": (datapath / "vnotch.bpf.c", [*to_bpf, *WARNINGS]),
        OUTPUTS / "firewall.bpf.o": (datapath / "firewall.bpf.c", [*to_bpf, *WARNINGS]),
        OUTPUTS / "libvnotch.so": (datapath / "pcap.c", [*to_library, *WARNINGS]),
        PACKAGE / "native" / "liblines.so": (ROOT / "native" / "lines.c", [*to_library, *WARNINGS]),
    }


def compile_with_zig(source: Path, output: Path, arguments: list[str]) -> None:
    """Compile one file. The output appears whole or not at all, so that builds at the same time do no harm."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # zig tells objects from libraries by the suffix, so the process number goes in front.
    part = output.with_name(f".{os.getpid()}.{output.name}")
    command = [sys.executable, "-m", "ziglang", "cc", *arguments, f"-I{source.parent}", str(source), "-o", str(part)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{source.name} does not compile:\n{done.stderr}")
        if done.stderr.strip():
            print(done.stderr, file=sys.stderr)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def build(force: bool = False) -> list[Path]:
    """Bring the outputs up to date; returns those that were made."""
    made = []
    for output, (source, arguments) in targets().items():
        if not source.exists():
            print(f"{source.name} is not there, {output.name} is not built", file=sys.stderr)
            continue
        headers = source.parent.glob("*.h")
        newest = max(path.stat().st_mtime_ns for path in (source, Path(__file__), *headers))
        if force or not output.exists() or output.stat().st_mtime_ns < newest:
            compile_with_zig(source, output, arguments)
            made.append(output)
    return made


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc, valid-type]
    """Hatchling's entry. The wheel holds machine code: it is tagged with the platform, but with no Python version."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        build()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine()}"


if __name__ == "__main__":
    for path in build(force="--force" in sys.argv[1:]):
        print(path.relative_to(ROOT))
