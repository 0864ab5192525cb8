"""docs/api.md says what is so: every parameter and filter of botocore's models is honoured, or refused as it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.model import Shape

from vnotch.api import document
from vnotch.api.accepts import Accepts
from vnotch.api.cloudwatch import CloudWatch
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.document import SERVICES, declared, documented_filters, page
from vnotch.api.ec2 import Ec2
from vnotch.api.logs import Logs
from vnotch.api.service import ApiError, Call, Principal, Service
from vnotch.api.wire.models import service_model
from vnotch.store.lake import Lake

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "vnotch"

NOTHING_TO_DO = {
    ("ec2", "DescribeAvailabilityZones", "AllAvailabilityZones"): "all zones are opted in",
    ("ec2", "DescribeInstanceStatus", "IncludeManagedResources"): "no service manages any",
    ("ec2", "DescribeInstances", "IncludeManagedResources"): "no service manages any",
    ("ec2", "DescribeNetworkInterfaces", "IncludeManagedResources"): "no service manages any",
    ("ec2", "DescribeRegions", "AllRegions"): "the region is opted in",
    ("ec2", "DescribeImages", "IncludeDeprecated"): "no image is deprecated",
    ("ec2", "DetachNetworkInterface", "Force"): "an interface is detached at once",
    ("iam", "ListVirtualMFADevices", "AssignmentStatus"): "there is none, assigned or not",
    ("logs", "FilterLogEvents", "interleaved"): "AWS passes it over, too (API FilterLogEvents)",
    ("logs", "FilterLogEvents", "unmask"): "nothing is masked",
    ("logs", "GetLogEvents", "unmask"): "nothing is masked",
    ("logs", "GetLogRecord", "unmask"): "nothing is masked",
    ("logs", "PutLogEvents", "sequenceToken"): "AWS passes it over, too (API PutLogEvents)",
    ("logs", "PutLogEvents", "entity.attributes"): "an entity is answered as a whole",
    ("logs", "PutLogEvents", "entity.keyAttributes"): "an entity is answered as a whole",
}
"""Parameters that are honoured without being read, and why."""

OPERATIONS = [(service, name) for service in SERVICES for name in sorted(declared(service))]


def named(pair: Any) -> str:
    return pair if isinstance(pair, str) else str(pair.model)


def members(service: type[Service], name: str) -> dict[str, Shape]:
    shape = service_model(service.model).operation_model(name).input_shape
    return dict(shape.members) if shape else {}


def asked(shape: Shape) -> Any:
    """A value of the shape that asks for something."""
    if shape.type_name == "structure":
        return {name: asked(member) for name, member in list(shape.members.items())[:1]} or {"Any": "x"}
    if shape.type_name == "list":
        return [asked(shape.member)]
    if shape.type_name == "map":
        return {"key": asked(shape.value)}
    return {"boolean": True, "integer": 1, "long": 1, "double": 1.0, "float": 1.0}.get(shape.type_name, "x")


def at(path: str, shapes: dict[str, Shape], value: Any = None) -> dict[str, Any]:
    """Parameters with a value at a path alone; without one it is made for the shape."""
    name, _, rest = path.partition(".")
    shape = shapes[name]
    inner = shape.member if shape.type_name == "list" else shape
    given = at(rest, inner.members, value) if rest else asked(shape) if value is None else value
    return {name: [given] if rest and shape.type_name == "list" else given}


def refusal(service: type[Service], name: str, params: dict[str, Any]) -> ApiError | None:
    """What the handler says before it does anything, so that it needs no state."""
    handler = next(h for h in vars_of(service) if h.operation_name == name)
    principal = Principal("user", "a", "arn", "1", "key")
    call = Call(service.name, name, params, principal, "1", "us-east-1", "request", 0)
    try:
        handler(object.__new__(service), call)
    except ApiError as error:
        return error
    except Exception:
        return None
    return None


def vars_of(service: type[Service]) -> Iterator[Any]:
    found = (getattr(service, attribute) for attribute in dir(service))
    return (handler for handler in found if hasattr(handler, "operation_name"))


@pytest.mark.parametrize(("service", "name"), OPERATIONS, ids=named)
def test_every_parameter_is_read_or_refused_by_its_name(service: type[Service], name: str) -> None:
    accepts, shapes = declared(service)[name], members(service, name)
    shape = service_model(service.model).operation_model(name).input_shape
    missing = accepts.missing(shape)
    for path in missing:
        error = refusal(service, name, at(path, shapes))
        assert error is not None, path
        assert (error.code, error.message) == (
            service.unsupported_code,
            f"The parameter {path} is not supported by vnotch.",
        )
    paths = set(paths_of(shape)) - {"DryRun"} if shape else set()
    honoured = {
        path for path in paths - accepts.only.keys() if not any(f"{path}.".startswith(f"{each}.") for each in missing)
    }
    unread = {path for path in honoured if path.rpartition(".")[2] not in words_of(service)}
    assert unread == {path for model, operation, path in NOTHING_TO_DO if (model, operation) == (service.model, name)}


def paths_of(shape: Shape, before: str = "", depth: int = 0) -> Iterator[str]:
    """Of all members, those of structures within structures and lists too; recursive shapes to a depth of four."""
    for name, member in shape.members.items():
        yield before + name
        while member.type_name == "list":
            member = member.member
        if member.type_name == "structure" and depth < 4:
            yield from paths_of(member, f"{before}{name}.", depth + 1)


@cache
def words_of(service: type[Service]) -> frozenset[str]:
    """The words in texts of a service's code, without docstrings and those by which operations are declared."""
    place = SOURCE / "api" / service.model
    files = [*place.rglob("*.py")] if place.is_dir() else [place.with_suffix(".py")]
    files += (SOURCE / "store").rglob("*.py")
    found: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text())
        decorators = [d for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for d in node.decorator_list]
        declaring = {id(node) for decorator in decorators for node in ast.walk(decorator)}
        declaring |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        found |= {
            word
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in declaring
            for word in node.value.split()
        }
    return frozenset(found)


