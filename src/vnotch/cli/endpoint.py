"""The endpoint as vnotch's own commands see it: address, account, region and the administrator's key.

The key is found where the first start of the server put it, in the data folder, readable by its owner alone. Clients
are botocore's, unchanged: what works here works for every other AWS client.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vnotch.cli.terminal import step
from vnotch.config import ENDPOINT_HOST, ENDPOINT_PORT, Folders
from vnotch.errors import HostError, InputError
from vnotch.interrupts import wait_until


def default_url(port: int = ENDPOINT_PORT) -> str:
    return f"http://{ENDPOINT_HOST}:{port}"


ENVIRONMENT_NAMES = (
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    # Live Tail's host is `stream-` before the endpoint's, a name that nobody resolves.
    "AWS_DISABLE_HOST_PREFIX_INJECTION",
)

NAMES_SHOWN = 20
START_SECONDS = 5
LIVING = ["pending", "running", "stopping", "stopped"]
"""States of instances that are there; a terminated one is described for an hour, and its name may be given anew."""


class NoServer(HostError):
    """No server has started with the data folder, or it has ended, or is still starting."""


@cache
def _session() -> Any:
    from vnotch.service_models import session

    return session()


@dataclass(frozen=True)
class Endpoint:
    url: str
    access_key_id: str
    secret_access_key: str
    region: str
    account: str

    @classmethod
    def find(cls, folders: Folders, url: str | None = None) -> Endpoint:
        """The endpoint of the server whose data folder this is.

        `url` overrides the address that the server wrote down when it last started.

        Raises HostError where no server has ever started with that folder, or its key belongs to someone else.
        """
        path = folders.credentials
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            raise NoServer(
                f"no vnotch server has started with the data folder {folders.root}",
                "start one with `vnotch server`, or name its folder with --data-dir",
            ) from None
        except PermissionError:
            raise HostError(
                f"{path} is readable by its owner alone", "run this as the user who runs the server, or with sudo"
            ) from None
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        running = folders.root / "endpoint"
        if url is None:
            url = running.read_text().strip() if running.exists() else default_url()
        return cls(
            url=url,
            access_key_id=document["access_key_id"],
            secret_access_key=document["secret_access_key"],
            region=document["region"],
            account=document["account"],
        )

    def client(self, service: str, *, timeout_seconds: float = 30, attempts: int = 2) -> Any:
        """botocore's client of this endpoint; two tries, short timeouts: the server is near."""
        from botocore.config import Config

        return _session().create_client(
            service,
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(
                retries={"total_max_attempts": attempts},
                connect_timeout=min(3, timeout_seconds),
                read_timeout=timeout_seconds,
            ),
        )

    def request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A signed call of vnotch's own part of the API. Raises NoAnswer (a HostError) and Refused (an InputError)."""
        from vnotch.signed_http import SignedHttp

        return SignedHttp(self.url, self.region, self.access_key_id, self.secret_access_key).request(method, path, body)

    def interface_named(self, name: str) -> str:
        """The id of the interface whose Name tag is `name`, else of the instance that is there with it; an address or
        id that is no name is returned as it is.

        Raises InputError where several have that name, and where it is none of these.
        """
        tagged = [{"Name": "tag:Name", "Values": [name]}]
        ec2, kind = self.client("ec2"), "interface"
        rows = ec2.describe_network_interfaces(Filters=tagged)["NetworkInterfaces"]
        found = [row["NetworkInterfaceId"] for row in rows]
        if not found:
            kind, tagged = "instance", [*tagged, {"Name": "instance-state-name", "Values": LIVING}]
            pages = ec2.get_paginator("describe_instances").paginate(Filters=tagged)
            found = [row["InstanceId"] for page in pages for item in page["Reservations"] for row in item["Instances"]]
        if len(found) > 1:
            raise InputError(f"several {kind}s are named {name}", f"name one of {', '.join(found)}")
        if found:
            return str(found[0])
        if not name.startswith(("eni-", "i-")) and not _is_address(name):
            known = sorted(set(self.interface_names().values()))
            shown = ", ".join(known[:NAMES_SHOWN]) + (", ..." if len(known) > NAMES_SHOWN else "")
            given = "give an address, or the id of an interface or instance"
            raise InputError(
                f"no interface or instance is named {name}", f"known are {shown}; or {given}" if known else given
            )
        return name

    def interface_names(self, *, timeout_seconds: float = 3) -> dict[str, str]:
        """Interface id -> its Name tag, else that of its instance; those without either are left out."""
        ec2 = self.client("ec2", timeout_seconds=timeout_seconds, attempts=1)
        pages = ec2.get_paginator("describe_network_interfaces").paginate()
        rows = [row for page in pages for row in page["NetworkInterfaces"]]
        names = {row["NetworkInterfaceId"]: name for row in rows if (name := _name_tag(row.get("TagSet", [])))}
        instances = {
            row["NetworkInterfaceId"]: row["Attachment"]["InstanceId"]
            for row in rows
            if row["NetworkInterfaceId"] not in names and row.get("Attachment", {}).get("InstanceId")
        }
        of_instances = instance_names(ec2) if instances else {}
        return names | {eni: of_instances[held] for eni, held in instances.items() if held in of_instances}

    def agent_status(self, agent: str) -> dict[str, Any] | None:
        """The last status that the agent posted; None where it has posted none."""
        try:
            return self.request("GET", f"/vnotch/v1/agents/{agent}/status") or None
        except InputError:
            return None

    def environment(self) -> dict[str, str]:
        """The variables that make any AWS client of this user talk to vnotch."""
        values = (self.url, self.access_key_id, self.secret_access_key, self.region, self.region, "true")
        return dict(zip(ENVIRONMENT_NAMES, values, strict=True))

    def is_up(self) -> bool:
        """Whether something listens there; it may still be something else."""
        parts = urlsplit(self.url)
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=0.5):
                return True
        except OSError:
            return False

    @classmethod
    def await_up(cls, folders: Folders, url: str | None = None) -> Endpoint:
        """As `find(...).require_up()`, for what people start right behind `vnotch server &`: a server takes a second or
        two to start."""

        def answers() -> bool:
            try:
                return cls.find(folders, url).is_up()
            except NoServer:
                return False

        wait_until(answers, START_SECONDS, lambda: step(f"waiting up to {START_SECONDS} s for the server"))
        return cls.find(folders, url).require_up()

    def require_up(self) -> Endpoint:
        if not self.is_up():
            raise NoServer(f"no vnotch server answers at {self.url}", "start it with `vnotch server` or `vnotch up`")
        return self


