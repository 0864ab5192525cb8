"""No operation without a test that calls it by boto3."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from botocore import xform_name

from vnotch.api.document import SERVICES, declared

TESTS = Path(__file__).parents[1]
THIS = Path(__file__)


def names_in_tests() -> Iterator[str]:
    """Patterns of what tests look up: `client.create_vpc`, `client.get_paginator("describe_vpcs")`, and
    `getattr(client, f"tag_{kind}")` with the constant parts that it has."""
    for file in TESTS.rglob("*.py"):
        if file == THIS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                yield re.escape(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.escape(node.value)
            elif isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.Constant) for part in node.values):
                parts = (str(part.value) if isinstance(part, ast.Constant) else None for part in node.values)
                yield "".join(r"\w+" if part is None else re.escape(part) for part in parts)


def test_every_operation_is_called_by_boto3() -> None:
    verbs = {xform_name(name).partition("_")[0] for service in SERVICES for name in declared(service)}
    called = {pattern for pattern in names_in_tests() if pattern.partition("_")[0].rstrip("\\") in verbs}
    operations = [(service.model, name) for service in SERVICES for name in declared(service)]
    uncalled = [pair for pair in operations if not any(re.fullmatch(each, xform_name(pair[1])) for each in called)]
    assert uncalled == []
