"""Whose an interface is: containers by their processes and monitors, their names by the Docker API, taps by libvirt."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vnotch.workloads import Workloads, interface

ID = "0123456789abcdef" * 4
SHORT = "0123456789ab"
OTHER = "fedcba9876543210" * 4

CONMON = [
    "/usr/bin/conmon",
    "--api-version",
    "1",
    "-c",
    ID,
    "-u",
    ID,
    "-r",
    "/usr/bin/crun",
    "-n",
    "web",
    "--full-attach",
]
SHIM = [
    "/usr/bin/containerd-shim-runc-v2",
    "-namespace",
    "moby",
    "-id",
    ID,
    "-address",
    "/run/containerd/containerd.sock",
]

DOMAIN = """<domstatus state='running' reason='booted' pid='4711'>
  <monitor path='/var/lib/libvirt/qemu/domain-1-db/monitor.sock' type='unix'/>
  <domain type='kvm' id='1'>
    <name>db</name>
    <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
    <devices>
      <interface type='network'>
        <mac address='52:54:00:00:00:01'/>
        <source network='default' bridge='virbr0'/>
        <target dev='vnet0'/>
        <model type='virtio'/>
      </interface>
    </devices>
  </domain>
</domstatus>
"""
"""After libvirt's documentation of the domain XML."""


class Proc:
    """A /proc of a few processes; `namespace` is a file whose inode stands for a network namespace's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "proc"
        self.folder.mkdir()
        self.namespace = folder / "ns"
        self.namespace.touch()

    @property
    def inode(self) -> int:
        return self.namespace.stat().st_ino

    def process(self, pid: int, parent: int, words: list[str], cgroup: str = "/", inside: bool = False) -> None:
        place = self.folder / str(pid)
        (place / "ns").mkdir(parents=True)
        if inside:
            os.link(self.namespace, place / "ns" / "net")
        (place / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
        (place / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
        (place / "cgroup").write_text(f"0::{cgroup}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def workloads(proc: Proc, *sockets: Path, domains: Path | None = None) -> Workloads:
    return Workloads(proc.folder, sockets, (domains,) if domains else ())


def test_podman_by_its_monitor(proc: Proc) -> None:
    proc.process(100, 1, CONMON)
    proc.process(101, 100, ["/bin/sh"], inside=True)
    proc.process(102, 101, ["/bin/httpd"], inside=True)
    found = workloads(proc).of_namespace(proc.inode)
    assert found is not None
    assert found.identity == f"container/{SHORT}"
    assert found.tags == {"Name": "web", "vnotch:container": "web", "vnotch:container-id": SHORT}


def test_a_container_by_its_cgroup_without_a_name_is_named_by_its_id(proc: Proc) -> None:
    proc.process(101, 1, ["/bin/sh"], f"/system.slice/docker-{ID}.scope", inside=True)
    found = workloads(proc).of_namespace(proc.inode)
    assert found is not None
    assert (found.identity, found.tags["Name"]) == (f"container/{SHORT}", SHORT)


def test_several_containers_in_one_namespace_are_none_of_them(proc: Proc) -> None:
    proc.process(101, 1, ["/pause"], f"/docker/{ID}", inside=True)
    proc.process(102, 1, ["/app"], f"/docker/{OTHER}", inside=True)
    assert workloads(proc).of_namespace(proc.inode) is None


@pytest.mark.parametrize("words", [["/bin/sh"], ["conmon", "-c", "short"], ["conmon"], ["containerd-shim", "-id"]])
def test_what_no_runtime_started_is_no_container(proc: Proc, words: list[str]) -> None:
    proc.process(100, 1, words)
    proc.process(101, 100, ["/bin/sh"], inside=True)
    assert workloads(proc).of_namespace(proc.inode) is None
    assert workloads(proc).of_namespace(1) is None, "nobody is in that namespace"


class DockerApi:
    """The part of the Docker Engine API that tells of a container (GET /containers/{id}/json)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[str] = []
        self.status = 200
        self.document: Any = {
            "Id": ID,
            "Name": "/web-1",
            "Config": {"Image": "nginx:1.27", "Labels": {"com.docker.compose.service": "web"}},
        }
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append(self.path)
                body = json.dumps(api.document).encode()
                self.send_response(api.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        self._server = socketserver.UnixStreamServer(str(path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[DockerApi]:
    with tempfile.TemporaryDirectory() as folder:
        made = DockerApi(Path(folder) / "docker.sock")
        yield made
        made.close()


def test_docker_by_its_shim_and_its_api(proc: Proc, api: DockerApi) -> None:
    proc.process(100, 1, SHIM)
    proc.process(101, 100, ["nginx"], inside=True)
    known = workloads(proc, proc.folder / "none.sock", api.path)
    found = known.of_namespace(proc.inode)
    assert found is not None
    assert found.tags == {
        "Name": "web-1",
        "vnotch:container": "web-1",
        "vnotch:container-id": SHORT,
        "vnotch:image": "nginx:1.27",
        "vnotch:service": "web",
    }
    known.forget_others()
    assert known.of_namespace(proc.inode) == found
    assert api.asked == [f"/v1.24/containers/{ID}/json"], "asked once"
    known.forget_others()
    known.forget_others()
    known.of_namespace(proc.inode)
    assert len(api.asked) == 2, "it was away meanwhile"


def test_a_label_gives_the_name(proc: Proc, api: DockerApi) -> None:
    proc.process(101, 1, ["nginx"], f"/docker/{ID}", inside=True)
    api.document["Config"]["Labels"] = {"vnotch.name": "front\n" + "x" * 300}
    found = workloads(proc, api.path).of_namespace(proc.inode)
    assert found is not None
    assert found.tags["Name"] == ("front" + "x" * 300)[:256]
    assert found.tags["vnotch:container"] == "web-1"


@pytest.mark.parametrize(("status", "document"), [(404, {"message": "No such container"}), (200, []), (200, None)])
def test_an_api_that_does_not_know_it_leaves_the_monitors_name(
    proc: Proc, api: DockerApi, status: int, document: Any
) -> None:
    proc.process(100, 1, CONMON)
    proc.process(101, 100, ["nginx"], inside=True)
    api.status, api.document = status, document
    found = workloads(proc, api.path).of_namespace(proc.inode)
    assert found is not None
    assert found.tags["Name"] == "web"


def test_a_tap_by_libvirts_running_domains(proc: Proc, tmp_path: Path) -> None:
    (tmp_path / "db.xml").write_text(DOMAIN)
    (tmp_path / "broken.xml").write_text("<domstatus><domain>")
    known = workloads(proc, domains=tmp_path)
    found = known.of_tap("vnet0")
    assert found is not None
    assert found.identity == "domain/c7a5fdbd-edaf-9455-926a-d65c16db1809/vnet0"
    assert found.tags == {
        "Name": "db",
        "vnotch:domain": "db",
        "vnotch:domain-id": "c7a5fdbd-edaf-9455-926a-d65c16db1809",
    }
    assert known.of_tap("vnet1") is None
    assert workloads(proc, domains=tmp_path / "none").of_tap("vnet0") is None


def test_otherwise_the_interfaces_own_name() -> None:
    assert interface("tap7").tags == {"Name": "tap7"}
