"""Flow logs: CreateFlowLogs, DescribeFlowLogs, DeleteFlowLogs. There is no modify: only tags
of a flow log can change.

Errors are of two kinds, as on AWS: a request that is wrong raises; a destination that will not do is an item of
`Unsuccessful` inside an answer of HTTP 200. What is checked of a request alone is in `flow_log_request`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from vnotch.api.ec2.client_tokens import remember, replay
from vnotch.api.ec2.filters import TAG_KEY, Filter, column
from vnotch.api.ec2.flow_log_request import FlowLogRequest
from vnotch.api.ec2.part import (
    FLOW_LOG,
    INTERFACE,
    SUBNET,
    VPC,
    Describe,
    Ec2Part,
    arn,
    arns,
    ec2_operation,
    invalid_value,
    no_owner,
    refuse_dry_run,
    required,
    tag_set,
    timestamp,
)
from vnotch.api.ec2.tags import drop_tags, put_tags, tags_at_creation
from vnotch.api.iam.service_linked_roles import make_service_linked_role
from vnotch.api.service import ApiError, Call, Further
from vnotch.bucket_keys import Layout
from vnotch.buckets.upload import BucketStore, PolicyIsFull, Presence
from vnotch.delivery_streams import stream_name
from vnotch.store import agents, network
from vnotch.store.shown_rows import ShownRows
from vnotch.store.state import new_id
from vnotch.store.tag_fields import keys_of

FLOW_LOGS_PER_RESOURCE = 250
IDS_MAX = 1000
"""Quotas of the VPC user guide and of API DescribeFlowLogs."""

SERVICE_PRINCIPAL = "vpc-flow-logs.amazonaws.com"
SERVICE_LINKED_ROLE = f"aws-service-role/{SERVICE_PRINCIPAL}/AWSServiceRoleForVPCFlowLogs"
"""By which AWS keeps tag values current. It is made with the first flow log that shows tags; nobody assumes it."""

AUTO_SCALING = "auto-scaling-group"

_BUCKET_WORDS = {
    Presence.MISSING: "LogDestination: {} does not exist",
    Presence.DENIED: "Access Denied for LogDestination: {}. Please check LogDestination permission",
    Presence.UNKNOWN: "LogDestination: {} is undeliverable",
}
"""AWS's texts; the last one it has for a bucket where delivery is known to fail, here for one that does not answer."""

KIND_OF_TYPE = {"VPC": VPC, "Subnet": SUBNET, "NetworkInterface": INTERFACE}

ABSENT_TYPES = {
    "TransitGateway": (
        "transit-gateway",
        "InvalidTransitGatewayID.NotFound",
        "Transit Gateway {} was deleted or does not exist.",
    ),
    "TransitGatewayAttachment": (
        "transit-gateway-attachment",
        "InvalidTransitGatewayAttachmentID.NotFound",
        "Transit Gateway Attachment {} was deleted or does not exist.",
    ),
    "RegionalNatGateway": ("natgateway", "NatGatewayNotFound", "NAT gateway {} was not found"),
}
"""The resource types of which vnotch has no resource: name in ARNs, and the answer to any id."""

DESCRIBE = Describe(
    FLOW_LOG,
    "FlowLogIds",
    {
        **TAG_KEY,
        "deliver-log-status": Filter(lambda row: (row.deliver_logs_status,)),
        "log-destination-type": column(network.FlowLog.log_destination_type),
        "flow-log-id": column(network.FlowLog.flow_log_id),
        "log-group-name": column(network.FlowLog.log_group_name),
        "resource-id": column(network.FlowLog.resource_id),
        "traffic-type": column(network.FlowLog.traffic_type),
    },
    ShownRows(network.FlowLog, "deliveries tags tag_fields"),
    filters_member="Filter",
    unknown_filter="InvalidFilter",
    lenient=True,
    of_account=no_owner,
)


