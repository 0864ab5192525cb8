"""How commands find the server of a data folder."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.cli.running import RunningServer, run
from vnotch.cli import endpoint as cli_endpoint
from vnotch.cli.agent import register
from vnotch.cli.endpoint import Endpoint, NoServer
from vnotch.config import Folders
from vnotch.errors import InputError

KEY = {"access_key_id": "AKIA", "secret_access_key": "secret", "region": "us-east-1", "account": "123456789012"}


def test_a_server_that_is_still_starting_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def start() -> None:
            time.sleep(0.3)
            folders.credentials.write_text(json.dumps(KEY))
            time.sleep(0.3)
            listener.listen()

        starting = threading.Thread(target=start)
        starting.start()
        assert Endpoint.await_up(folders, url).url == url
        starting.join()
    assert capsys.readouterr().err.count("waiting up to") == 1


def test_where_no_server_starts_the_wait_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_endpoint, "START_SECONDS", 0.3)
    with pytest.raises(NoServer, match="no vnotch server has started"):
        Endpoint.await_up(Folders(tmp_path))


def test_a_key_that_cannot_be_read_is_no_reason_to_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders(tmp_path)
    folders.credentials.write_text("no key")
    with pytest.raises(InputError, match=str(folders.credentials)):
        Endpoint.await_up(folders)
    assert "waiting" not in capsys.readouterr().err


def test_an_instance_is_known_by_its_name(server: RunningServer) -> None:
    """As `vnotch lab follow` names what it builds: by the Name tag of the instance; its interface has none."""
    endpoint = server.endpoint
    ec2 = endpoint.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.66.0.0/16")["Vpc"]["VpcId"]
    subnet_id = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.66.0.0/24")["Subnet"]["SubnetId"]
    endpoint.request("PUT", "/vnotch/v1/lab-hosts/names", {"vpc_id": vpc_id, "reports": []})
    image_id = ec2.describe_images()["Images"][0]["ImageId"]

    def launched(name: str) -> tuple[str, str]:
        """-> instance, interface."""
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
        given = {"ImageId": image_id, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet_id}
        (row,) = ec2.run_instances(**given, TagSpecifications=tags)["Instances"]
        return row["InstanceId"], row["NetworkInterfaces"][0]["NetworkInterfaceId"]

    web, web_eni = launched("pages")
    gone, _ = launched("gone")
    ec2.terminate_instances(InstanceIds=[gone])
    endpoint.request(
        "PUT",
        "/vnotch/v1/lab-hosts/names",
        {"vpc_id": vpc_id, "reports": [{"instance_id": gone, "state": "terminated", "reason": ""}]},
    )
    assert endpoint.interface_named("pages") == web
    assert endpoint.interface_names()[web_eni] == "pages"
    with pytest.raises(InputError, match="no interface or instance is named gone"):
        endpoint.interface_named("gone")
    assert "gone" not in endpoint.interface_names().values()
    register("names", endpoint)
    path = f"/vnotch/v1/network-interfaces/{web_eni}/binding"
    bound = {"agent": "names", "device": "veth0", "instance_id": web}  # as the lab host does
    endpoint.request("PUT", path, bound)
    done = run("explain", "198.51.100.7", "pages", "22", "--data-dir", server.data_dir)
    assert done.returncode == 1, done.stderr
    assert web_eni in done.stdout

    ec2.create_tags(Resources=[web_eni], Tags=[{"Key": "Name", "Value": "front"}])
    assert endpoint.interface_names()[web_eni] == "front", "its own name goes before its instance's"
    assert endpoint.interface_named("pages") == web
    twin, _ = launched("pages")
    with pytest.raises(InputError, match="several instances are named pages") as caught:
        endpoint.interface_named("pages")
    assert {web, twin} <= set((caught.value.remedy or "").replace(",", "").split())
