"""Tags of log groups: TagResource and its kin, and the older TagLogGroup family (API reference 2014-03-28)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, exists, not_, or_, select
from sqlalchemy.orm import Session

from vnotch.api.logs.part import (
    ON_GROUP,
    LogsPart,
    constraint,
    existing_group,
    group_name,
    invalid,
    name_from_identifier,
    no_such_group,
)
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.log_groups import LogGroup, LogGroupTag

TAGS_MAX = 50
TAG_TEXT = re.compile(r"[^\W_]|[\s_.:/=+\-@]")


class LogTags(LogsPart):
    @operation("TagResource", ON_GROUP)
    def tag_resource(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            put_tags(session, _tagged_group(session, call), call.params["tags"], call.params["resourceArn"])
        return {}

    @operation("UntagResource", ON_GROUP)
    def untag_resource(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            remove_tags(session, _tagged_group(session, call), call.params["tagKeys"])
        return {}

    @operation("ListTagsForResource", ON_GROUP)
    def list_tags_for_resource(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            return {"tags": tags_of(session, _tagged_group(session, call))}

    @operation("TagLogGroup", ON_GROUP)
    def tag_log_group(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            group = existing_group(session, group_name(call))
            put_tags(session, group, call.params["tags"], group.name)
        return {}

    @operation("UntagLogGroup", ON_GROUP)
    def untag_log_group(self, call: Call) -> dict[str, Any]:
        with self.state.write() as session:
            remove_tags(session, existing_group(session, group_name(call)), call.params["tags"])
        return {}

    @operation("ListTagsLogGroup", ON_GROUP)
    def list_tags_log_group(self, call: Call) -> dict[str, Any]:
        with self.state.read() as session:
            return {"tags": tags_of(session, existing_group(session, group_name(call)))}


def _tagged_group(session: Session, call: Call) -> LogGroup:
    """The log group that an ARN names. AWS tags destinations too; there are none here."""
    arn = call.params["resourceArn"]
    if not arn.startswith("arn:"):
        raise invalid(f"Invalid resourceArn: {arn!r}. It must be the ARN of a log group.")
    if ":log-group:" not in arn:
        raise no_such_group()
    return existing_group(session, name_from_identifier(call, "resourceArn", arn))


def tags_of(session: Session, group: LogGroup) -> dict[str, str]:
    wanted = select(LogGroupTag.key, LogGroupTag.value).where(LogGroupTag.group_id == group.id)
    return {row.key: row.value for row in session.execute(wanted.order_by(LogGroupTag.key))}


def put_tags(session: Session, group: LogGroup, tags: Mapping[str, str], resource: str) -> None:
    """Adds tags, or gives those that are there their new value. Raises ApiError; nothing is changed then."""
    checked_tags(tags)
    if len(tags_of(session, group).keys() | tags.keys()) > TAGS_MAX:
        raise ApiError(
            "TooManyTagsException",
            f"A resource can have no more than {TAGS_MAX} tags.",
            members={"resourceName": resource},
        )
    for key, value in tags.items():
        session.merge(LogGroupTag(group_id=group.id, key=key, value=value))


def remove_tags(session: Session, group: LogGroup, keys: Sequence[str]) -> None:
    """Tags that are not there are passed over, as on AWS."""
    wanted = set(keys) & tags_of(session, group).keys()
    session.execute(delete(LogGroupTag).where(LogGroupTag.group_id == group.id, LogGroupTag.key.in_(wanted)))


def checked_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    if len(tags) > TAGS_MAX:
        raise constraint("tags", tags, f"have length less than or equal to {TAGS_MAX}")
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256 or not _tag_text(key) or not _tag_text(value):
            raise invalid(
                f"The tag {key!r} is not valid: keys have 1 to 128, values up to 256 letters, digits, _.:/=+-@"
            )
        if key.lower().startswith("aws:"):
            raise invalid("Tag keys that begin with aws: are reserved.")
    return tags


def _tag_text(text: str) -> bool:
    return all(TAG_TEXT.fullmatch(character) for character in text)


def has_tag(key: str, values: Iterable[str]) -> Any:
    """Condition on LogGroup for a tag filter of ListLogGroups (model: TagFilter): any value, or one of these, where
    `*` is a wildcard that takes no notice of case and `!` before a value means any other."""
    tag = and_(LogGroupTag.group_id == LogGroup.id, LogGroupTag.key == key)
    conditions = [_value_matches(value) for value in values]
    return exists().where(and_(tag, or_(*conditions)) if conditions else tag)


def _value_matches(value: str) -> Any:
    if value.startswith("!"):
        return not_(_value_matches(value[1:]))
    if "*" not in value:
        return LogGroupTag.value == value
    return LogGroupTag.value.ilike(re.sub(r"([\\%_])", r"\\\1", value).replace("*", "%"), escape="\\")