def _resources(call: Call) -> list[str]:
    """CreateFlowLogs is authorised on the flow log to be made and on what it monitors (service authorization
    reference, EC2)."""
    names = {kind: entry.name for kind, entry in KIND_OF_TYPE.items()}
    names |= {kind: name for kind, (name, _, _) in ABSENT_TYPES.items()}
    name = names.get(call.params.get("ResourceType") or "", "*")
    monitored = [arn(call, name, resource_id) for resource_id in call.params.get("ResourceIds") or ()]
    return [arn(call, FLOW_LOG.name), *monitored]


class FlowLogs(Ec2Part):
    @ec2_operation(
        "CreateFlowLogs",
        "ResourceIds ResourceType TrafficType LogDestinationType LogDestination LogGroupName LogFormat "
        "DeliverLogsPermissionArn DeliverCrossAccountRole DestinationOptions MaxAggregationInterval TagSpecifications "
        "TagFieldSpecifications ClientToken",
        _resources,
        dry_run=False,
        note="there is one account, so `DeliverCrossAccountRole` and a role for a delivery stream are refused; of "
        "transit gateways, their attachments and regional NAT gateways there are none",
    )
    def create_flow_logs(self, call: Call) -> dict[str, Any]:
        request = FlowLogRequest.of(call, self.any_interval)
        if request.log_destination_type != network.CLOUD_WATCH_LOGS:
            self.require(call, "logs:CreateLogDelivery", "*", {})
        if request.log_destination_type == network.FIREHOSE:
            self.require(call, "firehose:TagDeliveryStream", request.log_destination or "", {})
        if request.log_destination_type == network.CLOUD_WATCH_LOGS:
            conditions = {"iam:passedtoservice": SERVICE_PRINCIPAL}
            self.require(call, "iam:PassRole", request.deliver_logs_permission_arn, conditions)
        self._require_tags(call, request)
        tags = tags_at_creation(call, FLOW_LOG)
        refuse_dry_run(call)
        undeliverable = request.undeliverable or self._undeliverable(request, call)
        with self.state.write() as session:
            if earlier := replay(session, call):
                return earlier
            for resource_id in request.resource_ids:
                _find_resource(session, request.resource_type, resource_id)
            answer: dict[str, Any] = {
                "ClientToken": call.params.get("ClientToken") or call.request_id,
                "FlowLogIds": [],
                "Unsuccessful": [],
            }
            if undeliverable:
                answer["Unsuccessful"] = [_unsuccessful(item, undeliverable) for item in request.resource_ids]
                return answer
            for resource_id in request.resource_ids:
                flow_log_id = _create(session, request, resource_id, call.now_ms)
                put_tags(session, FLOW_LOG, flow_log_id, tags)
                answer["FlowLogIds"].append(flow_log_id)
            if request.tag_keys:
                make_service_linked_role(session, self._gate.accounts, SERVICE_PRINCIPAL)
            agents.touch(session, agents.agents_on(session, request.resource_ids))
            remember(session, call, answer)
            return answer

    def _undeliverable(self, request: FlowLogRequest, call: Call) -> str | None:
        """What AWS says of a bucket or delivery stream that will not do; None for one that is there."""
        if request.log_destination_type == network.FIREHOSE:
            name = stream_name(request.log_destination or "")
            return None if name in self.streams else _BUCKET_WORDS[Presence.MISSING].format(name)
        if request.files is None:
            return None
        (bucket, folder), options = request.bucket, request.files
        presence = self.buckets.presence(bucket, folder) if self.buckets else Presence.MISSING
        if presence is Presence.THERE and self.buckets:
            layout = Layout(
                folder, call.account, self.region, options.file_format, options.hive_compatible_partitions
            )  # fmt: skip
            if not self._admits_delivery(call, self.buckets, bucket, layout):
                presence = Presence.DENIED
        text = _BUCKET_WORDS.get(presence)
        return text and text.format(bucket)

    def _admits_delivery(self, call: Call, buckets: BucketStore, bucket: str, layout: Layout) -> bool:
        """A caller who may change the bucket's policy has it changed, others need it to be right (VPC user guide)."""

        def may_change_policy() -> bool:
            actions = ("s3:GetBucketPolicy", "s3:PutBucketPolicy")
            return all(self.may(call, action, f"arn:aws:s3:::{bucket}") for action in actions)

        try:
            return buckets.admits_delivery(bucket, layout, may_change_policy)
        except PolicyIsFull as error:
            # AWS's code; its text is not published.
            raise ApiError("LogDestinationPermissionIssueException", error.message) from None

    def _require_tags(self, call: Call, request: FlowLogRequest) -> None:
        """Showing tags needs the right to read them and to make the service's own role (VPC user guide, tag fields)."""
        kinds = {kind for kind, _ in request.tag_keys}
        if kinds - {AUTO_SCALING}:
            self.require(call, "ec2:DescribeTags", "*", {})
        if AUTO_SCALING in kinds:
            self.require(call, "autoscaling:DescribeTags", "*", {})
        if kinds:
            role = f"arn:aws:iam::{call.account}:role/{SERVICE_LINKED_ROLE}"
            self.require(call, "iam:CreateServiceLinkedRole", role, {"iam:awsservicename": SERVICE_PRINCIPAL})

    @ec2_operation("DescribeFlowLogs", "FlowLogIds Filter MaxResults NextToken", filters=DESCRIBE.names)
    def describe_flow_logs(self, call: Call) -> dict[str, Any]:
        """Unknown ids are left out; whether AWS does so or raises is not published."""
        _check_count(call.params.get("FlowLogIds") or [])
        with self.state.read() as session:
            rows, more = DESCRIBE.rows(session, call)
            return {"FlowLogs": [_describe(row) for row in rows], **more}

    @ec2_operation("DeleteFlowLogs", "FlowLogIds", arns("vpc-flow-log:FlowLogIds"))
    def delete_flow_logs(self, call: Call) -> dict[str, Any]:
        """All or none: one unknown id and nothing is deleted. What was delivered stays; what was collected until now is
        still delivered."""
        ids = list(dict.fromkeys(required(call, "FlowLogIds")))
        _check_count(ids)
        with self.state.write() as session:
            rows = list(session.scalars(select(network.FlowLog).where(network.FlowLog.flow_log_id.in_(ids))))
            known = {row.flow_log_id for row in rows}
            if missing := [flow_log_id for flow_log_id in ids if flow_log_id not in known]:
                raise ApiError(
                    "InvalidFlowLogId.NotFound",
                    f"These flow log ids in the input list are not found: [TotalCount: {len(missing)}] "
                    + " ".join(missing),
                )
            agents.touch(session, agents.agents_on(session, {row.resource_id for row in rows}))
            drop_tags(session, ids)
            for row in rows:
                agents.deleted(session, row)
                session.delete(row)
        return {"Unsuccessful": []}

    def further(self, call: Call, resources: Sequence[str]) -> list[Further]:
        """Ending a delivery into a bucket or a stream needs a permission of the log service (VPC user guide)."""
        found = super().further(call, resources)
        if call.operation != "DeleteFlowLogs":
            return [*found]
        row = network.FlowLog
        named = row.flow_log_id.in_(call.params.get("FlowLogIds") or ())
        with self.state.read() as session:
            other = session.scalar(select(exists().where(named, row.log_destination_type != network.CLOUD_WATCH_LOGS)))
        return [*found, *([Further(("logs:DeleteLogDelivery",), ("*",))] if other else [])]


