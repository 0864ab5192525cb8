"""Units and containers of cgroup paths, as the documentation of systemd and of the runtimes has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vnotch.capture.cgroups import CgroupPaths, container_of, paths_of_process, unit_of

ID = "0123456789abcdef" * 4
SHORT = "0123456789ab"
OTHER = "fedcba9876543210" * 4
POD = "pod7f2a6b1c_9d3e_4f5a_8b6c_1d2e3f4a5b6c"

# (path, unit, container)
PATHS = [
    # systemd: services, templates, sessions, a user's own services, init
    ("/", None, None),
    ("/system.slice/nginx.service", "nginx.service", None),
    ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
    ("/system.slice/ssh.service/child", "ssh.service", None),
    ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope", None),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox.scope", "user@1000.service", None),
    ("/init.scope", "init.scope", None),
    ("/system.slice", None, None),
    ("/_cgroup.service", "cgroup.service", None),
    (r"/system.slice/dev-disk\x2dby.mount", r"dev-disk\x2dby.mount", None),
    ("/not a unit.service", None, None),
    # Docker: systemd driver and cgroupfs driver
    (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", SHORT),
    (f"/docker/{ID}", None, SHORT),
    ("/system.slice/docker.service", "docker.service", None),
    # Docker in Docker: the inner one
    (f"/docker/{OTHER}/docker/{ID}", None, SHORT),
    # Podman: root and rootless, systemd and cgroupfs; its monitor is not in the container
    (f"/machine.slice/libpod-{ID}.scope", f"libpod-{ID}.scope", SHORT),
    (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", SHORT),
    (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", None),
    (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
        "user@1000.service",
        SHORT,
    ),
    (f"/libpod_parent/libpod-{ID}", None, SHORT),
    # Kubernetes: containerd and CRI-O, both drivers
    (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{POD}.slice/cri-containerd-{ID}.scope",
     f"cri-containerd-{ID}.scope", SHORT),
    (f"/kubepods.slice/kubepods-{POD}.slice/crio-{ID}.scope", f"crio-{ID}.scope", SHORT),
    (f"/kubepods.slice/kubepods-{POD}.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope", None),
    (f"/kubepods/besteffort/{POD}/{ID}", None, SHORT),
    # nerdctl, LXC and LXD, nspawn
    (f"/system.slice/nerdctl-{ID}.scope", f"nerdctl-{ID}.scope", SHORT),
    ("/lxc.payload.web/system.slice/nginx.service", None, "web"),
    ("/lxc.monitor.web", None, None),
    ("/lxc/web", None, "web"),
    ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", "systemd-nspawn@web.service",
     "web"),
    (r"/machine.slice/systemd-nspawn@my\x2dweb.service/payload", r"systemd-nspawn@my\x2dweb.service", "my-web"),
    # a virtual machine is no container
    (r"/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt/emulator", r"machine-qemu\x2d1\x2ddb.scope", None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "unit", "container"), PATHS, ids=[path for path, _, _ in PATHS])
def test_unit_and_container_of_a_path(path: str, unit: str | None, container: str | None) -> None:
    assert (unit_of(path), container_of(path)) == (unit, container)


def test_version_2_comes_before_systemds_own_hierarchy_and_the_root_says_nothing() -> None:
    lines = ["9:name=systemd:/a.service\n", "4:memory:/docker/x\n", "0::/b.service\n"]
    assert paths_of_process(lines) == ["/b.service", "/a.service", "/docker/x"]
    assert paths_of_process(["1:name=systemd:/a.service\n", "0::/\n"]) == ["/a.service"]
    assert paths_of_process(["0::/a:b.service\n"]) == ["/a:b.service"]


def test_paths_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "system.slice" / "web.service").mkdir(parents=True)
    paths = CgroupPaths(tmp_path)
    assert paths.path_of(os.stat(tmp_path).st_ino) == "/"
    assert paths.path_of(os.stat(tmp_path / "system.slice" / "web.service").st_ino) == "/system.slice/web.service"
    (tmp_path / "new.service").mkdir()
    number = os.stat(tmp_path / "new.service").st_ino
    assert paths.path_of(number) is None, "looked for once a drain"
    paths.refresh()
    assert paths.path_of(number) == "/new.service"
    assert CgroupPaths(None).path_of(1) is None
