"""A lab on this host: that everything in it works, that it goes whole, and that the host does not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import host
import pytest

from vnotch.errors import HostError, InputError
from vnotch.lab import namespaces
from vnotch.lab.journal import RUN, Journal, process_start_ticks
from vnotch.lab.lab import Event, Lab
from vnotch.lab.topology import Eni, Topology
from vnotch.lab.topology_file import default_topology_path, load_topology, parse_topology
from vnotch.lab.traffic import run_once

pytestmark = pytest.mark.root

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def prefix() -> str:
    """One of our own, so that a lab that is up on this host is not disturbed."""
    return f"{host.PREFIX}{os.getpid()}"


@pytest.fixture
def topology() -> Topology:
    return load_topology(default_topology_path())


@pytest.fixture
def lab(tmp_path: Path, prefix: str, topology: Topology) -> Iterator[Lab]:
    lab = Lab(tmp_path / "lab", topology, prefix=prefix)
    try:
        yield lab
    finally:
        lab.down()
        assert [name for name in host.namespaces() if name.startswith(prefix)] == []


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for the tests that leave it as it is."""
    lab = Lab(tmp_path_factory.mktemp("standing"), prefix=f"{host.PREFIX}s{os.getpid()}")
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def words(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if event.kind == "word")


def test_all_kinds_of_traffic_work_end_to_end(standing: Lab) -> None:
    report = run_once(standing.topology, standing.prefix)
    kinds = {
        "http", "http-ipv6", "http-app", "http-inside", "http-out", "http-nat", "ping", "ping-ipv6", "ssh", "mysql",
        "dns", "dns-out", "time", "metadata",
    }  # fmt: skip
    assert set(report.kinds) == kinds
    # A visit is only `ok` where what came back is right: http-nat, that the site saw the NAT gateway's public address,
    # dns, that the address was the instance's, and so on.
    assert {kind: (counts.ok, counts.problem) for kind, counts in report.kinds.items()} == {
        kind: (counts.sent, "") for kind, counts in report.kinds.items()
    }


def test_the_site_sees_an_instance_by_its_own_address_or_the_nat_gateways(standing: Lab, topology: Topology) -> None:
    seen = {}
    site = str(topology.with_role("site")[0].address)
    for name in ("web", "app"):
        seen[name] = fetch(f"{standing.prefix}-{name}", site, "/whoami")
    assert seen == {"web": "203.0.113.10", "app": "203.0.113.220"}


def test_what_has_no_way_does_not_get_through(lab: Lab, topology: Topology) -> None:
    """An instance without a public address in a public subnet, a private one over IPv6, and the NAT gateway's own
    public address: none of them is a way in or out."""
    text = topology.text.replace('public_address = "203.0.113.20"\n', "")
    Lab.__init__(lab, lab.folder, parse_topology(text, "lab.toml"), prefix=lab.prefix)
    lab.up()
    site = topology.with_role("site")[0]
    assert connects(f"{lab.prefix}-bastion", str(site.address), 80) == "timed out"
    assert connects(f"{lab.prefix}-app", str(site.ipv6), 80) != "connected"
    assert connects(f"{lab.prefix}-alice", "203.0.113.220", 80) == "timed out"
    assert connects(f"{lab.prefix}-alice", "203.0.113.99", 80) != "connected"
    assert connects(f"{lab.prefix}-web", "10.0.0.99", 80) == "timed out"
    assert connects(f"{lab.prefix}-alice", "203.0.113.10", 80) == "connected"


def test_up_and_down_twice_end_clean_and_say_so(tmp_path: Path, prefix: str, topology: Topology) -> None:
    events: list[Event] = []
    lab = Lab(tmp_path / "lab", topology, prefix=prefix, events=events.append)
    first = lab.up()
    pid = first.services
    assert first.phase == "up"
    assert "up already" not in words(events)
    second = Lab(tmp_path / "lab", topology, prefix=prefix, events=events.append).up()
    assert "up already" in words(events)
    assert (second.services, second.namespaces) == (pid, first.namespaces)
    lab.down()
    assert "there is no lab" not in words(events)
    assert lab.status().phase == "absent"
    lab.down()
    assert "there is no lab" in words(events)
    assert host.processes_of(tmp_path) == []
    assert list((tmp_path / "lab").iterdir()) == []
    assert not (RUN / f"{prefix}.json").exists()


