"""`vnotch why-denied`: what decided a request, by its id."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from vnotch.cli.endpoint import Endpoint
from vnotch.cli.options import DataDir, EndpointUrl, Json, folders_of
from vnotch.cli.terminal import out, plain
from vnotch.errors import InputError

_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def why_denied(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="As the answer has it (x-amzn-requestid, RequestId).")
    ],
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Json = False,
) -> None:
    """Say who asked for what, and which statement of which policy decided it."""
    if not _REQUEST_ID.fullmatch(request_id.lower()):
        raise InputError(f"{request_id} is no request id", "it is in the answer: aws --debug shows it as RequestId")
    from vnotch.signed_http import Refused

    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    try:
        line = endpoint.request("GET", f"/vnotch/v1/decisions/{request_id.lower()}")
    except Refused as error:
        if error.code != "ResourceNotFoundException":
            raise
        raise InputError(
            f"the access log has no request {request_id}",
            "it keeps the last 120 MB of lines: what is older is gone, and requests of other servers were never there",
        ) from None
    if as_json:
        sys.stdout.write(json.dumps(line, indent=2) + "\n")
        return
    for text in lines_of(line):
        out.print(plain(text), markup=False)


def lines_of(line: Mapping[str, Any]) -> list[str]:
    """What a line of the access log says, for people."""
    when = datetime.fromtimestamp(line["time_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = line["principal_arn"] or (f"key {line['access_key_id']}" if line["access_key_id"] else "nobody known")
    lines = [f"{when}, from {line['remote'] or 'an unknown address'}: {who}"]
    denied = line.get("denied")
    action = denied["action"] if denied else line["action"] or "an unknown action"
    resources = [denied["resource"]] if denied else line["resources"]
    lines.append(f"asked for {action}" + (f" on {', '.join(resources)}" if resources else ""))
    if denied:
        lines += _denied_lines(denied)
    elif line["decision"] == "allowed":
        by = f", by {line['decided_by']}" if line["decided_by"] else ""
        failed = f"; it failed with {line['error_code']}" if line["error_code"] else ""
        lines.append(f"and was allowed{by}{failed}")
    elif line["error_code"]:
        lines.append(f"and was refused before any policy was asked: {line['error_code']}")
    else:
        lines.append("and was answered; no policy decides this call")
    return lines


def _denied_lines(denied: Mapping[str, Any]) -> list[str]:
    lines = [f"and was denied {denied['reason']}"]
    statement = denied["statement"]
    if statement:
        name = statement["sid"] or f"statement {statement['number']}"
        lines.append(f"the statement that decided: {name} of the policy {statement['policy']}")
    else:
        lines.append("no statement decided: there is none that allows it")
    context = [f"  {key} = {', '.join(values)}" for key, values in sorted(denied["context"].items())]
    return [*lines, "the request's condition keys:", *context]
