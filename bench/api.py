"""How fast the API decides and answers: `make bench-api`. The last line is one JSON object.

    iam_eval_us        one evaluation: 5 policies of 10 statements each, all of which cover the action; the last allows
    iam_eval_worst_us  the same where no resource matches, so that all 50 are looked at, with conditions in half of them
    sigv4_1mb_ms       a signature over a body of 1 MB: hashing the body, reading and verifying
    describe_p50_ms    DescribeNetworkInterfaces, a page of 1,000 of 10,000: from the signed request to the last byte
    describe_boto3_p50_ms   the same with boto3, which parses it
    create_p50_ms      CreateSecurityGroup from one client, each committed to disk before it is answered
    calls_per_s        the mix of calls below, 4 clients of one thread each, this server in a process of its own
    moto_calls_per_s   the same clients and mix against moto's server (PyPI, in an environment of the benchmark's own)

Servers are measured in turn, in rounds; the median counts. moto holds all in memory and verifies no signature.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session
from sqlalchemy import event

from vnotch.api.ec2 import Ec2
from vnotch.api.service import Call, Principal
from vnotch.iam import sigv4
from vnotch.iam.evaluation import evaluate
from vnotch.iam.grammar import parse_policy
from vnotch.store.accounts import Accounts
from vnotch.store.state import State

MOTO = "moto[ec2,iam,logs,sts,server]==5.2.1"
CLIENTS = 4
TARGETS = {
    "iam_eval_us": "below 30", "sigv4_1mb_ms": "below 3", "describe_p50_ms": "below 150",
    "calls_per_s": "at least twice moto's",
}  # fmt: skip
SESSION = URLLib3Session(timeout=(5, 60))
INTERFACES = 10_000
PAGE = 1_000


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cpu_seconds(times: int, call: Callable[[], Any], per: int = 1) -> float:
    """CPU seconds for one of `per` calls, which wait for nothing: the median of `times` rounds."""
    rounds = []
    for _ in range(times):
        began = time.process_time()
        for _ in range(per):
            call()
        rounds.append((time.process_time() - began) / per)
    return statistics.median(rounds)


# --- deciding ---


def evaluations() -> dict[str, float]:
    action, resource = "logs:PutLogEvents", "arn:aws:logs:us-east-1:123456789012:log-group:/flows/49:log-stream:eni-1"
    context = {"aws:username": "ana", "aws:sourceip": "10.1.2.3", "aws:requestedregion": "us-east-1"}

    def document(policy: int, conditions: bool) -> str:
        statements: list[dict[str, Any]] = []
        for number in range(10):
            group = f"arn:aws:logs:*:123456789012:log-group:/flows/{policy * 10 + number}:*"
            statement = {"Effect": "Allow", "Action": ["logs:Get*", "logs:Put*"], "Resource": group}
            if conditions and number % 2:
                statement["Resource"] = "arn:aws:logs:*:123456789012:log-group:/flows/*"
                statement["Condition"] = {
                    "StringEquals": {"aws:username": f"user-{number}"},
                    "IpAddress": {"aws:SourceIp": "10.0.0.0/8"},
                }
            statements.append(statement)
        return json.dumps({"Version": "2012-10-17", "Statement": statements})

    plain = [parse_policy(document(number, False)) for number in range(5)]
    hard = [parse_policy(document(number, True)) for number in range(5)]
    other = resource.replace("/flows/49", "/flows/x")
    assert evaluate(plain, action, resource, context).allowed
    assert not evaluate(hard, action, other, context).allowed
    return {
        "iam_eval_us": cpu_seconds(7, lambda: evaluate(plain, action, resource, context), 2_000) * 1e6,
        "iam_eval_worst_us": cpu_seconds(7, lambda: evaluate(hard, action, other, context), 2_000) * 1e6,
    }


def signature() -> dict[str, float]:
    body = os.urandom(1 << 20)
    now_s = time.time()
    headers = [("host", "127.0.0.1:4480"), ("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "Logs.Put")]
    request = sigv4.Request("POST", "/", "", headers, hashlib.sha256(body).hexdigest())
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    added = sigv4.sign(request, "AKIDEXAMPLE", secret, now_s=now_s, region="us-east-1", service="logs")
    arrived = [*headers, *added.items()]

    def check() -> None:
        came = sigv4.Request("POST", "/", "", arrived, hashlib.sha256(body).hexdigest())
        stated = sigv4.read_signature(arrived, "")
        sigv4.verify(stated, secret, came, now_s=now_s, regions=["us-east-1"], service="logs")

    return {"sigv4_1mb_ms": cpu_seconds(7, check, 50) * 1e3}


# --- answering ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, log: Path) -> Iterator[None]:
    """A server until the end of the block."""
    with log.open("ab") as output:
        running = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0:
                    break
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(30)


def client(service: str, where: dict[str, str]) -> Any:
    return boto3.session.Session().client(
        service,
        endpoint_url=where["url"],
        region_name="us-east-1",
        aws_access_key_id=where["key"],
        aws_secret_access_key=where["secret"],
        config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
    )


def mix(where: dict[str, str], name: str, seconds: float) -> int:
    """One client's calls in `seconds`: what a tool does that builds a network and looks at it. Returns how many."""
    ec2, iam, sts = (client(service, where) for service in ("ec2", "iam", "sts"))
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    done = 0
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        group = ec2.create_security_group(GroupName=f"{name}-{done}", Description="x", VpcId=vpc)["GroupId"]
        ec2.authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[
                {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
            ],
        )
        ec2.describe_security_groups(GroupIds=[group])
        ec2.describe_vpcs(VpcIds=[vpc])
        ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        ec2.describe_flow_logs()
        iam.list_roles(MaxItems=10)
        sts.get_caller_identity()
        ec2.delete_security_group(GroupId=group)
        done += 9
    return done


