"""Saved queries: PutQueryDefinition, DescribeQueryDefinitions, DeleteQueryDefinition (API reference 2014-03-28)."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import func, select

from vnotch.api.logs.insights import LANGUAGE
from vnotch.api.logs.part import (
    GROUP_NAME,
    LogsPart,
    checked_name,
    integer_between,
    invalid,
    limit_exceeded,
    page_token,
    token_position,
)
from vnotch.api.service import ANY_RESOURCE, ApiError, Call, operation
from vnotch.store.log_groups import starts_with
from vnotch.store.query_definitions import QueryDefinition

DEFINITIONS_MAX = 1000
"""Quota of saved queries per account and Region."""

PAGE_MAX = 1000


class QueryDefinitions(LogsPart):
    @operation("PutQueryDefinition", ANY_RESOURCE, only=LANGUAGE)
    def put_query_definition(self, call: Call) -> dict[str, Any]:
        params = call.params
        groups = params.get("logGroupNames") or []
        for number, group in enumerate(groups):
            checked_name(f"logGroupNames.{number + 1}.member", group, GROUP_NAME, r"[\.\-_/#A-Za-z0-9]+")
        given, token = params.get("queryDefinitionId"), params.get("clientToken")
        with self.state.write(notify=False) as session:
            if given is not None:
                definition = session.get(QueryDefinition, given)
                if definition is None:
                    raise _no_such_definition()
            else:
                made = token and session.scalar(select(QueryDefinition).where(QueryDefinition.token == token))
                if made:
                    return {"queryDefinitionId": made.id}
                if (session.scalar(select(func.count()).select_from(QueryDefinition)) or 0) >= DEFINITIONS_MAX:
                    raise limit_exceeded()
                definition = QueryDefinition(id=str(uuid.uuid4()), token=token)
                session.add(definition)
            definition.name = params["name"]
            definition.query = params["queryString"]
            definition.group_names = list(groups)
            definition.parameters = list(params.get("parameters") or [])
            definition.modified_ms = call.now_ms
            return {"queryDefinitionId": definition.id}

    @operation("DescribeQueryDefinitions", ANY_RESOURCE, only=LANGUAGE)
    def describe_query_definitions(self, call: Call) -> dict[str, Any]:
        prefix = call.params.get("queryDefinitionNamePrefix")
        limit = integer_between(call, "maxResults", 1, PAGE_MAX, PAGE_MAX)
        asked = {"prefix": prefix}
        place = token_position(call, asked)
        wanted = select(QueryDefinition).order_by(QueryDefinition.name, QueryDefinition.id).limit(limit + 1)
        if prefix:
            wanted = wanted.where(*starts_with(QueryDefinition.name, prefix))
        match place:
            case None:
                pass
            case [str() as name, str() as last]:
                wanted = wanted.where(
                    (QueryDefinition.name > name) | ((QueryDefinition.name == name) & (QueryDefinition.id > last))
                )
            case _:
                raise invalid("The specified nextToken is invalid.")
        with self.state.read() as session:
            found = list(session.scalars(wanted))
        answer: dict[str, Any] = {"queryDefinitions": [_described(definition) for definition in found[:limit]]}
        if len(found) > limit:
            answer["nextToken"] = page_token(call, asked, [found[limit - 1].name, found[limit - 1].id])
        return answer

    @operation("DeleteQueryDefinition", ANY_RESOURCE)
    def delete_query_definition(self, call: Call) -> dict[str, Any]:
        with self.state.write(notify=False) as session:
            definition = session.get(QueryDefinition, call.params["queryDefinitionId"])
            if definition is None:
                raise _no_such_definition()
            session.delete(definition)
        return {"success": True}


def _described(definition: QueryDefinition) -> dict[str, Any]:
    shown = {
        "queryLanguage": "CWLI",
        "queryDefinitionId": definition.id,
        "name": definition.name,
        "queryString": definition.query,
        "lastModified": definition.modified_ms,
        "logGroupNames": definition.group_names,
    }
    return shown | ({"parameters": definition.parameters} if definition.parameters else {})


def _no_such_definition() -> ApiError:
    return ApiError("ResourceNotFoundException", "The specified query definition does not exist.")