def test_nothing_is_said_to_be_done_by_itself_that_is_not_there() -> None:
    for model, operation, member in NOTHING_TO_DO:
        assert member in paths_of(service_model(model).operation_model(operation).input_shape)


@pytest.mark.parametrize(
    ("service", "name"), [pair for pair in OPERATIONS if declared(pair[0])[pair[1]].only], ids=named
)
def test_values_that_are_not_there_are_refused(service: type[Service], name: str) -> None:
    for path, values in declared(service)[name].only.items():
        other: Any = "another" if isinstance(values[0], str) else not values[0]
        error = refusal(service, name, at(path, members(service, name), other))
        assert error is not None
        shown = other if isinstance(other, str) else str(other).lower()
        assert (error.code, error.message) == (
            service.unsupported_code,
            f"The value {shown} for parameter {path} is not supported by vnotch.",
        )


def test_a_parameter_that_asks_for_its_default_is_no_reason_to_refuse() -> None:
    accepts = Accepts(frozenset({"A", "B.C", "D", "F"}), ("D.E",), {"F": ("x",)})
    for params in (
        {"Z": False},
        {"Z": {"Enabled": False}},
        {"Z": []},
        {"B": {"Y": ""}},
        {"D": [{"E": 0}]},
        {"F": None},
        {"F": "x"},
        {"A": 1},
    ):
        assert accepts.refusal(params) is None
    for params, path in (
        ({"Z": 1}, "Z"),
        ({"Z": {"Enabled": True}}, "Z"),
        ({"B": [{"C": 1}, {"Y": 1}]}, "B.Y"),
        ({"D": [{}, {"E": 1}]}, "D.E"),
    ):
        assert accepts.refusal(params) == f"The parameter {path} is not supported by vnotch."
    assert accepts.refusal({"F": "y"}) == "The value y for parameter F is not supported by vnotch."


# --- over the wire