def answering_since_ns(folders: Folders) -> int:
    """When the folder's server began to answer, Unix ns; 0 where there is none."""
    try:
        return (folders.root / "endpoint").stat().st_mtime_ns
    except OSError:
        return 0


def instance_names(ec2: Any) -> dict[str, str]:
    """Instance id -> Name tag, of those instances that are there and have one."""
    wanted = [{"Name": "tag-key", "Values": ["Name"]}, {"Name": "instance-state-name", "Values": LIVING}]
    pages = ec2.get_paginator("describe_instances").paginate(Filters=wanted)
    rows = [row for page in pages for item in page["Reservations"] for row in item["Instances"]]
    return {row["InstanceId"]: name for row in rows if (name := _name_tag(row.get("Tags", [])))}


def _name_tag(tags: Iterable[Mapping[str, str]]) -> str | None:
    return next((tag["Value"] for tag in tags if tag["Key"] == "Name"), None)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def aws_command(endpoint: Endpoint, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The argument list and environment that run the aws CLI against this endpoint.

    `--endpoint-url` is given on the command line because the aws CLI of Debian 12 does not know the variable and
    would talk to the real AWS. Raises HostError where there is no aws CLI.
    """
    import shutil
    import sys

    beside = Path(sys.executable).with_name("aws")
    aws = str(beside) if beside.exists() else shutil.which("aws")
    if aws is None:
        raise HostError("the aws CLI is not installed", "sudo apt install awscli, or pip install awscli")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= endpoint.environment()
    # No pager, so that output in a script or a pipe ends.
    environment["AWS_PAGER"] = ""
    return [aws, "--endpoint-url", endpoint.url, *arguments], environment
