"""GetFlowLogsIntegrationTemplate: the CloudFormation template by which Athena reads a flow log's files.

The template is stored under ConfigDeliveryS3DestinationArn, and the answer is its URL, as in the example of the API
reference, whose words are "the generated CloudFormation template"; in a bucket that is a folder of this host a `file:`
URL. Whose call it is must be allowed to write there.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import md5, sha256
from typing import Any
from urllib.parse import quote

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from vnotch.api.ec2.part import FLOW_LOG, Ec2Part, arns, ec2_operation, invalid_value, refuse_dry_run, required
from vnotch.api.service import ApiError, Call
from vnotch.athena.table import Files
from vnotch.athena.template import Integration, table_name, template
from vnotch.bucket_keys import parse_bucket_arn
from vnotch.buckets.folder import Folder
from vnotch.buckets.upload import Presence, Upload
from vnotch.errors import VnotchError
from vnotch.record import flow_log_format
from vnotch.store import network
from vnotch.store.tag_fields import keys_of

FREQUENCIES = ("none", "daily", "weekly", "monthly")
INTEGRATIONS_MAX = 10
"""AthenaIntegrationsSet of the service model."""
_UPLOAD_SECONDS = 30


class IntegrationTemplates(Ec2Part):
    @ec2_operation(
        "GetFlowLogsIntegrationTemplate",
        "FlowLogId ConfigDeliveryS3DestinationArn IntegrateServices",
        arns(f"{FLOW_LOG.name}:FlowLogId"),
        dry_run=False,
    )
    def get_flow_logs_integration_template(self, call: Call) -> dict[str, Any]:
        flow_log_id = required(call, "FlowLogId")
        destination = required(call, "ConfigDeliveryS3DestinationArn")
        bucket, folder = _bucket(destination, "ConfigDeliveryS3DestinationArn")
        integrations = _integrations(call, flow_log_id)
        below = f"{folder.rstrip('/')}/" if folder.strip("/") else ""
        key = below + _file_name(flow_log_id, call.now_ms)
        self.require(call, "s3:PutObject", f"arn:aws:s3:::{bucket}/{key}", {})
        refuse_dry_run(call)
        with self.state.read() as session:
            flow_log = FLOW_LOG.find(session, flow_log_id)
            if flow_log.log_destination_type != network.S3:
                kind = flow_log.log_destination_type
                raise ApiError("InvalidParameter", f"The flow log {flow_log_id} publishes to {kind}, not to s3.")
            files = _files(flow_log, call)
            format = flow_log_format(flow_log.log_format, keys_of(flow_log))
        return {"Result": self._store(bucket, key, template(flow_log_id, format, files, integrations).encode())}

    def _store(self, bucket: str, key: str, text: bytes) -> str:
        """Puts the template into the bucket; its URL. Raises ApiError."""
        if self.buckets is None or self.buckets.presence(bucket, key.rpartition("/")[0]) is not Presence.THERE:
            raise ApiError("InvalidParameter", f"The bucket {bucket} does not exist or does not take the template.")
        digests = (b64encode(digest(text).digest()).decode() for digest in (md5, sha256))
        try:
            signed = self.buckets.presign(Upload(bucket, key, len(text), *digests))
            request = AWSRequest(signed.method, signed.url, data=text, headers=dict(signed.headers))
            answer = URLLib3Session(timeout=_UPLOAD_SECONDS).send(request.prepare())
        except (VnotchError, BotoCoreError) as error:
            raise ApiError("InternalError", f"The template could not be stored: {error}", 500) from None
        if answer.status_code != 200:
            raise ApiError("InvalidParameter", f"The bucket {bucket} refuses the template: HTTP {answer.status_code}.")
        if isinstance(self.buckets, Folder):
            return f"file://{quote(str(self.buckets.root / bucket / key))}"
        return signed.url.partition("?")[0]


def _bucket(arn: str, parameter: str) -> tuple[str, str]:
    parsed = parse_bucket_arn(arn)
    if parsed is None:
        raise invalid_value(arn, parameter, "It is the ARN of an S3 bucket, with a folder or without.")
    return parsed


def _files(flow_log: network.FlowLog, call: Call) -> Files:
    bucket, folder = parse_bucket_arn(flow_log.log_destination or "") or ("", "")
    return Files(
        bucket,
        folder,
        call.account,
        call.region,
        parquet=flow_log.file_format == "parquet",
        hive=bool(flow_log.hive_compatible_partitions),
        per_hour=bool(flow_log.per_hour_partition),
    )


def _integrations(call: Call, flow_log_id: str) -> list[Integration]:
    given = (required(call, "IntegrateServices").get("AthenaIntegrations")) or []
    if not 1 <= len(given) <= INTEGRATIONS_MAX:
        raise invalid_value(len(given), "IntegrateServices.AthenaIntegrations", f"1 to {INTEGRATIONS_MAX} of them.")
    found = [_integration(item, call.now_ms) for item in given]
    names = [table_name(flow_log_id, item) for item in found]
    if len(set(names)) < len(names):
        raise invalid_value(names[0], "IntegrateServices", "Two integrations would make the same table.")
    return found


def _integration(given: dict[str, Any], now_ms: int) -> Integration:
    for member in ("IntegrationResultS3DestinationArn", "PartitionLoadFrequency"):
        if not given.get(member):
            raise ApiError("MissingParameter", f"The request must include the {member} of each integration.")
    frequency = given["PartitionLoadFrequency"]
    if frequency not in FREQUENCIES:
        raise invalid_value(frequency, "PartitionLoadFrequency", f"One of {', '.join(FREQUENCIES)}.")
    begin, end = (_utc(given.get(f"Partition{name}Date")) for name in ("Start", "End"))
    results = _bucket(given["IntegrationResultS3DestinationArn"], "IntegrationResultS3DestinationArn")
    if (begin is None) != (end is None) or (frequency == "none" and begin is None):
        hint = "PartitionStartDate and PartitionEndDate come together; none needs both."
        raise invalid_value(frequency, "PartitionLoadFrequency", hint)
    if begin is not None and end is not None and not begin < end <= datetime.fromtimestamp(now_ms / 1000, UTC):
        raise invalid_value(end.isoformat(), "PartitionEndDate", "It is after PartitionStartDate and in the past.")
    return Integration(results, frequency, begin, end)


def _utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def _file_name(flow_log_id: str, now_ms: int) -> str:
    """As in the example of the API reference, without its blanks and colons."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"VPCFlowLogsIntegrationTemplate_{flow_log_id}_{now:%Y%m%dT%H%M%SZ}.yml"
