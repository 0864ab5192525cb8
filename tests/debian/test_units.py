"""The systemd units: what they give, what they take away, and what systemd itself says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = {name: ROOT / "packaging" / f"vnotch-{name}.service" for name in ("server", "agent")}
THREE = {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}


def settings(name: str) -> dict[str, list[str]]:
    """Setting -> its values in order, of a unit file (systemd.syntax(7))."""
    found: dict[str, list[str]] = {}
    for line in UNITS[name].read_text().replace("\\\n", " ").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(" ".join(value.split()))
    return found


def test_the_agent_has_three_capabilities_and_the_server_none() -> None:
    agent, server = settings("agent"), settings("server")
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert [set(value.split()) for value in agent[key]] == [THREE]
        assert server[key] == [""]
    assert agent["NoNewPrivileges"] == server["NoNewPrivileges"] == ["yes"]
    assert agent["User"] == ["vnotch-agent"] != server["User"], "the administrator's key is the server's alone"


def test_root_prepares_in_the_mount_namespace_of_the_host() -> None:
    """With `+` alone the bpffs is mounted in the unit's own mount namespace, which ends with the command."""
    (command,) = settings("agent")["ExecStartPre"]
    assert re.fullmatch(r"\+/usr/bin/nsenter --mount=/proc/1/ns/mnt /usr/bin/vnotch prepare .*", command)


def test_the_agent_may_call_bpf_and_speak_netlink() -> None:
    agent = settings("agent")
    assert "bpf" in agent["SystemCallFilter"][0].split()
    assert {"AF_NETLINK", "AF_INET"} <= set(agent["RestrictAddressFamilies"][0].split())


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    """`verify` looks for the programs, which are there only where the package is installed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / UNITS[name].name
    unit.write_text(UNITS[name].read_text().replace("/usr/bin/vnotch", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, about) == (0, [])


@pytest.mark.parametrize(("name", "most"), [("server", 1.5), ("agent", 2.5)])
def test_the_exposure_is_low(name: str, most: float) -> None:
    """systemd's own measure, 0 to 10; `OK` ends at 4.9, and a service without settings has 9.6."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNITS[name])],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None and "offline" in done.stderr:
        pytest.skip("this systemd-analyze looks only at running units")
    assert found, done.stderr
    assert float(found[1]) <= most
