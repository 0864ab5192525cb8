"""Flow logs into buckets through the API: what CreateFlowLogs takes and shows, and what an agent gets signed.

The buckets are folders here; `tests/buckets/` has a real S3 server. Expectations: VPC user guide (publish flow logs to
S3, flow log files), answers of AWS recorded by others, S3 user guide (object key names).
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from shared_clients import PLAIN_HTTP
from sqlalchemy import update
from test_agents import Client

from vnotch.api.agents import Agents
from vnotch.api.ec2 import Ec2
from vnotch.api.uploads import Uploads
from vnotch.buckets.folder import Folder
from vnotch.buckets.upload import UPLOAD_SECONDS, PolicyIsFull, Presence
from vnotch.store import network
from vnotch.store.principals import InlinePolicy

BUCKET = "arn:aws:s3:::flow-logs-bucket"
SLOT_S = 1_529_511_600  # 2018-06-20T16:20:00Z, as in AWS's example
BODY = b"the contents of a file" * 100


class Site:
    """A VPC whose only interface agent `a` has; agent `b` has none. One bucket, a folder."""

    def __init__(self, api: Any) -> None:
        self.root = api.folder / "buckets"
        (self.root / "flow-logs-bucket").mkdir(parents=True)
        agents = Agents(api.state, api.accounts)
        self.state = api.state
        buckets = Folder(self.root, "http://unknown", api.accounts.region)
        api.serve(
            Ec2(api.state, api.accounts, buckets=buckets),
            routes=[*agents.routes(), *Uploads(api.state, api.accounts, buckets).routes()],
        )
        buckets._url = api.endpoint
        self.buckets = buckets
        self.api, self.admin, self.ec2 = api, Client(api), api.client("ec2", parameter_validation=False)
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        interface = self.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
        self.interface = interface
        self.a, self.b = self.agent("a"), self.agent("b")
        self.admin.ok("PUT", f"/network-interfaces/{interface}/binding", {"agent": "a", "device": "veth0"})

    def agent(self, name: str) -> Client:
        made = self.admin.ok("PUT", f"/agents/{name}")
        return Client(self.api, (made["access_key_id"], made["secret_access_key"]))

    def create(self, destination: str = BUCKET, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.ec2.create_flow_logs(
            ResourceIds=[self.vpc], ResourceType="VPC", TrafficType="ALL", LogDestinationType="s3",
            LogDestination=destination, **params,
        )  # fmt: skip
        return answer

    def flow_log(self, destination: str = BUCKET, **params: Any) -> str:
        answer = self.create(destination, **params)
        assert answer["Unsuccessful"] == []
        return str(answer["FlowLogIds"][0])

    def described(self) -> list[dict[str, Any]]:
        return list(self.ec2.describe_flow_logs()["FlowLogs"])

    def request(self, flow_log_id: str, body: bytes = BODY, **members: Any) -> dict[str, Any]:
        return {
            "flow_log_id": flow_log_id,
            "slot_s": SLOT_S,
            "name_hash": "fe123456",
            "length": len(body),
            "md5": b64encode(hashlib.md5(body).digest()).decode(),
            "sha256": b64encode(hashlib.sha256(body).digest()).decode(),
            **members,
        }

    def signed(self, flow_log_id: str, body: bytes = BODY, **members: Any) -> dict[str, Any]:
        return self.a.ok("POST", "/agents/a/uploads", self.request(flow_log_id, body, **members))

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def site(api: Any) -> Site:
    return Site(api)


def put(signed: dict[str, Any], body: bytes = BODY, **headers: str) -> tuple[int, str]:
    answer = httpx.request(
        signed["method"], signed["url"], content=body, headers={**signed["headers"], **headers}, verify=PLAIN_HTTP
    )
    return answer.status_code, answer.text


# --- CreateFlowLogs and DescribeFlowLogs ---


def test_a_minimal_flow_log_is_described_with_these_members_and_no_others(site: Site) -> None:
    """As AWS answered, with its defaults shown."""
    flow_log_id = site.flow_log()
    [found] = site.described()
    assert found.pop("CreationTime")
    assert found.pop("LogFormat").startswith("${version} ${account-id}")
    assert found == {
        "DeliverLogsStatus": "SUCCESS",
        "DestinationOptions": {
            "FileFormat": "plain-text", "HiveCompatiblePartitions": False, "PerHourPartition": False,
        },
        "FlowLogId": flow_log_id,
        "FlowLogStatus": "ACTIVE",
        "LogDestination": BUCKET,
        "LogDestinationType": "s3",
        "MaxAggregationInterval": 600,
        "ResourceId": site.vpc,
        "Tags": [],
        "TrafficType": "ALL",
    }  # fmt: skip


def test_what_is_given_comes_back(site: Site) -> None:
    options = {"FileFormat": "parquet", "HiveCompatiblePartitions": True, "PerHourPartition": True}
    site.flow_log(f"{BUCKET}/a/folder/", DestinationOptions=options)
    [found] = site.described()
    assert (found["LogDestination"], found["DestinationOptions"]) == (f"{BUCKET}/a/folder/", options)
    filters = [{"Name": "log-destination-type", "Values": ["s3"]}]
    assert len(site.ec2.describe_flow_logs(Filter=filters)["FlowLogs"]) == 1


def test_a_bucket_that_is_not_there_is_unsuccessful_and_no_error(site: Site) -> None:
    answer = site.create("arn:aws:s3:::nowhere/folder/")
    assert answer["FlowLogIds"] == []
    [item] = answer["Unsuccessful"]
    assert item == {
        "ResourceId": site.vpc,
        "Error": {"Code": "400", "Message": "LogDestination: nowhere does not exist"},
    }
    assert answer["ClientToken"]
    assert site.described() == []


def test_a_bucket_whose_owner_forbids_log_delivery_is_unsuccessful(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(site.buckets, "admits_delivery", lambda *question: asked.append(question[:2]) or False)
    [item] = site.create(f"{BUCKET}/net/")["Unsuccessful"]
    assert item["Error"]["Message"] == (
        "Access Denied for LogDestination: flow-logs-bucket. Please check LogDestination permission"
    )
    [(bucket, layout)] = asked
    assert (bucket, layout.folder, layout.account) == ("flow-logs-bucket", "net/", "123456789012")


def user_of(site: Site, name: str, *actions: str) -> Any:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    with site.api.accounts.write() as session:
        made = site.api.accounts.make_user(session, name)
        session.add(InlinePolicy(owner_id=made.user_id, name="p", document=document))
        key = site.api.accounts.make_user_key(session, made)
        pair = (key.access_key_id, key.secret_access_key)
    return site.api.client("ec2", key=pair, parameter_validation=False)


def test_who_may_change_a_buckets_policy_is_the_callers_own_right(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.buckets, "admits_delivery", lambda bucket, layout, may_change: may_change())
    rights = ["ec2:CreateFlowLogs", "logs:CreateLogDelivery", "s3:GetBucketPolicy"]
    denied = "Access Denied for LogDestination: flow-logs-bucket. Please check LogDestination permission"
    site.ec2 = user_of(site, "without", *rights)
    [item] = site.create()["Unsuccessful"]
    assert item["Error"]["Message"] == denied
    site.ec2 = user_of(site, "owner", *rights, "s3:PutBucketPolicy")
    assert site.create()["Unsuccessful"] == []


def test_a_bucket_policy_without_room_is_an_error_of_awss_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bool:
        raise PolicyIsFull("too long")

    monkeypatch.setattr(site.buckets, "admits_delivery", full)
    with pytest.raises(ClientError, match="LogDestinationPermissionIssueException"):
        site.create(BUCKET)


def test_two_flow_logs_on_one_resource_differ_by_where_their_files_go(site: Site) -> None:
    """With a folder and without one both succeeded on AWS; the same again did not."""
    site.flow_log()
    site.flow_log(f"{BUCKET}/folder/")
    with pytest.raises(ClientError) as caught:
        site.create()
    assert caught.value.response["Error"] == {
        "Code": "FlowLogAlreadyExists",
        "Message": "Error. There is an existing Flow Log with the same configuration and log destination.",
    }


@pytest.mark.parametrize("folder", ["../", "a/../../b/", "a//b/", "./", "a/" + "x" * 256 + "/"])
def test_a_folder_that_no_path_can_stand_for_is_undeliverable(site: Site, folder: str) -> None:
    [item] = site.create(f"{BUCKET}/{folder}")["Unsuccessful"]
    assert item["Error"] == {"Code": "400", "Message": "LogDestination: flow-logs-bucket is undeliverable"}
    assert [path.name for path in site.root.iterdir()] == ["flow-logs-bucket"]


def test_a_key_with_nul_has_no_path(tmp_path: Path) -> None:
    """EC2 lets none in; of whoever else asks the folder."""
    (tmp_path / "bucket").mkdir()
    folder = Folder(tmp_path, "http://127.0.0.1", "us-east-1")
    assert (folder.presence("bucket", "a/"), folder.presence("bucket", "a/\0/")) == (Presence.THERE, Presence.UNKNOWN)


def test_a_bucket_needs_the_rights_of_log_delivery(site: Site) -> None:
    owner = site.ec2
    site.ec2 = user_of(site, "without", "ec2:*")
    with pytest.raises(ClientError) as caught:
        site.create()
    assert caught.value.response["Error"]["Code"] == "UnauthorizedOperation"
    site.ec2 = user_of(site, "creator", "ec2:*", "logs:CreateLogDelivery")
    flow_log_id = site.flow_log()
    for dry in (True, False):
        with pytest.raises(ClientError) as caught:
            site.ec2.delete_flow_logs(FlowLogIds=[flow_log_id], DryRun=dry)
        assert caught.value.response["Error"]["Code"] == "UnauthorizedOperation"
    site.ec2 = owner
    assert len(site.described()) == 1
    site.ec2.delete_flow_logs(FlowLogIds=[flow_log_id])
    assert site.described() == []


def test_an_agent_is_told_the_file_format_and_nothing_of_the_bucket(site: Site) -> None:
    site.flow_log(f"{BUCKET}/secret-folder/", DestinationOptions={"FileFormat": "parquet"})
    configuration = site.a.configuration("a")
    [found] = configuration.flow_logs
    assert (found.log_destination_type, found.file_format) == ("s3", "parquet")
    assert (found.log_group_name, found.deliver_logs_permission_arn) == ("", "")
    assert "secret-folder" not in json.dumps(configuration.to_json())


# --- uploads ---


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/"),
        ({"PerHourPartition": True}, "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/16/"),
        (
            {"HiveCompatiblePartitions": True},
            "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/year=2018/month=06/day=20/",
        ),
        (
            {"HiveCompatiblePartitions": True, "PerHourPartition": True},
            "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1/"
            "year=2018/month=06/day=20/hour=16/",
        ),
    ],
)
def test_a_file_is_where_aws_would_put_it(site: Site, options: dict[str, Any], folder: str) -> None:
    flow_log_id = site.flow_log(f"{BUCKET}/mine/", DestinationOptions=options)
    assert put(site.signed(flow_log_id)) == (200, "")
    name = f"123456789012_vpcflowlogs_us-east-1_{flow_log_id}_20180620T1620Z_fe123456.log.gz"
    assert site.files() == {f"flow-logs-bucket/mine/{folder}{name}": BODY}


@pytest.mark.parametrize("folder", ["100%", "%2e%2e", "ü ñ/日本", "x/AWSLogs", "a+b&c=d?#", "x/..y", "it's;--"])
def test_any_folder_is_taken_as_it_is(site: Site, folder: str) -> None:
    flow_log_id = site.flow_log(f"{BUCKET}/{folder}")
    assert put(site.signed(flow_log_id)) == (200, "")
    [path] = site.files()
    assert path.startswith(f"flow-logs-bucket/{folder}/AWSLogs/123456789012/vpcflowlogs/")


def test_a_file_that_is_uploaded_again_writes_over_itself(site: Site) -> None:
    flow_log_id = site.flow_log()
    signed = site.signed(flow_log_id)
    for _ in range(2):
        assert put(signed) == (200, "")
    assert put(site.signed(flow_log_id)) == (200, "")
    assert list(site.files().values()) == [BODY]


def test_a_signature_is_good_for_the_one_file_only(site: Site) -> None:
    signed = site.signed(site.flow_log())
    other = b"another file of the same length"[:20] + BODY[20:]
    assert put(signed, other)[0] == 400
    assert "BadDigest" in put(signed, other)[1]
    assert put(signed, BODY + b"x", **{"content-length": str(len(BODY) + 1)})[0] == 403
    digest = hashlib.sha256(other).hexdigest()
    assert put(signed, other, **{"x-amz-content-sha256": digest})[0] == 403
    elsewhere = {**signed, "url": signed["url"].replace("fe123456", "fe123457")}
    assert put(elsewhere)[0] == 403
    unsigned = {**signed, "url": signed["url"].partition("&X-Amz-Signature")[0]}
    assert put(unsigned)[0] == 403
    assert site.files() == {}


def test_a_signature_ends(site: Site) -> None:
    flow_log_id = site.flow_log()
    site.buckets._now_s = lambda: time.time() - UPLOAD_SECONDS - 60
    status, text = put(site.signed(flow_log_id))
    assert (status, "expired" in text) == (403, True)
    site.buckets._now_s = lambda: time.time() - UPLOAD_SECONDS + 60
    assert put(site.signed(flow_log_id)) == (200, "")


def test_an_agent_signs_for_its_own_flow_logs_alone(site: Site) -> None:
    flow_log_id = site.flow_log()
    request = site.request(flow_log_id)
    assert site.b.error("POST", "/agents/b/uploads", request) == (404, "ResourceNotFoundException")
    assert site.b.error("POST", "/agents/a/uploads", request) == (403, "AccessDeniedException")
    assert site.a.error("POST", "/agents/a/uploads", site.request("fl-0123456789abcdef0"))[0] == 404
    group = site.ec2.create_flow_logs(
        ResourceIds=[site.vpc], ResourceType="VPC", TrafficType="ALL", LogGroupName="group",
        DeliverLogsPermissionArn="arn:aws:iam::123456789012:role/r",
    )["FlowLogIds"][0]  # fmt: skip
    assert site.a.error("POST", "/agents/a/uploads", site.request(group))[0] == 404


def test_an_agent_delivers_the_last_files_of_an_interface_that_has_left_it(site: Site) -> None:
    flow_log_id = site.flow_log()
    site.admin.ok("DELETE", f"/network-interfaces/{site.interface}/binding")
    assert put(site.signed(flow_log_id)) == (200, "")


def test_an_agent_delivers_the_last_files_of_a_flow_log_that_was_deleted(site: Site) -> None:
    flow_log_id = site.flow_log()
    assert put(site.signed(flow_log_id)) == (200, "")
    site.ec2.delete_flow_logs(FlowLogIds=[flow_log_id])
    assert site.signed(flow_log_id), "the same file again"
    later = BODY + b"later"
    assert site.a.error("POST", "/agents/a/uploads", site.request(flow_log_id, later)) == (409, "ConflictException")
    assert put(site.signed(flow_log_id, later, name_hash="fe123457"), later) == (200, "")
    assert sorted(map(len, site.files().values())) == [len(BODY), len(later)]
    assert site.b.error("POST", "/agents/b/uploads", site.request(flow_log_id))[0] == 404, "it never was b's"
    with site.state.write() as session:
        session.execute(update(network.EndedFlowLog).values(until_ms=1))
    assert site.a.error("POST", "/agents/a/uploads", site.request(flow_log_id))[0] == 404, "but not for ever"


def test_a_name_is_given_to_one_file_alone(site: Site) -> None:
    """Two files of a slot may have one hash by chance; the second would write over the first."""
    flow_log_id = site.flow_log()
    put(site.signed(flow_log_id))
    assert site.signed(flow_log_id), "the same file again"
    other = site.request(flow_log_id, BODY + b"x")
    assert site.a.error("POST", "/agents/a/uploads", other) == (409, "ConflictException")
    assert put(site.signed(flow_log_id, BODY + b"x", name_hash="fe123457"), BODY + b"x") == (200, "")
    assert put(site.signed(flow_log_id, BODY + b"x", slot_s=SLOT_S + 300), BODY + b"x") == (200, "")
    subnet = site.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = site.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    site.admin.ok("PUT", f"/network-interfaces/{interface}/binding", {"agent": "b", "device": "veth0"})
    assert site.b.error("POST", "/agents/b/uploads", site.request(flow_log_id)) == (409, "ConflictException")
    assert sorted(map(len, site.files().values())) == [len(BODY), len(BODY) + 1, len(BODY) + 1]


@pytest.mark.parametrize(
    "members",
    [
        {"slot_s": SLOT_S + 1},
        {"slot_s": 0},
        {"slot_s": 10**12 // 300 * 300},
        {"slot_s": str(SLOT_S)},
        {"slot_s": True},
        {"name_hash": "../../xx"},
        {"name_hash": "FE123456"},
        {"name_hash": "fe12345"},
        {"length": 0},
        {"length": 1 << 31},
        {"length": "5"},
        {"md5": "fe"},
        {"md5": 5},
        {"sha256": "not base64!"},
        {"flow_log_id": 5},
        {"colour": "red"},
    ],
)
def test_what_is_no_description_of_a_file_is_refused(site: Site, members: dict[str, Any]) -> None:
    request = {**site.request("fl-0123456789abcdef0"), **members}
    assert site.a.error("POST", "/agents/a/uploads", request) == (400, "ValidationException")


def test_a_bucket_that_went_away_is_not_made_again(site: Site) -> None:
    signed = site.signed(site.flow_log())
    (site.root / "flow-logs-bucket").rmdir()
    status, text = put(signed)
    assert (status, "NoSuchBucket" in text) == (404, True)
    assert list(site.root.iterdir()) == []


def test_an_upload_that_breaks_off_leaves_nothing(site: Site, tmp_path: Path) -> None:
    signed = site.signed(site.flow_log())

    def half() -> Any:
        yield BODY[: len(BODY) // 2]
        raise RuntimeError("the client dies")

    with pytest.raises(RuntimeError):
        httpx.request("PUT", signed["url"], content=half(), headers=signed["headers"], verify=PLAIN_HTTP)
    assert put(signed) == (200, ""), "a second try"
    assert list(site.files().values()) == [BODY]


def test_a_full_disk_is_the_hosts_fault_and_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = site.signed(site.flow_log())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("vnotch.buckets.folder.os.fsync", full)
        status, text = put(signed)
        assert (status, "No space left" in text) == (503, True)
        assert site.files() == {}
    assert put(signed) == (200, "")
