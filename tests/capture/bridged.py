"""A bridge on a host with containers at its ports, and an uplink by which the host routes to a third namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import packets as pk
from links import run
from routed import Routed, knock, mac_bytes, transport

from vnotch.capture.interfaces import Namespace


class Bridged(Routed):
    """As `Routed`, but the host's side of the pair is a port of the bridge `vn-br`, which has the host's addresses and
    its MAC address. At another port is a second instance, with 10.77.0.3 and fd77::3 on its `eth0` and the host's
    `vn-port2` at its other end."""

    bridge = "vn-br"
    second_device = "vn-port2"
    second_v4, second_v6 = "10.77.0.3", "fd77::3"
    second_mac = "02:00:00:00:77:03"
    port_mac = "02:00:00:00:77:f1"

    def __init__(self) -> None:
        super().__init__()
        self.second = self.host.replace("-h-", "-s-")
        run("ip", "netns", "add", self.second)
        self._namespaces[self.second] = Namespace(self.second)
        host, second = ("ip", "-n", self.host), ("ip", "-n", self.second)
        link = f"link add {self.second_device} type veth peer name eth0 address {self.second_mac} netns {self.second}"
        run(*host, *link.split())
        run(*host, *f"link add {self.bridge} address {self.host_mac} type bridge mcast_snooping 0".split())
        run(*host, "addr", "flush", "dev", self.host_device)
        run(*host, *f"link set {self.host_device} address {self.port_mac} master {self.bridge}".split())
        run(*host, *f"link set {self.second_device} master {self.bridge}".split())
        for device in (self.second_device, self.bridge):
            run(*host, "link", "set", device, "up")
        for device in (self.host_device, self.second_device):  # no packets of their own
            self.in_host(Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text, "1")
        run(*host, "addr", "add", f"{self.host_v4}/24", "dev", self.bridge)
        run(*host, "addr", "add", f"{self.host_v6}/64", "dev", self.bridge, "nodad")
        run(*second, "link", "set", "lo", "up")
        run(*second, "addr", "add", f"{self.second_v4}/24", "dev", "eth0")
        run(*second, "addr", "add", f"{self.second_v6}/64", "dev", "eth0", "nodad")
        run(*second, "link", "set", "eth0", "up")
        for gateway in (self.host_v4, self.host_v6):
            run(*second, "route", "add", "default", "via", gateway)
        known = [
            (self.host, self.bridge, self.instance_mac, self.instance_v4, self.instance_v6),
            (self.host, self.bridge, self.second_mac, self.second_v4, self.second_v6),
            (self.second, "eth0", self.host_mac, self.host_v4, self.host_v6),
            (self.second, "eth0", self.instance_mac, self.instance_v4, self.instance_v6),
            (self.instance, self.instance_device, self.second_mac, self.second_v4, self.second_v6),
        ]
        for namespace, device, mac, *addresses in known:
            for address in addresses:
                run("ip", "-n", namespace, "neigh", "replace", address, "lladdr", mac, "dev", device)
        self.through_netfilter(False)
        self._learn()
        self.settle()

    def through_netfilter(self, on: bool) -> None:
        """Whether the rules of IP see what the bridge passes from port to port (br_netfilter)."""
        for family in ("ip", "ip6"):
            file = Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}tables")
            if self.in_host(file.exists):
                self.in_host(file.write_text, str(int(on)))

    def has_br_netfilter(self) -> bool:
        return self.in_host(Path("/proc/sys/net/bridge").exists)

    def _learn(self) -> None:
        """The bridge knows who is at which port, and the neighbours beyond it are found."""
        for namespace in (self.instance, self.second):
            for address in (self.far_v4, self.far_v6):
                self._namespaces[namespace].run(knock, address)

    def in_second(self, function: Any, *arguments: Any) -> Any:
        return self._namespaces[self.second].run(function, *arguments)

    def send_from(
        self, namespace: str, protocol: str, addresses: tuple[str, str], count: int, *, source_mac: str, to_mac: str
    ) -> None:
        """Frames as they are; `addresses` are source and destination."""
        family = 6 if ":" in addresses[0] else 4
        packet = {4: pk.ipv4, 6: pk.ipv6}[family](*addresses, transport(protocol, family))
        frame = pk.ethernet(packet, source=mac_bytes(source_mac), destination=mac_bytes(to_mac))
        self.inject(namespace, "eth0", [frame] * count)

    def close(self) -> None:
        super().close()
        subprocess.run(["ip", "netns", "del", self.second], check=False, capture_output=True)
