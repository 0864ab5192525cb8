"""The Debian package: built, looked into, and its whole life under the distribution's own systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import machine
import pytest

pytestmark = [pytest.mark.root, pytest.mark.soak, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]

LIFE = r"""
cd /
python=/usr/lib/vnotch/bin/python3
capabilities() { sed -n "s/^$2:\s*0*//p" "/proc/$(systemctl show -p MainPID --value "vnotch-$1")/status"; }

dpkg -i /mnt/vnotch.deb
test "$(vnotch --version)" = "vnotch $(dpkg-query -f '${Version}' -W vnotch)"
for unit in vnotch-server vnotch-agent; do
    test "$(systemctl is-enabled $unit)" = disabled
    test "$(systemctl is-active $unit)" = inactive
done
test ! -e /run/vnotch

ip link add vn-a type veth peer vn-b
ip link set vn-a up
ip link set vn-b up
mkdir -p /etc/systemd/system/vnotch-server.service.d
settings=/etc/systemd/system/vnotch-server.service.d/test.conf
printf '[Service]\nEnvironment=VNOTCH_SERVER_OPTIONS=--any-interval\n' >$settings
systemctl daemon-reload
systemctl enable --now vnotch-server
systemctl enable --now vnotch-agent
test "$(capabilities server CapBnd)" = ""
test "$(capabilities server CapEff)" = ""
test "$(capabilities agent CapBnd)" = c000001000
test "$(capabilities agent CapEff)" = c000001000
test "$(stat -c %U:%a /var/lib/vnotch)" = vnotch:700
test "$(stat -c %U:%a /var/lib/vnotch-agent/agents/*/key.json)" = vnotch-agent:600
runuser -u vnotch-agent -- test ! -r /var/lib/vnotch/credentials.json

$python /mnt/in_machine.py resources
$python /mnt/in_machine.py send 100
$python /mnt/in_machine.py records 100
systemctl kill -s KILL vnotch-agent
$python /mnt/in_machine.py send 50
$python /mnt/in_machine.py records 150
systemctl stop vnotch-agent
$python /mnt/in_machine.py send 25
systemctl start vnotch-agent
$python /mnt/in_machine.py records 175

dpkg -i /mnt/vnotch.deb
systemctl is-active vnotch-server vnotch-agent
$python /mnt/in_machine.py send 5
$python /mnt/in_machine.py records 180

test -n "$(ls /run/vnotch/bpf/*/link_* 2>/dev/null || tc filter show dev vn-a ingress)"
dpkg -r vnotch
test ! -e /run/vnotch
test -z "$(tc filter show dev vn-a ingress)"
test -z "$(ps -u vnotch,vnotch-agent -o pid= || true)"
test -d /var/lib/vnotch
dpkg -P vnotch
test ! -e /var/lib/vnotch
test ! -e /var/lib/vnotch-agent
test ! -e /usr/lib/vnotch
! getent passwd vnotch vnotch-agent
test -z "$(ls /etc/systemd/system/multi-user.target.wants | grep vnotch)"
echo THE END
"""


@pytest.fixture(scope="module")
def deb() -> Path:
    done = subprocess.run([ROOT / "scripts" / "make-deb"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = (ROOT / "dist").glob("vnotch_*.deb")
    return made


def field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", deb, name], capture_output=True, text=True, check=True).stdout.strip()


def test_what_is_in_it(deb: Path) -> None:
    listing = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True).stdout
    paths = [line.split()[5].removeprefix(".") for line in listing.splitlines()]
    for path in (
        "/usr/bin/vnotch",
        *(f"/usr/lib/systemd/system/vnotch-{unit}.service" for unit in ("server", "agent")),
    ):
        assert path in paths
    assert {line.split()[1] for line in listing.splitlines()} == {"root/root"}
    assert not [path for path in paths if path.startswith(("/etc", "/var", "/run", "/opt"))]
    for unwanted in ("ziglang", "hatchling", "pytest", "mypy", "awscli", "pip"):
        assert not [path for path in paths if f"/site-packages/{unwanted}/" in path], unwanted
    assert not [path for path in paths if "__pycache__" in path]
    python = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wanted = {item.split()[0] for item in field(deb, "Depends").split(", ")}
    assert {f"python{python}", "python3", "libbpf1", "libc6"} <= wanted
    assert deb.stat().st_size < 130 << 20


def test_its_whole_life(deb: Path) -> None:
    """Installed, started, killed, stopped, upgraded, removed, purged."""
    if why := machine.missing():
        pytest.skip(why)
    files: dict[str, bytes | Path] = {"vnotch.deb": deb, "in_machine.py": Path(__file__).with_name("in_machine.py")}
    log = machine.run(LIFE, files, seconds=420)
    print(log)
    assert log.rstrip().endswith("THE END")
