"""Reading this host: what is known of it by other means is what is read, and nothing of it changes."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vnotch.config import Folders
from vnotch.doctor.reading import CAPABILITIES, read_facts, unit_capabilities

ALL = frozenset(CAPABILITIES.values())


@pytest.fixture
def other() -> Iterator[int]:
    """A port where something listens that is no vnotch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_this_host_as_others_see_it(tmp_path: Path, other: int) -> None:
    facts = read_facts(Folders(tmp_path / "not" / "there"), 1)
    assert facts.kernel == subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout.strip()
    assert facts.machine == platform.machine()
    assert facts.is_root == (os.geteuid() == 0)
    assert facts.has_btf == Path("/sys/kernel/btf/vmlinux").exists()
    assert {"vnotch.bpf.o", "libvnotch.so"} <= set(facts.built)
    stat = os.statvfs(tmp_path)
    assert facts.disk_total_bytes == stat.f_blocks * stat.f_frsize
    assert facts.port_state == "free"
    assert facts.devices == ()
    assert read_facts(Folders(tmp_path), other).port_state == "other"
    assert list(tmp_path.iterdir()) == [], "nothing is made"


@pytest.mark.root
def test_root_of_this_host_may_ask_the_kernel(tmp_path: Path) -> None:
    facts = read_facts(Folders(tmp_path), 1)
    assert facts.bpf_error is None
    assert {"CAP_BPF", "CAP_NET_ADMIN"} <= facts.capabilities
    assert (facts.libbpf or "").startswith("libbpf 1.")


def test_devices_are_those_of_configurations_that_are_here(tmp_path: Path) -> None:
    folder = Folders(tmp_path).agent("a")
    folder.mkdir(parents=True)
    (folder / "configuration.json").write_text(json.dumps({"interfaces": [{"device": "lo"}, {"device": "gone0"}]}))
    broken = Folders(tmp_path).agent("b")
    broken.mkdir()
    (broken / "configuration.json").write_text("{")
    assert read_facts(Folders(tmp_path), 1).devices == ("lo",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Service]\nExecStart=/usr/bin/vnotch agent\n", ALL),
        ("[Service]\nUser=vnotch\n", frozenset()),
        (
            "[Service]\nUser=vnotch-agent\nAmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON\n",
            {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"},
        ),
        ("[Service]\nUser=x\nAmbientCapabilities=CAP_BPF\nAmbientCapabilities=\n", frozenset()),
        ("[Service]\nCapabilityBoundingSet=CAP_BPF CAP_CHOWN\n", {"CAP_BPF"}),
        ("[Service]\n# User=x\n", ALL),
    ],
)
def test_capabilities_of_a_unit(text: str, expected: frozenset[str]) -> None:
    """systemd.exec(5): User, AmbientCapabilities, CapabilityBoundingSet; an empty assignment resets."""
    assert unit_capabilities(text) == expected
