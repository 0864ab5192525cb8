"""Delivery to an HTTPS endpoint by the Firehose protocol, against a receiver that holds us to the specification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from firehose_receiver import Receiver

from vnotch.deliver.batch import EVENT_SCHEMA, Batch
from vnotch.deliver.endpoint import BatchRefused
from vnotch.deliver.firehose import REQUEST_BYTES_MAX, REQUEST_RECORDS_MAX, DeliveryStreams, request_body, requests_of
from vnotch.delivery_streams import DeliveryStream, read_streams, stream_name
from vnotch.errors import AccessError, DeliveryError, DestinationUnavailable, InputError, RateLimitedError
from vnotch.fields import parse_format
from vnotch.line import parse_lines

ARN = "arn:aws:firehose:us-east-1:123456789012:deliverystream/flow-logs"


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(made.certificate))
    yield made
    made.close()
    assert made.faults == []


def target(receiver: Receiver, **other: Any) -> dict[str, Any]:
    given = {"arn": ARN, "url": receiver.url, "access_key": receiver.key, "compress": True, "attributes": {}}
    return {**given, **other}


def streams(receiver: Receiver, **other: Any) -> DeliveryStreams:
    return DeliveryStreams(lambda flow_log_id: target(receiver, **other))


def batch(count: int = 3, batch_id: str = "b/1", message: str = "2 123 eni-1 record {}") -> Batch:
    lines = [message.format(number) for number in range(count)]
    events = pa.table([pa.array(range(count), pa.int64()), pa.array(lines)], schema=EVENT_SCHEMA)
    return Batch(batch_id, "fl-1", "", "eni-1-all", "", events)


@pytest.mark.parametrize("compress", [True, False])
def test_every_record_is_posted_as_a_message(receiver: Receiver, compress: bool):
    delivered = streams(receiver, compress=compress, attributes={"team": "net"}).deliver(batch())
    assert delivered.accepted == 3
    assert receiver.messages == ["2 123 eni-1 record 0", "2 123 eni-1 record 1", "2 123 eni-1 record 2"]
    (request,) = receiver.requests
    assert request["headers"].get("content-encoding") == ("gzip" if compress else None)
    assert "team" in request["headers"]["x-amz-firehose-common-attributes"]


def test_records_in_typed_columns_are_posted_as_their_lines(receiver: Receiver):
    format = parse_format("${interface-id} ${srcaddr} ${bytes} ${log-status}")
    lines = ["eni-1 10.0.0.1 17 OK", "eni-1 - - NODATA"]
    table = parse_lines(pa.array(lines), format).add_column(0, "timestamp", pa.array([1, 2], pa.int64()))
    streams(receiver).deliver(Batch("b/1", "fl-1", "", "eni-1-all", "", table, log_format=format.text))
    assert receiver.messages == lines


def test_large_batches_are_several_requests_within_bounds(receiver: Receiver):
    many = batch(REQUEST_RECORDS_MAX + 5)
    streams(receiver).deliver(many)
    assert [len(item["messages"]) for item in receiver.requests] == [REQUEST_RECORDS_MAX, 5]
    assert len({item["id"] for item in receiver.requests}) == 2
    wide = batch(9, message="x" * 1_000_000 + "{}").events
    assert all(len(request_body("r" * 36, 1, part)) <= REQUEST_BYTES_MAX + 200 for part in requests_of(wide))
    assert sum(map(len, requests_of(wide))) == 9


def test_a_batch_that_comes_again_has_the_same_request_ids(receiver: Receiver):
    """By which an endpoint may drop what it has already."""
    receiver.answers = [(200, None), (503, {"errorMessage": "busy"})]
    some = batch(REQUEST_RECORDS_MAX + 5)
    with pytest.raises(DestinationUnavailable, match="busy"):
        streams(receiver).deliver(some)
    streams(receiver).deliver(some)
    ids = [item["id"] for item in receiver.requests]
    assert ids[:2] == ids[2:]
    assert len(receiver.messages) == REQUEST_RECORDS_MAX + 5
    streams(receiver).deliver(batch(1, "b/2"))
    assert receiver.requests[-1]["id"] not in ids


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (200, b"", DestinationUnavailable),
        (200, b"<html>welcome</html>", DestinationUnavailable),
        (502, b"<html>bad gateway</html>", DestinationUnavailable),
        (403, b"<html>who are you</html>", AccessError),
        (200, {"requestId": "another", "timestamp": 1}, DestinationUnavailable),
        (200, lambda right: {**right, "timestamp": str(right["timestamp"])}, DestinationUnavailable),
        (200, lambda right: {"requestId": right["requestId"]}, DestinationUnavailable),
        (200, lambda right: {**right, "padding": "x" * (1 << 20)}, DestinationUnavailable),  # an answer has 1 MiB
        (200, ["no object"], DestinationUnavailable),
        (201, None, DestinationUnavailable),
        (302, None, DestinationUnavailable),
        (400, {"errorMessage": "bad"}, DeliveryError),
        (401, None, AccessError),
        (403, None, AccessError),
        (413, None, BatchRefused),
        (429, None, RateLimitedError),
        (500, None, DestinationUnavailable),
    ],
)
def test_only_an_acknowledgement_is_one(receiver: Receiver, status: int, said: Any, error: type[Exception]):
    receiver.answers = [(status, said)]
    with pytest.raises(error) as raised:
        streams(receiver).deliver(batch())
    assert type(raised.value) is error
    assert len(receiver.requests) == 1, "a redirect is not followed, nothing is repeated here"


def test_an_endpoint_that_is_not_there_is_unavailable(receiver: Receiver):
    with pytest.raises(DestinationUnavailable):
        streams(receiver, url="https://127.0.0.1:9/").deliver(batch())


def test_a_certificate_that_nobody_vouches_for_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(DestinationUnavailable):
        streams(receiver).deliver(batch())
    assert receiver.requests == []


def test_a_refused_key_is_asked_for_again(receiver: Receiver):
    asked: list[str] = []
    receiver.answers = [(403, None)]

    def ask(flow_log_id: str) -> dict[str, Any]:
        asked.append(flow_log_id)
        return target(receiver)

    made = DeliveryStreams(ask)
    with pytest.raises(AccessError):
        made.deliver(batch())
    made.deliver(batch())
    made.deliver(batch(batch_id="b/3"))
    assert asked == ["fl-1", "fl-1"]


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_file_names_an_endpoint_for_each_stream(tmp_path: Path):
    (tmp_path / "key").write_text("k3y\n")
    text = f"""
        [flow-logs]
        url = "https://example.org/x"
        access_key_file = "{tmp_path}/key"
        attributes = {{ team = "net" }}
        [plain]
        url = "http://127.0.0.1:8080/"
        compress = false
    """
    assert read_streams(write(tmp_path / "s.toml", text, 0o644)) == {
        "flow-logs": DeliveryStream("https://example.org/x", "k3y", True, {"team": "net"}),
        "plain": DeliveryStream("http://127.0.0.1:8080/", "", False, {}),
    }
    assert stream_name(ARN) == "flow-logs"
    assert stream_name("arn:aws:s3:::x") is None


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "x = 1",
        "[a]",
        '[a]\nurl = "http://example.org/"',
        '[a]\nurl = "ftp://example.org/"',
        '[a]\nurl = "https://example.org/"\ncolour = 1',
        '[a]\nurl = "https://example.org/"\ncompress = "yes"',
        '[a]\nurl = "https://example.org/"\nattributes = { a = 1 }',
        '[a]\nurl = "https://example.org/"\naccess_key = "two\\nlines"',
        '[a]\nurl = "https://example.org/"\naccess_key_file = "/nowhere"',
        '["a b"]\nurl = "https://example.org/"',
    ],
)
def test_files_that_are_not_right_are_refused(tmp_path: Path, text: str):
    with pytest.raises(InputError):
        read_streams(write(tmp_path / "s.toml", text))


def test_keys_that_others_can_read_are_refused(tmp_path: Path):
    text = '[a]\nurl = "https://example.org/"\naccess_key = "k"'
    with pytest.raises(InputError, match="chmod 600"):
        read_streams(write(tmp_path / "s.toml", text, 0o644))
    assert read_streams(write(tmp_path / "t.toml", text))["a"].access_key == "k"