def calls_per_s(where: dict[str, str], round_name: str, seconds: float) -> float:
    with ProcessPoolExecutor(CLIENTS) as pool:
        began = time.perf_counter()
        made = [pool.submit(mix, where, f"{round_name}-{number}", seconds) for number in range(CLIENTS)]
        total = sum(future.result() for future in made)
        return total / (time.perf_counter() - began)


def fill(folder: Path, where: dict[str, str]) -> None:
    """A network with 10,000 interfaces, made by the server's own code on its state, without waiting for the disk."""
    ec2 = client("ec2", where)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/18")["Subnet"]["SubnetId"]
    state = State.open(folder / "data" / "state")
    event.listen(state.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    accounts = Accounts(state)
    identity = accounts.identity(where["key"])
    assert identity is not None
    part = Ec2(state, accounts)
    make = part.handlers()["CreateNetworkInterface"]
    principal = Principal("user", identity.name, identity.arn, accounts.account, where["key"])
    began = time.perf_counter()
    for number in range(INTERFACES):
        asked = {"SubnetId": subnet, "Description": f"interface {number}"}
        now_ms = int(time.time() * 1000)
        operation, account, region = "CreateNetworkInterface", accounts.account, accounts.region
        make(Call("ec2", operation, asked, principal, account, region, "-", now_ms, identity=identity))
    state.close()
    say(f"{INTERFACES} interfaces were made in {time.perf_counter() - began:.0f} s")


def pages(where: dict[str, str]) -> dict[str, float]:
    """The median page, in ms, over three walks through all of them: as it arrives, and as boto3 gives it."""
    ec2 = client("ec2", where)
    arrived, given = [], []
    for _ in range(3):
        token: dict[str, str] = {}
        for number in range(INTERFACES // PAGE):
            began = time.perf_counter()
            text = raw_page(where, token.get("NextToken"))
            arrived.append(time.perf_counter() - began)
            assert text.count(b"<networkInterfaceId>") == PAGE
            began = time.perf_counter()
            answer = ec2.describe_network_interfaces(MaxResults=PAGE, **token)
            given.append(time.perf_counter() - began)
            assert len(answer["NetworkInterfaces"]) == PAGE
            assert ("NextToken" in answer) is (number < INTERFACES // PAGE - 1)
            token = {"NextToken": answer.get("NextToken", "")}
    return {
        "describe_p50_ms": statistics.median(arrived) * 1e3,
        "describe_boto3_p50_ms": statistics.median(given) * 1e3,
    }


def raw_page(where: dict[str, str], token: str | None) -> bytes:
    """The bytes of one page, signed for and not parsed."""
    asked = {"Action": "DescribeNetworkInterfaces", "Version": "2016-11-15", "MaxResults": str(PAGE)}
    data = urlencode(asked | ({"NextToken": token} if token else {})).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = AWSRequest("POST", where["url"] + "/", data=data, headers=headers)
    SigV4Auth(Credentials(where["key"], where["secret"]), "ec2", "us-east-1").add_auth(request)
    answer = SESSION.send(request.prepare())
    assert answer.status_code == 200, answer.content[:500]
    content: bytes = answer.content
    return content


def creations(ec2: Any) -> float:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    took = []
    for number in range(200):
        began = time.perf_counter()
        ec2.create_security_group(GroupName=f"g{number}", Description="x", VpcId=vpc)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


@contextmanager
def ours(folder: Path) -> Iterator[dict[str, str]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    data = folder / "data"
    quotas = [f"--quota={name}=1000000" for name in ("security-groups", "network-interfaces")]
    command = [sys.executable, "-m", "vnotch", "server", "--data-dir", str(data), "--port", str(port), *quotas]
    with process(command, url, folder / "vnotch.log"):
        while not (data / "endpoint").exists():
            time.sleep(0.05)
        content = json.loads((data / "credentials.json").read_text())
        yield {"url": url, "key": content["access_key_id"], "secret": content["secret_access_key"]}


@contextmanager
def motos(folder: Path, environment: Path) -> Iterator[dict[str, str]]:
    server = environment / "bin" / "moto_server"
    if not server.exists():
        say(f"installing {MOTO} into {environment}")
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "--quiet", MOTO], check=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process([str(server), "-p", str(port)], url, folder / "moto.log"):
        yield {"url": url, "key": "testing", "secret": "testing"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison with moto")
    parser.add_argument("--seconds", type=float, default=10, help="of one round on one server")
    parser.add_argument("--only-deciding", action="store_true", help="evaluation and signatures, no server")
    parser.add_argument("--no-moto", action="store_true", help="without the comparison")
    asked = parser.parse_args()
    figures: dict[str, float] = {**evaluations(), **signature()}
    if not asked.only_deciding:
        environment = Path(__file__).parent / "data" / "moto"
        with tempfile.TemporaryDirectory() as name, ours(Path(name)) as here:
            ec2 = client("ec2", here)
            figures["create_p50_ms"] = creations(ec2)
            rates: dict[str, list[float]] = {"calls_per_s": [], "moto_calls_per_s": []}
            for number in range(asked.rounds):
                rates["calls_per_s"].append(calls_per_s(here, f"r{number}", asked.seconds))
                if not asked.no_moto:
                    with motos(Path(name), environment) as there:
                        rates["moto_calls_per_s"].append(calls_per_s(there, f"r{number}", asked.seconds))
            figures |= {key: statistics.median(values) for key, values in rates.items() if values}
            fill(Path(name), here)
            figures |= pages(here)
    shown = {key: round(value, 2 if value < 100 else 1) for key, value in figures.items()}
    for key, value in shown.items():
        say(f"{key:22} {value:>10}  {TARGETS.get(key, '')}")
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