def test_the_host_is_as_before(tmp_path: Path, prefix: str, topology: Topology) -> None:
    before = host.snapshot()
    names = namespaces.existing(prefix)
    lab = Lab(tmp_path / "lab", topology, prefix=prefix)
    lab.up()
    try:
        during = host.snapshot()
        assert len(namespaces.existing(prefix)) == len(topology.enis) + len(topology.outside) + 2
    finally:
        lab.down()
    assert during == before
    assert host.snapshot() == before
    assert namespaces.existing(prefix) == names == []


def test_a_host_that_uses_the_vpcs_range_does_not_matter(lab: Lab) -> None:
    """The same lab, built from inside a namespace whose own network is 10.0.0.0/16."""
    script = f"""
import sys
sys.path.insert(0, {str(SOURCE)!r})
from pathlib import Path
from vnotch.lab.lab import Lab
from vnotch.lab.traffic import run_once
lab = Lab(Path({str(lab.folder)!r}), prefix={lab.prefix!r})
lab.up()
report = run_once(lab.topology, lab.prefix)
assert all(counts.ok == counts.sent for counts in report.kinds.values()), report
"""
    name = f"{host.PREFIX}h{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["nsenter", f"--net=/run/netns/{name}"]
        for command in ("link add lan type veth peer name far", "addr add 10.0.0.10/16 dev lan", "link set lan up"):
            subprocess.run([*inside, "ip", *command.split()], check=True)
        subprocess.run([*inside, sys.executable, "-c", script], check=True, timeout=60)
    finally:
        lab.down()
        subprocess.run(["ip", "netns", "delete", name], check=True)


BUILD = """
import sys
sys.path.insert(0, {source!r})
from pathlib import Path
from vnotch.lab.lab import Lab
Lab(Path({folder!r}), prefix={prefix!r}).up(attached={attached})
print("built", flush=True)
"""


def test_kill_at_any_point_of_up_then_down_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    before = host.snapshot()
    script = BUILD.format(source=str(SOURCE), folder=str(lab.folder), prefix=lab.prefix, attached=None)
    killed_in = set()
    for seconds in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4):
        building = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
        while not lab.folder.joinpath("lab.json").exists():
            assert building.poll() is None
            time.sleep(0.002)
        time.sleep(seconds)  # from here on things are made
        building.kill()
        building.wait()
        journal = Journal.load(lab.folder)
        killed_in.add(journal.phase if journal else "absent")
        lab.down()
        assert namespaces.existing(lab.prefix) == []
        assert Journal.load(lab.folder) is None
    deadline = time.monotonic() + 5
    while host.processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)  # a process that was being born when its parent died sees that the lab is gone
    assert host.processes_of(tmp_path) == []
    assert host.snapshot() == before
    assert "building" in killed_in


@pytest.mark.parametrize("victim", [0, 1, 6])
def test_kill_before_a_certain_namespace_then_up_again(lab: Lab, victim: int) -> None:
    """The journal names what is about to be made; `up` removes the half and builds the whole."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(SOURCE)!r})
from pathlib import Path
from vnotch.lab import namespaces
from vnotch.lab.lab import Lab
made, create = [], namespaces.create
def create_or_die(name):
    if len(made) == {victim}:
        (namespaces.RUN / name).touch()  # as a kill between making the file and mounting on it leaves it
        os.kill(os.getpid(), signal.SIGKILL)
    made.append(name)
    create(name)
namespaces.create = create_or_die
Lab(Path({str(lab.folder)!r}), prefix={lab.prefix!r}).up()
"""
    died = subprocess.run([sys.executable, "-c", script], timeout=60).returncode
    assert died == -signal.SIGKILL
    assert lab.status().phase == "building"
    assert lab.up().phase == "up"
    assert run_once(lab.topology, lab.prefix, eni="web").count("http").ok == 1


def test_the_link_goes_up_after_the_capture_is_attached(lab: Lab) -> None:
    seen: dict[str, dict[str, bool]] = {}

    def attached(eni: object) -> None:
        seen[eni.name] = lab.status().devices  # type: ignore[attr-defined]

    lab.up(attached=attached)
    assert list(seen) == ["web", "bastion", "app", "database", "nat"]
    for name, devices in seen.items():
        assert devices[f"vn-{name}"] is False
    assert all(lab.status().devices.values())


