"""Queries of Logs Insights: StartQuery, GetQueryResults, StopQuery, DescribeQueries (API reference 2014-03-28)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vnotch.api.logs.part import (
    GROUP_NAME,
    LogsPart,
    checked_name,
    constraint,
    existing_group,
    group_name,
    integer_between,
    invalid,
    limit_exceeded,
    name_from_identifier,
    page_token,
    stream_arn,
    token_position,
)
from vnotch.api.service import ANY_RESOURCE, ApiError, Call, Deferred, operation
from vnotch.errors import LimitError
from vnotch.insights.calls import Asked
from vnotch.insights.events import Source
from vnotch.insights.grammar import LIMIT_MAX
from vnotch.insights.malformed import MalformedQuery
from vnotch.insights.runs import Queries, Question, Run, Status
from vnotch.store.event_table import EVENT_COLUMNS, RECORD_COLUMNS, quoted
from vnotch.store.log_groups import DAY_MS, LogGroup, LogStream
from vnotch.store.log_totals import graves_of
from vnotch.store.relation import UNKNOWN_FORMAT, message_sql

LANGUAGE = {"queryLanguage": ("CWLI",)}
"""The other languages of Logs Insights are not there."""

LIMIT = 10_000
"""Rows of an answer where neither the query nor the call says another number."""

PAGE_ROWS_MAX = 10_000
GROUPS_MAX = 50
DESCRIBED_MAX = 1000
RESULTS_HELD_SECONDS = 0.1
MANY_EVENTS = 500_000
SECONDS_MAX = 100_000_000_000
"""The year 5138: a larger number is no time in seconds but one in milliseconds."""

ON_QUERIED_GROUPS = "queried_groups"


class InsightsQueries(LogsPart):
    queries: Queries

    def queried_groups(self, call: Call) -> list[str]:
        """The ARNs of the groups that StartQuery names; names that are wrong are refused later."""
        names: list[str] = []
        for member in ("logGroupName", "logGroupNames", "logGroupIdentifiers"):
            given = call.params.get(member) or []
            names += [given] if isinstance(given, str) else given
        return [stream_arn(call, name.rpartition(":log-group:")[2].removesuffix(":*"), "") for name in names] or ["*"]

    @operation("StartQuery", ON_QUERIED_GROUPS, only=LANGUAGE, note="of the language, what docs/insights.md says")
    def start_query(self, call: Call) -> dict[str, Any]:
        names = _group_names(call)
        limit = integer_between(call, "limit", 1, LIMIT_MAX, LIMIT)
        asked = _asked(call)
        with self.state.read() as session:
            groups = [existing_group(session, name) for name in names]
            events = session.scalar(
                select(func.sum(LogStream.events)).where(LogStream.group_id.in_([group.id for group in groups]))
            )
        # Names of streams are looked up for the queries alone that can ask for them.
        named = "@logStream" in call.params["queryString"]
        stored_bytes = sum(group.stored_bytes for group in groups)
        question = Question(
            text=call.params["queryString"],
            groups=tuple(names),
            asked=asked,
            limit=limit,
            principal_arn=call.principal.arn,
            source=lambda: self._source(call.account, groups, asked, named, (events or 0) >= MANY_EVENTS),
            bytes_per_event=stored_bytes / events if events else 0.0,
            again=lambda error: UNKNOWN_FORMAT in str(error),
        )
        try:
            return {"queryId": self.queries.start(question).id}
        except MalformedQuery as error:
            raise _malformed(error) from None
        except LimitError:
            raise limit_exceeded() from None

    def _source(self, account: str, groups: Sequence[LogGroup], asked: Asked, with_streams: bool, many: bool) -> Source:
        """The events of the groups in the query's time that are neither deleted nor expired. Where there are `many`, it
        is worth a look at the catalog to leave conditions out that all events meet."""
        ids = [group.id for group in groups]
        with self.state.read() as session:
            buried = [stream for group in ids for stream in graves_of(session, group)]
            streams = _streams(session, ids) if with_streams else {}
        oldest_ms = {
            group.id: asked.now_ms - group.retention_days * DAY_MS
            for group in groups
            if group.retention_days is not None
        }
        start_ms = asked.start_ms
        if len(oldest_ms) == len(ids):
            start_ms = max(start_ms, min(oldest_ms.values()))
        extent = self.lake.extent() if many else None
        relation = self.lake.relation(
            ids, start_ms=start_ms, end_ms=asked.end_ms + 1, without_streams=buried, extent=extent
        )
        conditions = [f"({relation.where})"]
        conditions += [
            f"(group_id != {int(group)} OR timestamp_ms >= {oldest})"
            for group, oldest in oldest_ms.items()
            if oldest > start_ms
        ]
        columns = ", ".join(quoted(column.name) for column in [*EVENT_COLUMNS, *RECORD_COLUMNS])
        return Source(
            sql=f"(SELECT {columns} FROM {relation.table} WHERE {' AND '.join(conditions)})",
            parameters=tuple(relation.parameters),
            line=message_sql(relation.formats),
            formats=relation.formats,
            account=account,
            groups={group.id: group.name for group in groups},
            streams=streams,
        )

    def groups_of_query(self, call: Call) -> list[str]:
        """GetQueryResults is authorised on the groups whose events it shows; of a query that is not there, on any."""
        run = self.queries.get(call.params["queryId"])
        return [stream_arn(call, name, "") for name in run.question.groups] if run is not None else ["*"]

    @operation("GetQueryResults", "groups_of_query")
    def get_query_results(self, call: Call) -> dict[str, Any] | Deferred:
        """The answer to a query that runs is held until it ends, for a moment: clients ask again at once."""
        run = self._found(call)
        if run.status.ended:
            return self._results(call, run)
        end = self.queries.end_of(run)

        def results() -> dict[str, Any]:
            end.cancel()
            return self._results(call, run)

        return Deferred([end], RESULTS_HELD_SECONDS, results)

    def _results(self, call: Call, run: Run) -> dict[str, Any]:
        asked = {"query": run.id}
        place = token_position(call, asked)
        if place is not None and not isinstance(place, int):
            raise invalid("The specified nextToken is invalid.")
        first = place or 0
        rows = integer_between(call, "maxItems", 0, PAGE_ROWS_MAX, PAGE_ROWS_MAX) or PAGE_ROWS_MAX
        answer: dict[str, Any] = {
            "queryLanguage": "CWLI",
            "status": str(run.status),
            "results": run.page(first, rows) if run.status is Status.COMPLETE else [],
            "statistics": self._statistics(run),
        }
        if run.status is Status.COMPLETE and first + rows < run.rows:
            answer["nextToken"] = page_token(call, asked, first + rows)
        return answer

    def _statistics(self, run: Run) -> dict[str, float]:
        """Of a query that runs, as far as it has come."""
        statistics = run.statistics
        part = 1.0 if run.status.ended else self.queries.progress(run)
        return {
            "recordsMatched": float(statistics.matched),
            "recordsScanned": float(int(statistics.scanned * part)),
            "estimatedRecordsSkipped": 0.0,
            "bytesScanned": float(int(statistics.scanned_bytes * part)),
            "estimatedBytesSkipped": 0.0,
            "logGroupsScanned": float(len(run.question.groups)),
            "resultCount": float(run.rows),
        }

    @operation("StopQuery", ANY_RESOURCE)
    def stop_query(self, call: Call) -> dict[str, Any]:
        run = self._found(call)
        if not self.queries.stop(run):
            raise invalid(f"Query {run.id} is not running: its status is {run.status}.")
        return {"success": True}

    @operation("DescribeQueries", ANY_RESOURCE, only=LANGUAGE)
    def describe_queries(self, call: Call) -> dict[str, Any]:
        status = call.params.get("status")
        name = group_name(call) if call.params.get("logGroupName") is not None else None
        limit = integer_between(call, "maxResults", 1, DESCRIBED_MAX, DESCRIBED_MAX)
        asked = {"status": status, "group": name}
        after = token_position(call, asked)
        found = [
            run
            for run in self.queries.all()
            if (status is None or run.status == status) and (name is None or name in run.question.groups)
        ]
        if after is not None:
            ids = [run.id for run in found]
            with suppress(ValueError):  # a query that is forgotten was the oldest, so that none follows it
                found = found[ids.index(after) + 1 :]
        answer: dict[str, Any] = {"queries": [_described(run) for run in found[:limit]]}
        if len(found) > limit:
            answer["nextToken"] = page_token(call, asked, found[limit - 1].id)
        return answer

    def _found(self, call: Call) -> Run:
        run = self.queries.get(call.params["queryId"])
        if run is None:
            raise ApiError("ResourceNotFoundException", "The specified query does not exist.")
        return run


def _group_names(call: Call) -> list[str]:
    """The names in exactly one of the three members, each once."""
    params = call.params
    members = ("logGroupName", "logGroupNames", "logGroupIdentifiers")
    given = [member for member in members if params.get(member)]
    if len(given) != 1:
        raise invalid("Exactly one of logGroupName, logGroupNames and logGroupIdentifiers must be specified.")
    member = given[0]
    if member == "logGroupName":
        return [group_name(call)]
    if len(params[member]) > GROUPS_MAX:
        raise constraint(member, f"{len(params[member])} log groups", f"have length less than or equal to {GROUPS_MAX}")
    if member == "logGroupNames":
        names = [
            checked_name(f"{member}.{number + 1}.member", name, GROUP_NAME, r"[\.\-_/#A-Za-z0-9]+")
            for number, name in enumerate(params[member])
        ]
    else:
        names = [name_from_identifier(call, member, identifier) for identifier in params[member]]
    return list(dict.fromkeys(names))


def _asked(call: Call) -> Asked:
    """The query's time. Both ends are seconds and belong to it; of the last one, all of its milliseconds."""
    start_s, end_s = int(call.params["startTime"]), int(call.params["endTime"])
    for member, value in (("startTime", start_s), ("endTime", end_s)):
        if value >= SECONDS_MAX:
            raise invalid(f"{member} {value} is too large: it is a number of seconds since 1970.")
    if end_s < start_s:
        raise invalid("End time should not be before start time.")
    return Asked(call.now_ms, start_s * 1000, end_s * 1000 + 999)


def _malformed(error: MalformedQuery) -> ApiError:
    message = str(error)
    location = {"startCharOffset": error.place.start, "endCharOffset": error.place.end}
    members = {"queryCompileError": {"location": location, "message": message}}
    return ApiError("MalformedQueryException", message, members=members)


def _streams(session: Session, group_ids: Sequence[int]) -> dict[int, str]:
    rows = session.execute(select(LogStream.id, LogStream.name).where(LogStream.group_id.in_(group_ids)))
    return {row.id: row.name for row in rows}


def _described(run: Run) -> dict[str, Any]:
    return {
        "queryLanguage": "CWLI",
        "queryId": run.id,
        "queryString": run.question.text,
        "status": str(run.status),
        "createTime": run.question.asked.now_ms,
        "logGroupName": run.question.groups[0],
        "queryDuration": run.duration_ms,
        "bytesScanned": run.statistics.scanned_bytes,
        "userIdentity": run.question.principal_arn,
    }
