"""What people get wrong: one line that says what and the remedy, exit status 2, nothing half-made, no traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from policies import FLOW_LOGS_TRUST

from tests.cli.running import EXAMPLE, RunningServer, command, environment, free_port, run


def refused(done: subprocess.CompletedProcess[str], what: str, remedy: str = "") -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vnotch: ")
    assert what in lines[0]
    assert remedy in lines[0].partition(" — ")[2]


def test_an_unknown_quota_is_answered_with_those_there_are(tmp_path: Path) -> None:
    done = run("server", "--data-dir", str(tmp_path / "data"), "--quota", "rules=5")
    refused(done, "quota 'rules=5'", "security-groups, rules-per-security-group, security-groups-per-interface")
    assert not (tmp_path / "data").exists()


def test_a_misspelt_interface_is_answered_with_the_names_there_are(server: RunningServer) -> None:
    ec2 = server.endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/24")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/28")["Subnet"]["SubnetId"]
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "Name", "Value": "database"}]}]
    made = ec2.create_network_interface(SubnetId=subnet, TagSpecifications=tags)
    try:
        done = run("explain", "--data-dir", server.data_dir, "198.51.100.66", "databse", "3306")
        refused(done, "no interface or instance is named databse", "database")
    finally:
        ec2.delete_network_interface(NetworkInterfaceId=made["NetworkInterface"]["NetworkInterfaceId"])
        ec2.delete_subnet(SubnetId=subnet)
        ec2.delete_vpc(VpcId=vpc)


TOPOLOGIES = {
    # name: (pattern, replacement in the example, what is said of which line)
    "unknown key": (r'^name = "app"$', 'name = "app"\ncolour = "red"', "colour"),
    "overlap": (r'^cidr = "10.0.1.0/24"', 'cidr = "10.0.0.128/25"', "overlaps 10.0.0.0/24"),
    "outside its subnet": (r'^address = "10.0.1.10"', 'address = "10.0.7.10"', "10.0.7.10 is not in 10.0.1.0/24"),
    "reference to nothing": (r'^subnet = "private"', 'subnet = "privat"', "there is no subnet 'privat'"),
    "no TOML": (r"^\[vpc\]", "[vpc", "not TOML"),
}


@pytest.mark.parametrize("case", TOPOLOGIES)
def test_a_wrong_topology_is_refused_with_its_line_before_anything_is_made(
    server: RunningServer, tmp_path: Path, case: str
) -> None:
    pattern, replacement, said = TOPOLOGIES[case]
    text, count = re.subn(pattern, replacement, EXAMPLE.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    place = tmp_path / "wrong.toml"
    place.write_text(text)
    before = server.endpoint.client("ec2").describe_vpcs()["Vpcs"]
    done = run("lab", "up", "--data-dir", server.data_dir, "--topology", str(place))
    refused(done, said)
    changed = next(
        number
        for number, (old, new) in enumerate(
            zip(EXAMPLE.read_text().splitlines(), text.splitlines(), strict=False), start=1
        )
        if old != new
    )
    assert f"{place}:{changed}: " in done.stderr
    assert server.endpoint.client("ec2").describe_vpcs()["Vpcs"] == before
    assert not (server.folders.root / "lab").exists()


def test_the_demo_refuses_a_wrong_topology_too(tmp_path: Path) -> None:
    place = tmp_path / "wrong.toml"
    place.write_text("[vpc]\n")
    refused(run("demo", "--from-capture", "--topology", str(place)), str(place))


@pytest.mark.parametrize(
    "words",
    ["tail group", "env", "agent", "tail"],
)
def test_without_a_server_the_remedy_is_to_start_one(words: str, nothing: str) -> None:
    refused(run(*words.split(), "--data-dir", nothing), "no vnotch server has started", "`vnotch server`")
    assert not Path(nothing).exists()


def test_building_a_lab_waits_for_a_server_before_it_says_how_to_start_one(nothing: str) -> None:
    done = run("lab", "up", "--data-dir", nothing)
    waiting, _, done.stderr = done.stderr.partition("\n")
    assert waiting.endswith("waiting up to 5 s for the server")
    refused(done, "no vnotch server has started", "`vnotch server`")
    assert not Path(nothing).exists()


def test_a_server_that_has_ended_is_named(tmp_path: Path) -> None:
    ended = RunningServer(tmp_path)
    ended.stop()
    done = run("tail", "--data-dir", ended.data_dir, "group")
    refused(done, "no vnotch server answers", "`vnotch server`")


def test_values_of_another_form(server: RunningServer, nothing: str) -> None:
    data_dir = ["--data-dir", server.data_dir]
    refused(run("server", "--data-dir", nothing, "--account", "12"), "'12' is no account id", "12 digits")
    refused(run("server", "--data-dir", nothing, "--region", "Mars"), "'Mars' is no region", "us-east-1")
    alert = "rejects,log-group=flow,count=0=https://example.com/"
    refused(run("server", "--data-dir", nothing, "--alert", alert), "alert rejects: count '0'", "from 1 to 1000000")
    refused(run("server", "--data-dir", nothing, "--host", "0.0.0.0"), "loopback only", "127.0.0.1")
    refused(run("tail", *data_dir, "--since", "yesterday", "x"), "'yesterday' is no duration", "10m")
    refused(run("agent", *data_dir, "--name", "a/b"), "'a/b' is no name for an agent", "letters")
    refused(run("agent", *data_dir, "--key-file", "/dev/null"), "needs its server", "--endpoint-url")
    refused(run("agent", *data_dir, "--capture", __file__), "test_bad_input.py")
    refused(run("lab", "status", *data_dir, "--name", "A B"), "'A B' is no name for a lab", "a-z")


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "server --nonsense",
        "server --port 99999",
        "lab up --interval 0",
        "lab up --interval 901",
        "tail a b",
    ],
)
def test_wrong_usage_is_explained(words: str, nothing: str) -> None:
    done = run(*words.split())
    assert done.returncode == 2
    assert "Usage: vnotch" in done.stderr
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_leaves_no_folder(server: RunningServer, nothing: str) -> None:
    done = run("server", "--data-dir", nothing, "--port", str(server.port))
    refused(done, f"cannot listen on 127.0.0.1:{server.port}: Address already in use", "choose another port")
    assert not Path(nothing).exists()


def test_a_demo_on_a_port_in_use_says_so_and_leaves_nothing(server: RunningServer, tmp_path: Path) -> None:
    done = run("demo", "--from-capture", "--port", str(server.port), TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"vnotch: cannot listen on 127.0.0.1:{server.port}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("server", "--data-dir", str(tmp_path / "file"), "--port", str(free_port()))
    refused(done, "cannot be written", "--data-dir")


def test_a_folder_that_cannot_be_written() -> None:
    done = run("server", "--data-dir", "/proc/vnotch", "--port", str(free_port()))
    refused(done, "the data folder /proc/vnotch cannot be written", "--data-dir")


def test_another_users_folder(server: RunningServer, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    os.chmod(tmp_path, 0o755)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command("env", "--data-dir", server.data_dir)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    refused(done, "is readable by its owner alone", "sudo")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_a_disk_without_room_is_refused_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        done = run("server", "--data-dir", str(disk / "data"), "--port", str(free_port()))
        refused(done, "20 MB are free", "make room")
        assert list(disk.iterdir()) == []


def a_flow_log(server: RunningServer, vpc: str) -> str:
    iam = server.endpoint.client("iam")
    role = iam.create_role(RoleName="flow", AssumeRolePolicyDocument=FLOW_LOGS_TRUST)["Role"]["Arn"]
    made = server.endpoint.client("ec2").create_flow_logs(
        ResourceType="VPC",
        ResourceIds=[vpc],
        TrafficType="ALL",
        LogDestinationType="cloud-watch-logs",
        LogGroupName="g",
        DeliverLogsPermissionArn=role,
    )
    assert made["Unsuccessful"] == []
    return str(made["FlowLogIds"][0])


@pytest.mark.root
def test_a_disk_that_fills_up_stops_writes_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "100m") as disk:
        server = RunningServer(disk)
        ec2 = server.endpoint.client("ec2")
        first = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        logs, stream = server.endpoint.client("logs"), {"logGroupName": "g", "logStreamName": "s"}
        logs.create_log_group(logGroupName="g")
        logs.create_log_stream(**stream)
        now_ms = int(time.time() * 1000)
        logs.put_log_events(**stream, logEvents=[{"timestamp": now_ms, "message": "before"}])
        flow_log = a_flow_log(server, first)
        fill = disk / "fill"
        subprocess.run(["dd", "if=/dev/zero", f"of={fill}", "bs=64K"], check=False, capture_output=True)
        assert shutil.disk_usage(disk).free == 0
        done = run("lab", "up", "--data-dir", server.data_dir)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert [vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]] == [first]
        for _ in range(20):  # on each of the server's threads
            with pytest.raises(ClientError, match="ServiceUnavailableException"):
                logs.put_log_events(**stream, logEvents=[{"timestamp": now_ms, "message": "not stored"}])
            assert [event["message"] for event in logs.get_log_events(**stream)["events"]] == ["before"]
        # Everything that is asked is answered, and what would have to be written is refused by name.
        (described,) = ec2.describe_flow_logs()["FlowLogs"]
        assert (described["FlowLogId"], described["FlowLogStatus"]) == (flow_log, "ACTIVE")
        assert [found["logStreamName"] for found in logs.describe_log_streams(logGroupName="g")["logStreams"]] == ["s"]
        assert [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]] == ["g"]
        found = logs.filter_log_events(logGroupName="g", filterPattern="before")["events"]
        assert [event["message"] for event in found] == ["before"]
        done = run("insights", "fields @message", "--log-group", "g", "--output", "csv", "--data-dir", server.data_dir)
        assert "before" in done.stdout, done.stderr
        with pytest.raises(ClientError, match="ServiceUnavailable"):
            logs.create_log_group(logGroupName="another")
        fill.unlink()
        second = ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"]
        assert {vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]} == {first, second}
        logs.put_log_events(**stream, logEvents=[{"timestamp": now_ms, "message": "after"}])
        for _ in range(20):
            assert [event["message"] for event in logs.get_log_events(**stream)["events"]] == ["before", "after"]
        server.stop()
        assert "never retrieved" not in (disk / "server.log").read_text()


def without_capabilities(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command(*arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )


@pytest.mark.root
def test_missing_privilege(server: RunningServer) -> None:
    refused(without_capabilities("lab", "up", "--data-dir", server.data_dir), "CAP_NET_ADMIN", "sudo")
    refused(without_capabilities("lab", "down", "--data-dir", server.data_dir), "CAP_NET_ADMIN", "sudo")
    refused(without_capabilities("agent", "--data-dir", server.data_dir), "privilege", "run as root")


@pytest.mark.root
def test_missing_libbpf(server: RunningServer) -> None:
    library = next(path for path in Path("/usr/lib").glob("*/libbpf.so.1")).resolve()
    for arguments in (("lab", "up"), ("agent",)):
        line = " ".join(command(*arguments, "--data-dir", server.data_dir))
        hidden = f"mount --bind /dev/null {library} && exec {line}"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", hidden], capture_output=True, text=True, env=environment(), check=False
        )
        refused(done, "libbpf.so.1 is not installed", "sudo apt install libbpf1")
    assert not (server.folders.root / "lab").exists()


@pytest.mark.root
def test_a_network_namespace_that_is_not_there(server: RunningServer) -> None:
    done = run("agent", "--data-dir", server.data_dir, "--netns", "vnotch-nowhere")
    refused(done, "there is no network namespace", "ip netns")


@pytest.mark.root
def test_labs_that_are_not_up(server: RunningServer) -> None:
    data_dir = ["--data-dir", server.data_dir]
    refused(run("lab", "traffic", *data_dir), "the lab is not up", "vnotch lab up")
    refused(run("lab", "add", "more", "--subnet", "public", *data_dir), "the lab is not up", "vnotch lab up")
