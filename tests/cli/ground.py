"""A host with something to attach: a namespace that an agent captures, and instances behind its links.

instance (172.19.0.2) eth0 -- vm0 [ port of br0 172.19.0.1/16, host namespace ]
instance (10.78.0.2)  eth0 -- pod0 [ route to 10.78.0.2/32, no address ]
outside  (10.79.0.1)  eth0 -- up0 10.79.0.2/24 [ default route ]
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.cli.running import RunningServer, run, start, until

PORT = 9999


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Ground:
    """Links and namespaces; all names carry the test process's number."""

    def __init__(self) -> None:
        number = os.getpid()
        self.host = f"vnatt-h-{number}"
        self.instances = {device: f"vnatt-{device}-{number}" for device in ("vm0", "pod0", "up0")}
        for name in (self.host, *self.instances.values()):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        self.at(self.host, "link", "add", "br0", "type", "bridge")
        self.at(self.host, "addr", "add", "172.19.0.1/16", "dev", "br0")
        self.at(self.host, "link", "set", "br0", "up")
        self.add_link("vm0")
        self.add_link("pod0")
        self.add_link("up0")

    def at(self, namespace: str, *arguments: str) -> str:
        return ip("-n", namespace, *arguments)

    def add_link(self, device: str) -> None:
        instance = self.instances[device]
        self.at(self.host, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", instance)
        own, gateway = {
            "vm0": ("172.19.0.2/16", "172.19.0.1"),
            "pod0": ("10.78.0.2/32", "169.254.1.1"),
            "up0": ("10.79.0.1/24", None),
        }[device]
        self.at(instance, "addr", "add", own, "dev", "eth0")
        self.at(instance, "link", "set", "eth0", "up")
        self.at(self.host, "link", "set", device, "up")
        if device == "vm0":
            self.at(self.host, "link", "set", device, "master", "br0")
        if device == "pod0":
            self.at(self.host, "route", "replace", "10.78.0.2/32", "dev", device)
            self.at(self.host, "addr", "add", "169.254.1.1/32", "scope", "link", "dev", device)
            self.at(instance, "route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        if device == "up0":
            self.at(self.host, "addr", "add", "10.79.0.2/24", "dev", device)
            self.at(self.host, "route", "replace", "default", "via", "10.79.0.1", "dev", device)
        if gateway:
            self.at(instance, "route", "add", "default", "via", gateway, "dev", "eth0")

    def mac(self, device: str) -> str:
        """Of the instance behind a device."""
        shown = json.loads(self.at(self.instances[device], "-j", "link", "show", "eth0"))
        return str(shown[0]["address"])

    def send(self, device: str, count: int, to: str | None = None, source_port: int = 40000) -> None:
        """`count` UDP datagrams from the instance behind a device, spread so that no queue drops any."""
        to = to or {"vm0": "172.19.0.1", "pod0": "169.254.1.1", "up0": "10.79.0.2"}[device]
        self._run(self.instances[device], to, count, source_port)

    def send_from_host(self, to: str, count: int, source_port: int) -> None:
        self._run(self.host, to, count, source_port)

    @staticmethod
    def _run(namespace: str, to: str, count: int, source_port: int) -> None:
        code = (
            "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"s.bind(('', {source_port}))\n"
            f"for i in range({count}):\n    s.sendto(bytes(100), ('{to}', {PORT}))\n    time.sleep(0.001)"
        )
        subprocess.run(["ip", "netns", "exec", namespace, sys.executable, "-c", code], check=True)

    def received(self, namespace: str, count: int, sender: Any) -> int:
        """How many of the datagrams that `sender` sends arrive at a listener in `namespace`."""
        code = (
            "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"s.bind(('', {PORT})); s.settimeout(1.5); print(flush=True); n = 0\n"
            f"try:\n    while n < {count}: s.recv(4096); n += 1\nexcept TimeoutError: pass\nprint(n)"
        )
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            sender()
            return int(listener.stdout.read())

    def hooks(self, device: str, namespace: str | None = None) -> str:
        """What tc shows at a device; programs of tcx links are not in it."""
        where = namespace or self.host
        shown = [("qdisc", "show", "dev", device), ("filter", "show", "dev", device, "ingress")]
        return "".join(
            subprocess.run(["tc", "-n", where, *words], check=True, capture_output=True, text=True).stdout
            for words in shown
        )

    def close(self) -> None:
        for name in (self.host, *self.instances.values()):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class RunningAgent:
    """An agent of the ground's host, which can be killed and started again."""

    def __init__(self, server: RunningServer, ground: Ground, folder: Path) -> None:
        self.server, self.ground, self.log = server, ground, folder / "agent.log"
        self.name = f"vnatt-{os.getpid()}"
        self.ready = folder / "ready"
        self.start()

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        arguments = ["agent", "--name", self.name, "--netns", self.ground.host, "--flush"]
        arguments += ["--data-dir", self.server.data_dir, "--ready-file", str(self.ready)]
        self.process = start(*arguments, log=self.log)
        until("the agent is ready", lambda: self.ready.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        until("its status is known", lambda: (self.status().get("received_ms") or 0) > time.time() * 1000 - 5000)

    def status(self) -> dict[str, Any]:
        return self.server.endpoint.agent_status(self.name) or {}

    def state(self, interface_id: str) -> dict[str, Any]:
        found = [item for item in self.status()["interfaces"] if item["interface_id"] == interface_id]
        return found[0] if found else {}

    def pins(self) -> list[str]:
        """Those that belong to a slot; others are the agent's own."""
        folder = Path("/run/vnotch/bpf") / self.name
        return sorted(path.name for path in folder.iterdir() if re.fullmatch(r"(link|qdisc)_\d+.*", path.name))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)


class Records:
    """The records of one interface in a log group."""

    def __init__(self, server: RunningServer, group: str, interface_id: str) -> None:
        self.logs, self.group, self.interface_id = server.endpoint.client("logs"), group, interface_id

    def lines(self) -> list[list[str]]:
        found: list[list[str]] = []
        with contextlib.suppress(self.logs.exceptions.ResourceNotFoundException):
            pages = self.logs.get_paginator("filter_log_events").paginate(
                logGroupName=self.group, logStreamNamePrefix=self.interface_id
            )
            found = [event["message"].split(" ") for page in pages for event in page["events"]]
        return found

    def packets(self, action: str | None = None) -> int:
        """Of the datagrams that tests send, at the port of tests."""
        return sum(
            int(line[8]) for line in self.lines() if line[6] == str(PORT) and (action is None or line[12] == action)
        )

    def wait_for(self, packets: int, seconds: float = 40) -> None:
        until(f"{packets} packets are in records", lambda: self.packets() >= packets, seconds)


def vnotch(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, "--data-dir", server.data_dir)