@pytest.fixture(scope="module")
def api(shared_api: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    lake = Lake.open(tmp_path_factory.mktemp("lake"))
    state = shared_api.state
    shared_api.serve(Ec2(state, shared_api.accounts), Logs(state, lake), CloudWatch(state, Webhooks()))
    yield shared_api
    shared_api.stop()
    lake.close()


@pytest.mark.parametrize(
    ("service", "operation", "params", "path"),
    [
        ("ec2", "create_vpc", {"CidrBlock": "10.0.0.0/16", "Ipv4NetmaskLength": 16}, "Ipv4NetmaskLength"),
        ("logs", "create_log_group", {"logGroupName": "a", "kmsKeyId": "key"}, "kmsKeyId"),
        ("cloudwatch", "list_metrics", {"IncludeLinkedAccounts": True}, "IncludeLinkedAccounts"),
        ("iam", "create_service_linked_role", {"AWSServiceName": "a", "CustomSuffix": "b"}, "CustomSuffix"),
        ("sts", "get_session_token", {"SerialNumber": "arn:aws:iam::1:mfa/a"}, "SerialNumber"),
    ],
)
def test_the_error_reaches_the_client(api: Any, service: str, operation: str, params: Any, path: str) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(api.client(service), operation)(**params)
    error = caught.value.response["Error"]
    assert error["Code"] == next(each for each in SERVICES if each.model == service).unsupported_code
    assert error["Message"] == f"The parameter {path} is not supported by vnotch."


WITH_FILTERS = [
    name for name in sorted(declared(Ec2)) if documented_filters(service_model("ec2").operation_model(name))
]


@pytest.mark.parametrize("name", WITH_FILTERS)
def test_filters_are_understood_as_the_page_says(api: Any, name: str) -> None:
    operation = service_model("ec2").operation_model(name)
    member = "Filters" if "Filters" in operation.input_shape.members else "Filter"
    client = api.client("ec2", parameter_validation=False)
    missing = document.row_of(operation, declared(Ec2)[name]).filters
    needs = {"VpcId": client.create_vpc(CidrBlock="10.0.0.0/28")["Vpc"]["VpcId"]} if "VpcId" in missing_of(name) else {}
    for filter_name in documented_filters(operation):
        try:
            getattr(client, xform_name(name))(**needs, **{member: [{"Name": filter_name, "Values": ["none"]}]})
            said = ""
        except ClientError as error:
            said = error.response["Error"]["Message"]
        assert (said == f"The filter '{filter_name}' is invalid") == (filter_name in missing), said


def missing_of(name: str) -> list[str]:
    shape = service_model("ec2").operation_model(name).input_shape
    return list(shape.required_members) if shape else []


# --- the page

_ROW = re.compile(r"^\| `(\w+)` \| (?:complete|partial) \| (.*) \|$", re.MULTILINE)


def refused_names(text: str) -> dict[str, set[str]]:
    """Operation -> what its row names."""
    return {name: set(re.findall(r"`([^`]+)`", cell)) for name, cell in _ROW.findall(text)}


def test_the_page_is_what_is_generated() -> None:
    """With another botocore than the page's, parameters that only one of them has are no difference."""
    written, now = (ROOT / "docs" / "api.md").read_text(), page()
    if f"botocore {botocore.__version__}." in written:
        assert written == now, "run: make docs"
        return
    before, after = refused_names(written), refused_names(now)
    assert before.keys() == after.keys(), "run: make docs"
    for service, name in OPERATIONS:
        known = set(members(service, name)) | set(
            documented_filters(service_model(service.model).operation_model(name))
        )
        assert not {gone for gone in before[name] - after[name] if gone in known}, f"{name}: run: make docs"


def test_a_page_of_another_release_is_told_from_a_wrong_one() -> None:
    rows = document.rows(Ec2)
    assert {True, False} == {row.is_complete for row in rows}
    row = replace(rows[0], parameters=("A", "B.C"), values=("D=`e`",), filters=("f-g",), note="a note")
    assert row.missing == "`A`, `B.C`; `D` other than `e`; filters `f-g`; a note"
