"""The host as a lab must leave it: read whole before and after, and compared."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PREFIX = "vnlt"
_UNSTEADY = ("neigh/", "route/flush", "nf_conntrack_count", "neigh_", "bpf_jit_limit", "nf_conntrack_max")


def _ip(*arguments: str) -> Any:
    done = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def sysctls() -> dict[str, str]:
    """The host's settings below /proc/sys/net that are settings, not counts."""
    found: dict[str, str] = {}
    for folder, _, names in os.walk("/proc/sys/net"):
        for name in names:
            path = os.path.join(folder, name)
            if any(part in path for part in _UNSTEADY):
                continue
            try:
                found[path] = Path(path).read_text()
            except OSError:
                continue  # some can be written only
    return found


def lifeless(links: list[dict[str, Any]]) -> list[tuple[str, int, str, str]]:
    """What of a link does not change by itself."""
    return sorted((link["ifname"], link["mtu"], link.get("address", ""), link.get("operstate", "")) for link in links)


def snapshot() -> dict[str, Any]:
    """Links, addresses, routes, rules, sysctls and nf_tables of the namespace that we are in."""
    addresses = [
        (link["ifname"], entry["local"], entry["prefixlen"]) for link in _ip("addr") for entry in link["addr_info"]
    ]
    ours = [link for link in _ip("link") if not link["ifname"].startswith("veth")]
    return {
        "links": lifeless(ours),
        "addresses": sorted(addresses),
        "routes": [_ip("route", "show", "table", "all"), _ip("-6", "route", "show", "table", "all")],
        "rules": [_ip("rule"), _ip("-6", "rule")],
        "sysctls": sysctls(),
        "nft": nft_tables(),
    }


def nft_tables() -> list[bytes]:
    """Every nf_tables table of our namespace, as the kernel lists them (NFT_MSG_GETTABLE, a dump)."""
    import socket
    import struct

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.settimeout(5)
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHII", 20, 10 << 8 | 1, 0x1 | 0x300, 1, 0) + struct.pack(">BBH", 0, 0, 0))
        found: list[bytes] = []
        while True:
            data = netlink.recv(1 << 17)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                    return sorted(found)
                found.append(data[20:length])
                data = data[(length + 3) & ~3 :]


def namespaces() -> list[str]:
    """Names of all network namespaces but those of other tests' labs."""
    run = Path("/run/netns")
    return sorted(entry.name for entry in run.iterdir() if entry.name.startswith(PREFIX)) if run.is_dir() else []


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
