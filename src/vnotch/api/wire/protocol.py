"""One service's wire protocol: request -> operation and typed parameters; result or error -> answer.

    protocol_of("ec2")  -> FormProtocol   ec2    form in, XML out
    protocol_of("iam")  -> FormProtocol   query  form in, XML out, result and metadata wrapped
    protocol_of("logs") -> JsonProtocol   json   X-Amz-Target and JSON in, JSON out

A service may speak several: CloudWatch is asked in query, json or rpcv2Cbor (CborProtocol), as the client chooses.

Nothing here is written for one operation; everything is compiled from the service model at first use.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from botocore.model import OperationModel, ServiceModel

from vnotch.api.service import ApiError
from vnotch.api.wire import cbor
from vnotch.api.wire import dialect as dialects
from vnotch.api.wire.constraints import Constraints, nul_in
from vnotch.api.wire.dialect import Dialect
from vnotch.api.wire.event_stream import EventStreamWriter, has_stream
from vnotch.api.wire.form import FormReader, form_pairs, parameter_tree
from vnotch.api.wire.json import JsonReader, JsonWriter
from vnotch.api.wire.models import error_shape, error_statuses, operation_of, own_name, service_model
from vnotch.api.wire.xml import XmlWriter


@dataclass
class WireRequest:
    """What of an HTTP request the protocols look at. `query` and `body` as they came; header names in lower case."""

    method: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes
    path: str = "/"
    pairs: dict[str, str] | None = None  # of a form, once it has been read


@dataclass(frozen=True)
class WireAnswer:
    """An HTTP answer but for its request id header."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Protocol:
    """What the steps of a request use."""

    dialect: Dialect
    _reader: FormReader | JsonReader
    _writer: XmlWriter | JsonWriter
    _constraints: Constraints

    def __init__(self, model: ServiceModel) -> None:
        self.model = model
        self._prepared: set[str] = set()
        self._compiling = threading.Lock()

    def prepare(self, operation: OperationModel) -> None:
        """Compiles the operation's shapes, once, for requests of any thread.

        A shape that is half compiled is seen by the thread with the lock alone: the shapes of a prepared operation are
        all complete, whatever another operation adds at the same time.
        """
        if operation.name in self._prepared:
            return
        with self._compiling:
            if operation.input_shape is not None:
                self._reader.prepare(operation.input_shape)
                self._constraints.prepare(operation.input_shape)
            if operation.output_shape is not None and not has_stream(operation.output_shape):
                self._writer.prepare(operation.output_shape)
            self._prepared.add(operation.name)

    def operation(self, request: WireRequest) -> OperationModel:
        """The operation that a request names; ApiError for one that the model does not know."""
        raise NotImplementedError

    def parameters(self, operation: OperationModel, request: WireRequest) -> dict[str, Any]:
        """The typed and checked parameters; ApiError in the words of the service."""
        raise NotImplementedError

    def _check(self, operation: OperationModel, parameters: dict[str, Any], may_hold_nul: bool) -> None:
        """Refuses what is not as the model has it. `may_hold_nul`: what was sent has the character U+0000 somewhere."""
        if operation.input_shape is None:
            return
        found = self._constraints.check(operation.input_shape, parameters)
        if not found and may_hold_nul and (violation := nul_in(parameters, operation.input_shape)) is not None:
            found = [violation]
        if found:
            raise self.dialect.violations(operation.name, found)

    def answer(self, operation: OperationModel, result: Mapping[str, Any], request_id: str) -> WireAnswer:
        raise NotImplementedError

    def error(self, error: ApiError, request_id: str) -> WireAnswer:
        raise NotImplementedError

    def stream(self, operation: OperationModel) -> EventStreamWriter:
        """How the events of an operation that streams them are written."""
        raise NotImplementedError

    def status_of(self, error: ApiError) -> int:
        """The model knows the HTTP status of some errors; a handler need not."""
        if error.status != 400:
            return error.status
        return error_statuses(self.model.service_name).get(error.code, 400)


