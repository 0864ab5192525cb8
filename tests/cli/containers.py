"""Podman on a host of its own: a network and a mount namespace made here, an image made of this host's busybox.

/run, /var/lib and the cgroup mount of that mount namespace are its own, so that nothing of what Podman writes is seen
by this host. It is the engine as people run it, but for the control of resources (`--cgroups disabled`): a test may not
count on owning a part of the host's cgroup tree.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

SUBNET, GATEWAY = "10.123.0.0/24", "10.123.0.1"
TOOLS = ("podman", "crun", "busybox")

_HOST = """set -e
mount --make-rprivate /
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
echo ready
exec cat
"""
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Podman's own defaults are above what an unprivileged virtual machine may allow."""


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class Podman:
    """`host` is the path of its network namespace, for `--netns`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = ["unshare", "--mount", "--net", "sh", "-c", _HOST]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.host = f"/proc/{self._holder.pid}/ns/net"
        try:
            self._write_network()
            self._make_image()
        except BaseException:
            self._holder.communicate()
            raise

    def _write_network(self) -> None:
        """Containers on a bridge, addresses given out by the host-local plugin: Podman's own default but for NAT."""
        addresses = {
            "type": "host-local",
            "dataDir": str(self._folder / "addresses"),
            "ranges": [[{"subnet": SUBNET, "gateway": GATEWAY, "rangeStart": "10.123.0.10"}]],
        }
        bridge = {"type": "bridge", "bridge": "podman0", "isGateway": True, "ipam": addresses}
        document = {"cniVersion": "0.4.0", "name": "tested", "plugins": [bridge]}
        (self._folder / "networks").mkdir()
        (self._folder / "networks" / "tested.conflist").write_text(json.dumps(document))

    def _make_image(self) -> None:
        tree = self._folder / "image"
        (tree / "bin").mkdir(parents=True)
        shutil.copy(str(shutil.which("busybox")), tree / "bin" / "busybox")
        (tree / "bin" / "httpd").symlink_to("busybox")
        (tree / "www").mkdir()
        (tree / "www" / "index.html").write_text("hello\n")
        subprocess.run(["tar", "-C", str(tree), "-cf", str(self._folder / "image.tar"), "."], check=True)
        self("import", str(self._folder / "image.tar"), "localhost/web")

    def __call__(self, *arguments: str) -> str:
        # Podman takes no runroot of more than 50 characters, so that sockets below it have names that fit.
        options = ["--runroot=/run/engine", "--tmpdir=/run/engine-tmp", f"--root={self._folder / 'storage'}"]
        options += [f"--network-config-dir={self._folder / 'networks'}"]
        options += ["--cgroup-manager=cgroupfs", "--events-backend=none", "--storage-driver=vfs", "--runtime=crun"]
        return self.inside("podman", *options, *arguments)

    def run_web(self, name: str, *options: str) -> None:
        """A container that serves a page at port 80."""
        plain = ("--network=tested", "--cgroups=disabled", "--log-driver=k8s-file", *_LIMITS)
        self("run", "--detach", "--name", name, *plain, *options, "localhost/web", "/bin/httpd", "-f", "-h", "/www")

    def address(self, name: str) -> str:
        return self("inspect", name, "--format", "{{.NetworkSettings.Networks.tested.IPAddress}}").strip()

    def process(self, name: str) -> int:
        return int(self("inspect", name, "--format", "{{.State.Pid}}"))

    def fetch(self, client: str, address: str) -> str:
        """What a container gets from another one's port 80."""
        return self("exec", client, "/bin/busybox", "wget", "-q", "-O", "-", f"http://{address}/")

    def inside(self, *command: str) -> str:
        entered = ["nsenter", "--target", str(self._holder.pid), "--mount", "--net", *command]
        done = subprocess.run(entered, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        try:
            self("rm", "--all", "--force", "--time", "0")
        finally:
            self._holder.communicate()
