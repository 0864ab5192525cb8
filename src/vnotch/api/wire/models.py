"""The service models that drive the wire protocols: botocore's own, from the installed package."""

from __future__ import annotations

from functools import lru_cache
from html.parser import HTMLParser

from botocore.model import OperationModel, ServiceModel, Shape

from vnotch.service_models import models


@lru_cache(maxsize=32)
def service_model(name: str) -> ServiceModel:
    """botocore's model of the service `name` (`ec2`, `iam`, `sts`, `logs`)."""
    return ServiceModel(models().load_service_model(name, "service-2"), name)


def operation_of(model: ServiceModel, action: str) -> OperationModel | None:
    """The operation that goes by `action` on the wire, or None."""
    # operation_model raises for unknown names, and the names are what a client sent.
    return model.operation_model(action) if action in _operation_names(model.service_name) else None


@lru_cache(maxsize=32)
def _operation_names(service: str) -> frozenset[str]:
    return frozenset(service_model(service).operation_names)


@lru_cache(maxsize=32)
def error_statuses(service: str) -> dict[str, int]:
    """Error code -> HTTP status, of the errors that the model gives a status (IAM's NoSuchEntity is 404)."""
    statuses = {}
    for shape in service_model(service).error_shapes:
        error = shape.metadata.get("error", {})
        if "httpStatusCode" in error:
            statuses[error.get("code", shape.name)] = int(error["httpStatusCode"])
    return statuses


def error_shape(service: str, code: str) -> str:
    """The name of the error's shape where the model has the code, else the code."""
    return _error_shapes(service).get(code, code)


@lru_cache(maxsize=32)
def _error_shapes(service: str) -> dict[str, str]:
    shapes = service_model(service).error_shapes
    return {shape.metadata.get("error", {}).get("code", shape.name): shape.name for shape in shapes}


def own_name(name: str, shape: Shape) -> str:
    """The name that a member goes by in XML and JSON: its locationName, else the member's own."""
    location_name = shape.serialization.get("name")
    return str(location_name) if location_name else name


def documented_filters(operation: OperationModel) -> list[str]:
    """The names of filters in the model's own documentation, without those by a tag's key."""
    members = operation.input_shape.members if operation.input_shape else {}
    for member in ("Filters", "Filter"):
        if member in members:
            listed = _Listed()
            listed.feed(members[member].documentation)
            return [name for name in dict.fromkeys(listed.names) if name.partition(":")[0] != "tag"]
    return []


class _Listed(HTMLParser):
    """The words in code type with which the items of the outermost list begin; lists within them are of values."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._depth = 0
        self._begins = False
        self._is_code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag == "ul"
        if tag == "li":
            self._begins = self._depth == 1
        self._is_code = tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "ul"

    def handle_data(self, data: str) -> None:
        if data.strip():
            if self._begins and self._is_code:
                self.names.append(data.strip())
            self._begins = False