def test_a_build_that_fails_leaves_nothing(lab: Lab) -> None:
    def attached(eni: object) -> None:
        raise HostError("no capture today")

    with pytest.raises(HostError, match="no capture today"):
        lab.up(attached=attached)
    assert lab.status().phase == "absent"
    assert namespaces.existing(lab.prefix) == []


def test_two_labs_do_not_collide(standing: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other", prefix=standing.prefix)
    for attempt in (other.up, other.down):
        with pytest.raises(HostError, match="another lab is up") as caught:
            attempt()
        assert str(standing.folder) in str(caught.value)
    assert standing.status().phase == "up"
    assert all(standing.status().devices.values())
    assert not (tmp_path / "other").exists()


def test_a_lab_whose_journal_is_lost_is_a_leftover(lab: Lab, tmp_path: Path) -> None:
    lab.up()
    services = lab.status().services
    assert services is not None
    ticks = process_start_ticks(services)
    lab.folder.rename(tmp_path / "moved")
    other = Lab(tmp_path / "other", prefix=lab.prefix)
    other.down()
    assert namespaces.existing(lab.prefix) == []
    deadline = time.monotonic() + 5
    while process_start_ticks(services) == ticks and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process_start_ticks(services) != ticks, "the process that serves ends when its journal is gone"


def test_another_topology_is_refused_while_a_lab_is_up(standing: Lab, topology: Topology) -> None:
    other = parse_topology(topology.text.replace("10.0.0.10", "10.0.0.12"), "other.toml")
    with pytest.raises(InputError, match="another topology"):
        Lab(standing.folder, other, prefix=standing.prefix).up()


def test_no_process_is_killed_that_is_not_ours(lab: Lab) -> None:
    """A journal from before a reboot may name a process id that is somebody else's now."""
    lab.up()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        journal = Journal.load(lab.folder)
        assert journal
        ours = journal.services
        ticks = process_start_ticks(bystander.pid)
        assert ticks is not None
        journal.services = [bystander.pid, ticks - 1]
        journal.save()
        lab.down()
        assert bystander.poll() is None
        assert process_start_ticks(ours[0]) != ours[1], "ours is ended, as it has noted itself"
    finally:
        bystander.kill()
        bystander.wait()


def test_services_that_died_are_started_again(lab: Lab) -> None:
    lab.up()
    first = lab.status().services
    assert first
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while lab.status().services and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lab.status().services is None
    second = lab.up().services
    assert second not in (None, first)
    assert run_once(lab.topology, lab.prefix, eni="web").count("http").ok == 1


def test_an_added_instance_serves_and_is_reached(lab: Lab) -> None:
    services = lab.up().services
    order: list[str] = []

    def attached(eni: Eni) -> None:
        time.sleep(1.5)  # an agent may take its time: the name is in the journal, the instance does not serve yet
        order.append(eni.name)

    added = lab.add("extra", "public", attached=attached)
    assert order == ["extra"]
    assert str(added.eni.address) == "10.0.0.11"
    assert added.instance_id.startswith("i-0")
    assert len(added.instance_id) == 19
    assert {kind: counts.ok for kind, counts in added.report.kinds.items()} == {
        kind: counts.sent for kind, counts in added.report.kinds.items()
    }
    assert {"http", "http-ipv6", "http-out", "dns", "metadata"} <= set(added.report.kinds)
    private = lab.add("worker", "private")
    assert private.report.count("http-nat").ok == 1
    assert private.report.count("http-inside").ok == 1
    assert {"extra", "worker"} <= {eni.name for eni in lab.status().enis}
    assert lab.status().services == services, "the process that serves takes them in as it runs"
    assert lab.up().phase == "up", "up still knows the lab as whole"


def test_an_instance_that_cannot_be_added_leaves_the_lab_as_it_was(lab: Lab) -> None:
    lab.up()
    before = lab.status()

    def attached(eni: object) -> None:
        raise HostError("no capture today")

    with pytest.raises(HostError, match="no capture today"):
        lab.add("extra", "public", attached=attached)
    assert lab.status() == before
    with pytest.raises(InputError, match="no subnet"):
        lab.add("extra", "nowhere")
    assert lab.add("extra", "public").report.count("http").ok == 1


def test_nothing_can_be_added_to_a_lab_that_is_down(lab: Lab) -> None:
    with pytest.raises(HostError, match="not up"):
        lab.add("extra", "public")
    with pytest.raises(HostError, match="not up"):
        lab.traffic(seconds=1)


def test_traffic_is_bounded_and_counted(standing: Lab) -> None:
    report = standing.traffic(seconds=2, rate=30, scan_ports=20)
    assert 2 <= report.seconds < 6
    visits = sum(counts.sent + counts.skipped for kind, counts in report.kinds.items() if kind != "scan")
    assert visits == 60
    for counts in report.kinds.values():
        assert counts.sent == counts.ok + counts.refused + counts.timed_out + counts.failed
    assert all(counts.ok == counts.sent for kind, counts in report.kinds.items() if kind != "scan")
    # Nothing enforces here, so each probe arrives: port 80 and 22 are open, the rest is answered by a reset.
    assert report.count("scan").sent == 40
    assert report.answered == {"web": {80}, "bastion": {22}}
    assert report.arrived == report.probed
    assert len(report.probed["web"]) == 20


def test_a_probe_that_is_dropped_is_not_counted_as_arrived(lab: Lab) -> None:
    """Closes the link behind the router: nothing gets to the instance, so nothing may be counted at it."""
    lab.up()
    subprocess.run(["ip", "-n", lab.router_namespace, "link", "set", "vn-web", "down"], check=True)
    report = lab.traffic(seconds=1, rate=1, scan_ports=10)
    assert report.arrived["web"] == set()
    assert report.arrived["bastion"] == report.probed["bastion"]
    assert len(report.probed["web"]) == 10


@pytest.mark.parametrize("arguments", [{"seconds": 0}, {"seconds": 1, "rate": 0}, {"seconds": 1, "scan_ports": 70000}])
def test_traffic_without_bounds_is_refused(standing: Lab, arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match="traffic for"):
        standing.traffic(**arguments)  # type: ignore[arg-type]


def test_the_plan_names_every_namespace(standing: Lab) -> None:
    plan = "\n".join(standing.plan())
    for name in namespaces.existing(standing.prefix):
        assert f"network namespace {name}:" in plan


def test_without_privilege_one_line_says_what_to_do(tmp_path: Path) -> None:
    """As nobody, with the same code: refused before anything is made."""
    script = BUILD.format(source="/nowhere", folder=str(tmp_path / "lab"), prefix="vnltnobody", attached=None)
    loaded = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import vnotch.lab.lab, pyroute2, os; os.setuid(65534)\n"
    done = subprocess.run([sys.executable, "-c", loaded + script], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "needs root" in done.stderr
    assert "run it with sudo" in done.stderr
    assert not (tmp_path / "lab").exists()


def test_a_prefix_that_could_be_anothers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prefix"):
        Lab(tmp_path, prefix="vn-lab")


def test_a_large_lab(tmp_path: Path, prefix: str, topology: Topology) -> None:
    """The largest number of interfaces, to see that the bounds on netlink messages and descriptors are wide enough."""
    for number in range(195):
        topology, _ = topology.with_instance(f"m{number}", "public")
    assert len(topology.enis) == 200
    with pytest.raises(InputError, match="limit is 200"):
        topology.with_instance("onemore", "public")
    from vnotch.lab.nat import translate_internet_gateway

    pairs = [(eni.address, eni.public_address) for eni in topology.enis if eni.public_address]
    assert len(pairs) > 190
    namespaces.inside_new(lambda: translate_internet_gateway("vn-igw", pairs))
    assert replace(topology) == topology


def run_in(namespace: str, code: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", code], capture_output=True, text=True, timeout=20
    )
    return done.stdout.strip() or done.stderr.strip()


def fetch(namespace: str, address: str, path: str) -> str:
    """By the standard library, not by the lab's own client."""
    return run_in(
        namespace, f"import urllib.request as u; print(u.urlopen('http://{address}{path}', timeout=3).read().decode())"
    )


def connects(namespace: str, address: str, port: int) -> str:
    code = f"""
import socket
try:
    socket.create_connection(({address!r}, {port}), 1).close()
    print("connected")
except TimeoutError:
    print("timed out")
except OSError as error:
    print(error.strerror)
"""
    return run_in(namespace, code)