# Parameters of the form itself and of a presigned query, which are no operation's.
_FORM_OWN = frozenset({"Action", "Version"})


class FormProtocol(Protocol):
    """The `ec2` and the `query` protocol."""

    def __init__(self, model: ServiceModel) -> None:
        super().__init__(model)
        ec2 = model.metadata["protocol"] == "ec2"
        self.dialect = dialects.EC2 if ec2 else dialects.QUERY
        self._reader: FormReader = FormReader(self.dialect, ec2)
        self._writer: XmlWriter = XmlWriter(model, ec2)
        self._content_type = "text/xml;charset=UTF-8" if ec2 else "text/xml"
        # EC2 reports parameters by their wire names (ResourceId), but a missing one by the name in the model.
        self._constraints = Constraints(self.dialect.patterns_enforced, lambda name, shape: name)

    def operation(self, request: WireRequest) -> OperationModel:
        pairs = self._pairs(request)
        action, version = pairs.get("Action", ""), pairs.get("Version", "")
        if not action:
            raise self.dialect.missing_action()
        operation = operation_of(self.model, action)
        if operation is None or version != self.model.metadata["apiVersion"]:
            raise self.dialect.unknown_action(action, version)
        return operation

    def parameters(self, operation: OperationModel, request: WireRequest) -> dict[str, Any]:
        self.prepare(operation)
        pairs = {name: value for name, value in self._pairs(request).items() if name not in _FORM_OWN}
        parameters = self._reader.read(operation.input_shape, parameter_tree(pairs, self.dialect))
        self._check(operation, parameters, any("\0" in value for value in pairs.values()))
        return parameters

    def _pairs(self, request: WireRequest) -> dict[str, str]:
        if request.pairs is None:
            request.pairs = self._read_pairs(request)
        return request.pairs

    def _read_pairs(self, request: WireRequest) -> dict[str, str]:
        pairs = form_pairs(request.query, self.dialect) if request.query else {}
        pairs = {name: value for name, value in pairs.items() if not name.startswith("X-Amz-")}
        if request.method == "GET":
            if request.body:
                raise self.dialect.malformed("A GET request has no body.")
            return pairs
        if request.method != "POST":
            raise self.dialect.malformed(f"The method {request.method} is not supported.")
        content_type = request.headers.get("content-type", "application/x-www-form-urlencoded")
        if request.body and content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise self.dialect.malformed("The body must be application/x-www-form-urlencoded.")
        for name, value in form_pairs(request.body, self.dialect).items():
            if name in pairs:
                raise self.dialect.malformed(f"The parameter {name[:200]} is given more than once.")
            pairs[name] = value
        return pairs

    def answer(self, operation: OperationModel, result: Mapping[str, Any], request_id: str) -> WireAnswer:
        self.prepare(operation)
        body = self._writer.answer(operation, result, request_id).encode()
        return WireAnswer(200, body, {"content-type": self._content_type})

    def error(self, error: ApiError, request_id: str) -> WireAnswer:
        body = self._writer.error(error, request_id).encode()
        return WireAnswer(self.status_of(error), body, {"content-type": self._content_type})


