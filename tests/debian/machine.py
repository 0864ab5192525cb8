"""The distribution's own systemd, booted in namespaces of its own on a copy-on-write view of this machine.

What is installed there is gone with it, and its network is its own: the package's whole life can be tried out, under
the systemd that will run it, without touching the machine. Needs root, overlayfs, cgroup2 and systemd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")

BOOT = """
set -e
mount -t tmpfs -o mode=755 vntest "$FOLDER/disk"
cd "$FOLDER/disk"
mkdir up work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/up,workdir=$PWD/work" root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount -t cgroup2 cgroup2 root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs root/run
mount -t tmpfs -o mode=1777 tmpfs root/tmp
mount --rbind /dev root/dev
mount --bind "$FOLDER/shared" root/mnt
ip link set lo up
cat >root/etc/systemd/system/probe.service <<UNIT
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c "exec /bin/bash -ex /mnt/probe.sh >/mnt/log 2>&1"
ExecStopPost=/bin/systemctl --no-block poweroff
UNIT
cat >root/etc/systemd/system/probe.target <<UNIT
[Unit]
Requires=basic.target
Wants=probe.service
After=basic.target
AllowIsolate=yes
UNIT
cd root
mkdir -p old
pivot_root . old
exec chroot . /bin/sh -c 'umount -l /old; exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  /lib/systemd/systemd --unit=probe.target --log-target=null'
"""


def missing() -> str | None:
    """What this machine lacks for it."""
    if not SYSTEMD.exists():
        return "systemd is not installed"
    kinds = Path("/proc/filesystems").read_text().split()
    if not {"overlay", "cgroup2"} <= set(kinds) or _cgroups() is None:
        return "the kernel has no overlayfs or no cgroup2 is mounted"
    return None


def run(script: str, files: dict[str, bytes | Path], seconds: float) -> str:
    """Boots, runs `script` by bash -ex with `files` in /mnt, and powers off. -> what it wrote."""
    folder = Path(tempfile.mkdtemp(prefix="vntest-machine-"))
    (folder / "disk").mkdir()
    shared = folder / "shared"
    shared.mkdir()
    (shared / "probe.sh").write_text(script)
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copy(content, shared / name)
        else:
            (shared / name).write_bytes(content)
    above = _cgroups()
    assert above is not None
    group = above / f"vntest-{os.getpid()}"
    group.mkdir()
    inside = f'echo $$ >{group}/cgroup.procs; exec unshare "$@"'
    namespaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    namespaces += ["--net", "--uts", "--ipc", "--cgroup", "bash", "-c", BOOT]
    try:
        process = subprocess.Popen(
            ["bash", "-c", inside, "bash", *namespaces],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FOLDER": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            boot, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            boot, _ = process.communicate()
        log = shared / "log"
        return log.read_text(errors="replace") if log.exists() else boot.decode(errors="replace")
    finally:
        _remove(group)
        shutil.rmtree(folder)


def _cgroups() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


def _remove(group: Path) -> None:
    """The kernel lets a cgroup go when its last process is gone, a moment after it was killed."""
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for path, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                time.sleep(0.05)