def _find_resource(session: Session, resource_type: str, resource_id: str) -> None:
    if resource_type in KIND_OF_TYPE:
        KIND_OF_TYPE[resource_type].find(session, resource_id)
        return
    _, code, text = ABSENT_TYPES[resource_type]
    raise ApiError(code, text.format(resource_id))


def _create(session: Session, request: FlowLogRequest, resource_id: str, now_ms: int) -> str:
    row = network.FlowLog
    count = session.scalar(select(func.count()).select_from(row).where(row.resource_id == resource_id)) or 0
    if count >= FLOW_LOGS_PER_RESOURCE:
        # The code is in EC2's error list; its text is not published.
        raise ApiError(
            "FlowLogsLimitExceeded",
            f"The maximum number of flow logs for the resource {resource_id} has been reached: "
            f"{FLOW_LOGS_PER_RESOURCE}",
        )
    # Which parameters make a duplicate is not published: the resource and where its records go.
    same = exists().where(
        row.resource_id == resource_id,
        row.log_destination_type == request.log_destination_type,
        row.log_group_name == request.log_group_name,
        *([] if request.log_group_name else [row.log_destination == request.log_destination]),
    )
    if session.scalar(select(same)):
        raise ApiError(
            "FlowLogAlreadyExists",
            "Error. There is an existing Flow Log with the same configuration and log destination.",
        )
    flow_log = network.FlowLog(
        flow_log_id=new_id("fl"),
        resource_id=resource_id,
        resource_type=request.resource_type,
        traffic_type=request.traffic_type,
        log_destination_type=request.log_destination_type,
        log_destination=request.log_destination,
        log_group_name=request.log_group_name,
        deliver_logs_permission_arn=request.deliver_logs_permission_arn,
        log_format=request.log_format,
        max_aggregation_interval=request.max_aggregation_interval,
        created_ms=now_ms,
        **(vars(request.files) if request.files else {}),
        tag_fields=[
            network.FlowLogTagField(resource_type=kind, key=key) for kind, keys in request.tag_keys for key in keys
        ],
    )
    session.add(flow_log)
    session.flush()
    return flow_log.flow_log_id


