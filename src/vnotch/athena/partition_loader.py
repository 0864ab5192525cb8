"""The Lambda function of the integration template, whole and by itself: it adds the partitions of a time to the table.

A schedule calls it with nothing, and it adds those from yesterday to AHEAD_DAYS on, before their files come. When the
stack is made CloudFormation calls it as a custom resource, with the first and last day where they were given. Adding a
partition that is there changes nothing.
"""

import json
import os
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

BATCH = 100  # of one BatchCreatePartition call


def values_of(begin: Any, end: Any, per_hour: bool) -> Any:
    time = begin.replace(minute=0, second=0, microsecond=0)
    step = timedelta(hours=1) if per_hour else timedelta(days=1)
    if not per_hour:
        time = time.replace(hour=0)
    while time <= end:
        parts = [f"{time:%Y}", f"{time:%m}", f"{time:%d}"]
        yield [*parts, f"{time:%H}"] if per_hour else parts
        time += step


def load(glue: Any, begin: Any, end: Any, settings: Any) -> int:
    names = {"DatabaseName": settings["DATABASE"], "TableName": settings["TABLE"]}
    table = glue.get_table(DatabaseName=names["DatabaseName"], Name=names["TableName"])["Table"]
    storage, keys = table["StorageDescriptor"], [key["Name"] for key in table["PartitionKeys"]]
    base, hive = storage["Location"].rstrip("/"), settings["HIVE"] == "true"
    wanted = []
    for values in values_of(begin, end, "hour" in keys):
        parts = [f"{key}={value}" for key, value in zip(keys, values, strict=True)] if hive else values
        wanted.append({"Values": values, "StorageDescriptor": {**storage, "Location": "/".join([base, *parts]) + "/"}})
    for first in range(0, len(wanted), BATCH):
        answer = glue.batch_create_partition(**names, PartitionInputList=wanted[first : first + BATCH])
        failed = [e for e in answer.get("Errors", []) if e["ErrorDetail"]["ErrorCode"] != "AlreadyExistsException"]
        if failed:
            raise RuntimeError(json.dumps(failed[:3]))
    return len(wanted)


def handler(event: Any, context: Any) -> int:
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=1), now + timedelta(days=int(os.environ["AHEAD_DAYS"]))
    if "ResponseURL" not in event:
        return load(boto3.client("glue"), begin, end, os.environ)
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer |= {"PhysicalResourceId": os.environ["TABLE"], "Status": "SUCCESS", "Reason": ""}
    try:
        given = event["ResourceProperties"]
        if event["RequestType"] != "Delete":
            if "Begin" in given:
                begin, end = datetime.fromisoformat(given["Begin"]), datetime.fromisoformat(given["End"])
            load(boto3.client("glue"), begin, end, os.environ)
    except Exception as error:
        answer |= {"Status": "FAILED", "Reason": str(error)[:500]}
    request = urllib.request.Request(
        event["ResponseURL"], json.dumps(answer).encode(), {"content-type": ""}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=30).close()
    return 0
