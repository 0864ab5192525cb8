"""Log groups and log streams of CloudWatch Logs: create, delete, describe, retention (API reference 2014-03-28)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from vnotch.api.logs.part import (
    ON_ALL_GROUPS,
    ON_GROUP,
    ON_STREAM,
    PAGE_MAX,
    LogsPart,
    constraint,
    existing_group,
    existing_stream,
    group_arn,
    group_in,
    group_name,
    integer_between,
    invalid,
    limit_exceeded,
    name_from_identifier,
    no_such_group,
    page_token,
    stream_arn,
    stream_name,
    token_position,
)
from vnotch.api.logs.tags import checked_tags, has_tag
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.log_groups import (
    LAST_MS,
    LogGroup,
    LogGroupTag,
    LogStream,
    delete_group,
    delete_stream,
    find_group,
    has_part,
    starts_with,
)
from vnotch.store.metric_filters import filter_counts
from vnotch.store.stream_maker import Made

LIST_MAX = 1000
RETENTION_DAYS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)  # fmt: skip
CLASSES = ("STANDARD", "INFREQUENT_ACCESS")
"""The classes that vnotch makes. DELIVERY and ESSENTIALS are refused: their limits are not published."""


class LogGroups(LogsPart):
    @operation("CreateLogGroup", ON_GROUP, unsupported="kmsKeyId", only={"logGroupClass": CLASSES})
    def create_log_group(self, call: Call) -> dict[str, Any]:
        name = group_name(call)
        if name.startswith("aws/"):
            raise invalid("Log groups starting with AWS/ are reserved for AWS.")
        log_class = call.params.get("logGroupClass") or "STANDARD"
        tags = checked_tags(call.params.get("tags") or {})
        with self.state.write() as session:
            if find_group(session, name) is not None:
                raise _group_exists()
            if (session.scalar(select(func.count()).select_from(LogGroup)) or 0) >= self.quotas.log_groups:
                raise limit_exceeded()
            group = LogGroup(
                name=name,
                creation_ms=call.now_ms,
                log_class=log_class,
                deletion_protection=bool(call.params.get("deletionProtectionEnabled")),
            )
            session.add(group)
            session.flush()
            session.add_all(LogGroupTag(group_id=group.id, key=key, value=value) for key, value in tags.items())
        return {}

    @operation("DeleteLogGroup", ON_GROUP)
    def delete_log_group(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            group = existing_group(session, group_name(call))
            _refuse_protected(group)
            delete_group(session, group)
        self.lake.delete(group.id)
        return {}

    @operation("DescribeLogGroups", ON_ALL_GROUPS, unsupported="includeLinkedAccounts accountIdentifiers")
    def describe_log_groups(self, call: Call) -> dict[str, Any]:
        params = call.params
        asked = {
            name: params[name]
            for name in ("logGroupNamePrefix", "logGroupNamePattern", "logGroupIdentifiers", "logGroupClass")
            if params.get(name)
        }
        if {"logGroupNamePrefix", "logGroupNamePattern"} <= asked.keys():
            raise invalid("LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.")
        if "logGroupIdentifiers" in asked and len(asked) > 1:
            raise invalid("logGroupIdentifiers cannot be combined with other filters.")
        limit = integer_between(call, "limit", 1, PAGE_MAX, PAGE_MAX)
        wanted = select(LogGroup).order_by(LogGroup.name).limit(limit + 1)
        if prefix := asked.get("logGroupNamePrefix"):
            wanted = wanted.where(*starts_with(LogGroup.name, prefix))
        if pattern := asked.get("logGroupNamePattern"):
            wanted = wanted.where(has_part(LogGroup.name, pattern))
        if log_class := asked.get("logGroupClass"):
            wanted = wanted.where(LogGroup.log_class == log_class)
        if identifiers := asked.get("logGroupIdentifiers"):
            names = [name_from_identifier(call, "logGroupIdentifiers", item) for item in identifiers]
            wanted = wanted.where(LogGroup.name.in_(names))
        if (after := token_position(call, asked)) is not None:
            wanted = wanted.where(LogGroup.name > after)
        with self.state.read() as session:
            groups = list(session.scalars(wanted))
            page = groups[:limit]
            filters = filter_counts(session, [group.id for group in page])
        answer: dict[str, Any] = {
            "logGroups": [_describe_group(call, group, filters.get(group.id, 0)) for group in page]
        }
        if len(groups) > limit:
            answer["nextToken"] = page_token(call, asked, page[-1].name)
        return answer

    @operation(
        "ListLogGroups",
        ON_ALL_GROUPS,
        unsupported="includeLinkedAccounts accountIdentifiers dataSources fieldIndexNames",
    )
    def list_log_groups(self, call: Call) -> dict[str, Any]:
        names = ("logGroupNamePattern", "logGroupClass", "logGroupTags")
        asked = {name: call.params[name] for name in names if call.params.get(name)}
        limit = integer_between(call, "limit", 1, LIST_MAX, PAGE_MAX)
        wanted = select(LogGroup).order_by(LogGroup.name).limit(limit + 1)
        if pattern := asked.get("logGroupNamePattern"):
            wanted = wanted.where(or_(*(_name_matches(part) for part in pattern.split("|"))))
        if log_class := asked.get("logGroupClass"):
            wanted = wanted.where(LogGroup.log_class == log_class)
        for tag_filter in asked.get("logGroupTags", ()):
            wanted = wanted.where(has_tag(tag_filter["key"], tag_filter.get("values") or ()))
        if (after := token_position(call, asked)) is not None:
            wanted = wanted.where(LogGroup.name > after)
        with self.state.read() as session:
            groups = list(session.scalars(wanted))
        page = groups[:limit]
        answer: dict[str, Any] = {
            "logGroups": [
                {
                    "logGroupName": group.name,
                    "logGroupArn": group_arn(call, group.name),
                    "logGroupClass": group.log_class,
                }
                for group in page
            ]
        }
        if len(groups) > limit:
            answer["nextToken"] = page_token(call, asked, page[-1].name)
        return answer

    @operation("PutRetentionPolicy", ON_GROUP)
    def put_retention_policy(self, call: Call) -> dict[str, Any]:
        days = call.params.get("retentionInDays")
        if days not in RETENTION_DAYS:
            listed = ", ".join(str(allowed) for allowed in RETENTION_DAYS)
            raise constraint("retentionInDays", days, f"satisfy enum value set: [{listed}]")
        with self.state.write() as session:
            existing_group(session, group_name(call)).retention_days = days
        return {}

    @operation("DeleteRetentionPolicy", ON_GROUP)
    def delete_retention_policy(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            existing_group(session, group_name(call)).retention_days = None
        return {}

    @operation("PutLogGroupDeletionProtection", ON_GROUP)
    def put_log_group_deletion_protection(self, call: Call) -> dict[str, Any]:
        name = name_from_identifier(call, "logGroupIdentifier", call.params["logGroupIdentifier"])
        with self.state.write() as session:
            existing_group(session, name).deletion_protection = bool(call.params["deletionProtectionEnabled"])
        return {}


class LogStreams(LogsPart):
    @operation("CreateLogStream", ON_STREAM)
    def create_log_stream(self, call: Call) -> dict[str, Any]:
        name = stream_name(call)
        with self.state.read() as session:
            group = existing_group(session, group_name(call))
        made = self.stream_maker.make(group.id, name, call.now_ms)
        if made is Made.NO_GROUP:
            raise no_such_group()
        if made is Made.EXISTED:
            raise ApiError("ResourceAlreadyExistsException", "The specified log stream already exists")
        return {}

    @operation("DeleteLogStream", ON_STREAM)
    def delete_log_stream(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            group = existing_group(session, group_name(call))
            stream = existing_stream(session, group, stream_name(call))
            _refuse_protected(group)
            delete_stream(session, stream)
        self.lake.delete(group.id, stream.id)
        return {}

    @operation("DescribeLogStreams", ON_GROUP)
    def describe_log_streams(self, call: Call) -> dict[str, Any]:
        name = group_in(call)
        prefix = call.params.get("logStreamNamePrefix")
        order = call.params.get("orderBy") or "LogStreamName"
        if order not in ("LogStreamName", "LastEventTime"):
            raise constraint("orderBy", order, "satisfy enum value set: [LogStreamName, LastEventTime]")
        if prefix and order == "LastEventTime":
            raise invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
        limit = integer_between(call, "limit", 1, PAGE_MAX, PAGE_MAX)
        descending = bool(call.params.get("descending"))
        asked = {"group": name, "prefix": prefix, "order": order, "descending": descending}
        with self.state.read() as session:
            group = existing_group(session, name)
            streams = _streams(session, group.id, asked, token_position(call, asked), limit + 1)
        page = streams[:limit]
        answer: dict[str, Any] = {"logStreams": [_describe_stream(call, name, stream) for stream in page]}
        if len(streams) > limit:
            answer["nextToken"] = page_token(call, asked, [page[-1].last_ms or 0, page[-1].name])
        return answer


def _streams(
    session: Session, group_id: int, asked: dict[str, Any], after: list[Any] | None, limit: int
) -> list[LogStream]:
    """One page in the order asked for. Streams without events come before all others in the order of time."""
    by_time = asked["order"] == "LastEventTime"
    down = asked["descending"]
    columns = [LAST_MS, LogStream.name] if by_time else [LogStream.name]
    wanted = (
        select(LogStream)
        .where(LogStream.group_id == group_id)
        .order_by(*(column.desc() if down else column for column in columns))
        .limit(limit)
    )
    if asked["prefix"]:
        wanted = wanted.where(*starts_with(LogStream.name, asked["prefix"]))
    if after is not None:
        last_ms, name = after
        beyond = LogStream.name < name if down else LogStream.name > name
        if by_time:
            later = last_ms > LAST_MS if down else last_ms < LAST_MS
            beyond = or_(later, and_(last_ms == LAST_MS, beyond))
        wanted = wanted.where(beyond)
    return list(session.scalars(wanted))


def _name_matches(part: str) -> Any:
    """One of the alternatives of ListLogGroups' pattern: `^prefix`, or a text that the name has somewhere."""
    if part.startswith("^"):
        return and_(*starts_with(LogGroup.name, part[1:]))
    return has_part(LogGroup.name, part)