class JsonProtocol(Protocol):
    """The `json` protocol, 1.0 and 1.1."""

    _nul = rb"\u0000"
    """How U+0000 is written, and the only way to."""

    def __init__(self, model: ServiceModel) -> None:
        super().__init__(model)
        # A service that spoke the query protocol before has kept its words, and says the old code in a header.
        self.dialect = dialects.QUERY if "awsQueryCompatible" in model.metadata else dialects.JSON
        self._more_headers: dict[str, str] = {}
        self._target_prefix = str(model.metadata["targetPrefix"]) + "."
        self._content_type = f"application/x-amz-json-{model.metadata.get('jsonVersion', '1.0')}"
        self._reader: JsonReader = JsonReader(self.dialect)
        self._writer: JsonWriter = JsonWriter()
        self._constraints = Constraints(self.dialect.patterns_enforced, own_name)

    def operation(self, request: WireRequest) -> OperationModel:
        target = request.headers.get("x-amz-target", "")
        if request.method != "POST" or not target.startswith(self._target_prefix):
            raise self.dialect.unknown_action(target, "")
        operation = operation_of(self.model, target.removeprefix(self._target_prefix))
        if operation is None:
            raise self.dialect.unknown_action(target, "")
        return operation

    def parameters(self, operation: OperationModel, request: WireRequest) -> dict[str, Any]:
        self.prepare(operation)
        parameters = self._reader.read(operation.input_shape, request.body)
        self._check(operation, parameters, self._nul in request.body)
        return parameters

    def answer(self, operation: OperationModel, result: Mapping[str, Any], request_id: str) -> WireAnswer:
        self.prepare(operation)
        body = self._writer.answer(operation.output_shape, result)
        return WireAnswer(200, body, {"content-type": self._content_type, **self._more_headers})

    def error(self, error: ApiError, request_id: str) -> WireAnswer:
        headers = {"content-type": self._content_type, **self._more_headers}
        status = self.status_of(error)
        if "awsQueryCompatible" in self.model.metadata:
            headers["x-amzn-query-error"] = f"{error.code};{'Sender' if status < 500 else 'Receiver'}"
            shape = error_shape(self.model.service_name, error.code)
            error = ApiError(shape, error.message, error.status, error.members)
        return WireAnswer(status, self._writer.error(error), headers)

    def stream(self, operation: OperationModel) -> EventStreamWriter:
        with self._compiling:
            return EventStreamWriter(operation.output_shape, self._writer)


class CborProtocol(JsonProtocol):
    """The `rpcv2Cbor` protocol: the operation is named by the path."""

    _nul = b"\0"

    def __init__(self, model: ServiceModel) -> None:
        super().__init__(model)
        self._path = f"/service/{model.metadata['targetPrefix']}/operation/"
        self._content_type = cbor.CONTENT_TYPE
        self._reader = cbor.CborReader(self.dialect)
        self._writer = cbor.CborWriter()
        self._more_headers = {"smithy-protocol": CBOR}

    def operation(self, request: WireRequest) -> OperationModel:
        name = request.path.removeprefix(self._path)
        operation = operation_of(self.model, name) if request.path.startswith(self._path) else None
        if request.method != "POST" or operation is None:
            raise self.dialect.unknown_action(name, "")
        return operation


CBOR = "rpc-v2-cbor"
_KINDS = {"ec2": FormProtocol, "query": FormProtocol, "json": JsonProtocol, "smithy-rpc-v2-cbor": CborProtocol}


@lru_cache(maxsize=32)
def protocols_of(service: str) -> dict[str, Protocol]:
    """All protocols of the service that are spoken, by the name in the model; the first is the one that it prefers."""
    model = service_model(service)
    names = dict.fromkeys((model.metadata["protocol"], *model.metadata.get("protocols", ())))
    spoken = {name: _KINDS[name](model) for name in names if name in _KINDS}
    if not spoken:
        raise NotImplementedError(f"no protocol of {service} is spoken: {model.metadata['protocol']}")
    return spoken


def protocol_of(service: str) -> Protocol:
    """The protocol of the service whose model botocore calls `service`."""
    return next(iter(protocols_of(service).values()))


def protocol_for(service: str, headers: Mapping[str, str]) -> Protocol:
    """The protocol in which a request speaks, as its headers say it."""
    spoken = protocols_of(service)
    if len(spoken) == 1:
        return protocol_of(service)
    if headers.get("smithy-protocol") == CBOR:
        name = "smithy-rpc-v2-cbor"
    else:
        name = "json" if "x-amz-target" in headers else "query"
    return spoken.get(name) or protocol_of(service)
