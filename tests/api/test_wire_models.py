"""Every operation of the models, both ways, against botocore.

Requests: botocore's serialiser writes random parameters, our parser reads them. Answers: our serialiser writes random
results, botocore's parser reads them. Both ways the values must be the same. botocore is the client that must be able
to speak with us, and its two halves were not written by us; AWS's own samples are in test_wire_samples.py.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.model import OperationModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from model_values import ModelValues, without_empties

from vnotch.api.service import ApiError
from vnotch.api.wire.models import service_model
from vnotch.api.wire.protocol import WireRequest, protocol_of

SERVICES = ["ec2", "iam", "sts", "logs"]
SEEDS = range(3)


def operations(service: str) -> list[OperationModel]:
    model = service_model(service)
    found = [model.operation_model(name) for name in model.operation_names]
    return [operation for operation in found if not operation.has_event_stream_output]


def wire_request(serialised: dict[str, Any]) -> WireRequest:
    body = serialised["body"]
    if isinstance(body, dict):
        body = urlencode(body).encode()
    headers = {name.lower(): value for name, value in serialised["headers"].items()}
    return WireRequest(serialised["method"], b"", headers, body)


@pytest.mark.parametrize("service", SERVICES)
def test_parameters_written_by_botocore_are_read_as_they_were(service: str) -> None:
    protocol = protocol_of(service)
    metadata = protocol.model.metadata
    serializer = create_serializer(metadata["protocol"], include_validation=False)
    read = 0
    for operation in operations(service):
        for seed in SEEDS:
            values = ModelValues(seed, seconds=True, empty_lists=service != "ec2")
            params = values.value(operation.input_shape) if operation.input_shape else {}
            request = wire_request(serializer.serialize_to_request(params, operation))
            assert protocol.operation(request).name == operation.name
            try:
                got = protocol._reader.read(operation.input_shape, tree_or_body(service, protocol, request))
            except ApiError as error:
                raise AssertionError(f"{operation.name} seed {seed}: {error} for {params}") from error
            if service != "logs":
                got, params = without_empties(got), without_empties(params)
            assert got == params, operation.name
            read += 1
    assert read > 10


def tree_or_body(service: str, protocol: Any, request: WireRequest) -> Any:
    # Random values break the models' constraints, which have tests of their own, so only the reader is asked.
    if service == "logs":
        return request.body
    from vnotch.api.wire.form import parameter_tree

    pairs = {n: v for n, v in protocol._pairs(request).items() if n not in ("Action", "Version")}
    return parameter_tree(pairs, protocol.dialect)


@pytest.mark.parametrize("service", SERVICES)
def test_answers_are_read_by_botocore_as_they_were(service: str) -> None:
    protocol = protocol_of(service)
    parser = create_parser(protocol.model.metadata["protocol"])
    # botocore reads times as naive or local ones unless told otherwise.
    parser._timestamp_parser = lambda text: timestamp_of(text)
    for operation in operations(service):
        for seed in SEEDS:
            values = ModelValues(seed, seconds=service in ("iam", "sts"))
            result = values.value(operation.output_shape) if operation.output_shape else {}
            answer = protocol.answer(operation, result, "3c1f0a0e-7b1c-4f7e-9f5e-3f7a2c1d0b9a")
            headers = {**answer.headers, "x-amzn-requestid": "3c1f0a0e-7b1c-4f7e-9f5e-3f7a2c1d0b9a"}
            http = {"body": answer.body, "headers": headers, "status_code": answer.status}
            parsed = parser.parse(http, operation.output_shape)
            metadata = parsed.pop("ResponseMetadata")
            assert metadata["RequestId"] == "3c1f0a0e-7b1c-4f7e-9f5e-3f7a2c1d0b9a"
            assert parsed == result, operation.name


def timestamp_of(text: Any) -> datetime:
    if isinstance(text, (int, float)):
        return datetime.fromtimestamp(text, UTC)
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("service", SERVICES)
def test_errors_are_read_by_botocore_as_they_were(service: str) -> None:
    protocol = protocol_of(service)
    parser = create_parser(protocol.model.metadata["protocol"])
    answer = protocol.error(ApiError("SomeCode", "no <such> & thing", 403), "req-1")
    headers = {**answer.headers, "x-amzn-requestid": "req-1"}
    parsed = parser.parse({"body": answer.body, "headers": headers, "status_code": answer.status}, None)
    assert parsed["Error"]["Code"] == "SomeCode"
    assert parsed["Error"]["Message"] == "no <such> & thing"
    assert parsed["ResponseMetadata"]["RequestId"] == "req-1"
    assert answer.status == 403


def test_a_member_that_the_model_does_not_have_is_our_mistake_and_raises() -> None:
    for service, name in (("ec2", "DescribeVpcs"), ("logs", "DescribeLogGroups")):
        protocol = protocol_of(service)
        with pytest.raises(TypeError, match="has no member Nonsense"):
            protocol.answer(protocol.model.operation_model(name), {"Nonsense": 1}, "r")


@pytest.mark.parametrize(
    ("service", "name"), [("ec2", "DescribeInstances"), ("logs", "PutLogEvents"), ("iam", "GetRole")]
)
def test_the_first_calls_of_an_operation_may_come_at_once(
    request: pytest.FixtureRequest, service: str, name: str
) -> None:
    """Shapes are compiled at their first use; no thread may see one that is half compiled."""
    usual = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(usual))
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    operation = service_model(service).operation_model(name)
    for seed in range(8):
        result = ModelValues(seed).value(operation.output_shape)
        expected = protocol_of(service).answer(operation, result, "r").body
        fresh = type(protocol_of(service))(service_model(service))  # with nothing compiled yet
        assert set(all_at_once(8, lambda fresh=fresh, result=result: fresh.answer(operation, result, "r").body)) == {
            expected
        }


def all_at_once(threads: int, function: Callable[[], bytes]) -> list[bytes]:
    together = threading.Barrier(threads)

    def run(_: int) -> bytes:
        together.wait()
        return function()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))