def _group_exists() -> ApiError:
    return ApiError("ResourceAlreadyExistsException", "The specified log group already exists")


def _refuse_protected(group: LogGroup) -> None:
    if group.deletion_protection:
        # The code is the one that the service model has for DeleteLogGroup and for nothing else there.
        raise ApiError("ValidationException", "The log group is protected from deletion: disable the protection first.")


def _describe_group(call: Call, group: LogGroup, metric_filters: int) -> dict[str, Any]:
    arn = group_arn(call, group.name)
    described: dict[str, Any] = {
        "logGroupName": group.name,
        "creationTime": group.creation_ms,
        "metricFilterCount": metric_filters,
        "arn": f"{arn}:*",
        "storedBytes": group.stored_bytes,
        "logGroupClass": group.log_class,
        "logGroupArn": arn,
        "deletionProtectionEnabled": group.deletion_protection,
    }
    if group.retention_days is not None:
        described["retentionInDays"] = group.retention_days
    return described


def _describe_stream(call: Call, group: str, stream: LogStream) -> dict[str, Any]:
    described: dict[str, Any] = {
        "logStreamName": stream.name,
        "creationTime": stream.creation_ms,
        "arn": stream_arn(call, group, stream.name),
        "storedBytes": 0,  # AWS: always zero since 2019
    }
    if stream.last_ms is not None:
        described |= {
            "firstEventTimestamp": stream.first_ms,
            "lastEventTimestamp": stream.last_ms,
            "lastIngestionTime": stream.ingestion_ms,
            "uploadSequenceToken": f"{stream.ingestion_ms:056d}",
        }
    return described