def _unsuccessful(resource_id: str, message: str) -> dict[str, Any]:
    return {"ResourceId": resource_id, "Error": {"Code": "400", "Message": message}}


def _check_count(ids: list[str]) -> None:
    if len(ids) > IDS_MAX:
        raise invalid_value(len(ids), "FlowLogId", f"At most {IDS_MAX} flow logs can be named at once.")


def _describe(flow_log: network.FlowLog) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "FlowLogId": flow_log.flow_log_id,
        "FlowLogStatus": "ACTIVE",
        "DeliverLogsStatus": flow_log.deliver_logs_status,
        "ResourceId": flow_log.resource_id,
        "TrafficType": flow_log.traffic_type,
        "CreationTime": timestamp(flow_log.created_ms),
        "LogDestinationType": flow_log.log_destination_type,
        "LogFormat": flow_log.log_format,
        "MaxAggregationInterval": flow_log.max_aggregation_interval,
        "Tags": tag_set(flow_log.tags),
    }
    if flow_log.log_destination_type == network.S3:
        answer["DestinationOptions"] = {
            "FileFormat": flow_log.file_format,
            "HiveCompatiblePartitions": bool(flow_log.hive_compatible_partitions),
            "PerHourPartition": bool(flow_log.per_hour_partition),
        }
    elif flow_log.log_destination_type == network.CLOUD_WATCH_LOGS:
        answer["DeliverLogsPermissionArn"] = flow_log.deliver_logs_permission_arn
        answer["LogGroupName"] = flow_log.log_group_name
    if tag_keys := keys_of(flow_log):
        answer["TagFieldSpecifications"] = [{"ResourceType": kind, "TagKeys": list(keys)} for kind, keys in tag_keys]
    if flow_log.log_destination is not None:
        answer["LogDestination"] = flow_log.log_destination
    if flow_log.deliver_logs_error_message is not None:
        answer["DeliverLogsErrorMessage"] = flow_log.deliver_logs_error_message
    return answer
