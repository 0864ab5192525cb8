"""Alarms of CloudWatch on single metrics: PutMetricAlarm, DescribeAlarms, SetAlarmState, DeleteAlarms, and actions
switched on and off (API reference 2010-08-01)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select

from vnotch.api.cloudwatch.part import (
    CloudWatchPart,
    alarm_arn,
    dimensions_of,
    page_token,
    token_position,
    validation,
)
from vnotch.api.cloudwatch.webhooks import Webhooks
from vnotch.api.service import ApiError, Call, operation
from vnotch.store.alarms import MISSING, OPERATORS, Alarm, change_state
from vnotch.store.log_groups import starts_with

ALARMS_MAX = 5000
PERIODS_SECONDS_MAX = 7 * 86_400
"""Periods times evaluation periods: 7 days where the period is an hour or more, else one (PutMetricAlarm)."""

DESCRIBED_MAX = 100
ACTION_MEMBERS = {"OK": "OKActions", "ALARM": "AlarmActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}


def _arns(call: Call, names: Iterable[str]) -> list[str]:
    return [alarm_arn(call.account, call.region, name) for name in names] or [alarm_arn(call.account, call.region, "*")]


def _on_alarm(call: Call) -> list[str]:
    return _arns(call, [call.params["AlarmName"]])


def _on_alarms(call: Call) -> list[str]:
    return _arns(call, call.params.get("AlarmNames") or ())


class Alarms(CloudWatchPart):
    @operation(
        "PutMetricAlarm",
        _on_alarm,
        unsupported="Metrics ThresholdMetricId ExtendedStatistic EvaluateLowSampleCountPercentile Tags "
        "EvaluationWindow WarmUpConfiguration EvaluationCriteria EvaluationInterval ActionConfiguration",
        only={"ComparisonOperator": tuple(OPERATORS)},
        note="`Period` is a multiple of 60; actions are URLs, or ARNs that `vnotch server --webhook` maps to one",
    )
    def put_metric_alarm(self, call: Call) -> dict[str, Any]:
        asked = {name: value for name, value in call.params.items() if value is not None}
        asked.setdefault("ActionsEnabled", True)
        self._check(asked)
        with self.state.write(notify=False) as session:
            row = session.get(Alarm, asked["AlarmName"])
            if row is None:
                if (session.scalar(select(func.count()).select_from(Alarm)) or 0) >= ALARMS_MAX:
                    raise ApiError("LimitExceeded", f"There are {ALARMS_MAX} alarms already.")
                row = Alarm(name=asked["AlarmName"], transitioned_ms=call.now_ms, state="INSUFFICIENT_DATA")
                row.reason, row.updated_ms = "Unchecked: Initial alarm creation", call.now_ms
                session.add(row)
            row.asked, row.configured_ms = asked, call.now_ms
        return {}

    def _check(self, asked: dict[str, Any]) -> None:
        required = ("MetricName", "Namespace", "Statistic", "Period", "EvaluationPeriods", "Threshold")
        for member in (*required, "ComparisonOperator"):
            if asked.get(member) is None:
                raise validation(f"The parameter {member} must be specified.")
        if asked.get("TreatMissingData", "missing") not in MISSING:
            raise validation(f"TreatMissingData must be one of {', '.join(MISSING)}.")
        period, periods = asked["Period"], asked["EvaluationPeriods"]
        if period % 60:
            raise validation("Period must be a multiple of 60: data has a resolution of one minute.")
        if period * periods > (PERIODS_SECONDS_MAX if period >= 3600 else 86_400):
            raise validation("Metrics cannot be checked across more than a day (EvaluationPeriods * Period).")
        if not 1 <= asked.get("DatapointsToAlarm", periods) <= periods:
            raise validation("DatapointsToAlarm must be from 1 to EvaluationPeriods.")
        dimensions_of(asked.get("Dimensions"))
        for action in (action for member in ACTION_MEMBERS.values() for action in asked.get(member) or ()):
            if self.webhooks.url_of(action) is None:
                raise validation(
                    f"Invalid action {action!r}: an action is an http or https URL, or an ARN that the server maps to "
                    "one (vnotch server --webhook ARN=URL)."
                )

    @operation("DescribeAlarms", _on_alarms, unsupported="ChildrenOfAlarmName ParentsOfAlarmName")
    def describe_alarms(self, call: Call) -> dict[str, Any]:
        params = call.params
        names, prefix = params.get("AlarmNames"), params.get("AlarmNamePrefix")
        if names and prefix:
            raise validation("AlarmNames and AlarmNamePrefix cannot be specified together.")
        empty: dict[str, Any] = {"CompositeAlarms": [], "MetricAlarms": []}
        if params.get("AlarmTypes") and "MetricAlarm" not in params["AlarmTypes"]:
            return empty
        limit = params.get("MaxRecords") or 50
        wanted = select(Alarm).order_by(Alarm.name)
        if names:
            wanted = wanted.where(Alarm.name.in_(names))
        if prefix:
            wanted = wanted.where(*starts_with(Alarm.name, prefix))
        if params.get("StateValue"):
            wanted = wanted.where(Alarm.state == params["StateValue"])
        if (after := token_position(call, str)) is not None:
            wanted = wanted.where(Alarm.name > after)
        with self.state.read() as session:
            rows = list(session.scalars(wanted))
        if params.get("ActionPrefix"):
            rows = [row for row in rows if _has_action(row, params["ActionPrefix"])]
        answer = {**empty, "MetricAlarms": [_describe(call, row) for row in rows[:limit]]}
        if len(rows) > limit:
            answer["NextToken"] = page_token(call, rows[limit - 1].name)
        return answer

    @operation("SetAlarmState", _on_alarm)
    def set_alarm_state(self, call: Call) -> dict[str, Any]:
        params = call.params
        with self.state.write(notify=False) as session:
            row = session.get(Alarm, params["AlarmName"])
            if row is None:
                raise ApiError("ResourceNotFound", "The alarm does not exist.", 404)
            before = row.state
            changed = change_state(
                row, params["StateValue"], params["StateReason"], params.get("StateReasonData"), call.now_ms
            )
        if changed:
            call_actions(self.webhooks, row, before, call.account, call.region)
        return {}

    @operation("DeleteAlarms", _on_alarms)
    def delete_alarms(self, call: Call) -> dict[str, Any]:
        with self.state.write(notify=False) as session:
            rows = [session.get(Alarm, name) for name in dict.fromkeys(call.params["AlarmNames"])]
            # One that is missing fails the whole call, unless it is the only one (model: DeleteAlarms).
            if None in rows and len(rows) > 1:
                raise ApiError("ResourceNotFound", "One of the alarms does not exist.", 404)
            for row in rows:
                if row is not None:
                    session.delete(row)
        return {}

    @operation("EnableAlarmActions", _on_alarms)
    def enable_alarm_actions(self, call: Call) -> dict[str, Any]:
        return self._switch(call, True)

    @operation("DisableAlarmActions", _on_alarms)
    def disable_alarm_actions(self, call: Call) -> dict[str, Any]:
        return self._switch(call, False)

    def _switch(self, call: Call, enabled: bool) -> dict[str, Any]:
        with self.state.write(notify=False) as session:
            for row in session.scalars(select(Alarm).where(Alarm.name.in_(call.params["AlarmNames"]))):
                row.asked = {**row.asked, "ActionsEnabled": enabled}
        return {}


def call_actions(webhooks: Webhooks, row: Alarm, before: str, account: str, region: str) -> None:
    """Calls what the alarm has for its new state, with the JSON that AWS sends to an SNS topic."""
    asked = row.asked
    if not asked.get("ActionsEnabled", True):
        return
    content = {
        "AlarmName": row.name,
        "AlarmDescription": asked.get("AlarmDescription"),
        "AWSAccountId": account,
        "NewStateValue": row.state,
        "NewStateReason": row.reason,
        "StateChangeTime": _moment(row.updated_ms).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
        "Region": region,
        "AlarmArn": alarm_arn(account, region, row.name),
        "OldStateValue": before,
        **{member: asked.get(member) or [] for member in ACTION_MEMBERS.values()},
        "Trigger": {
            "MetricName": asked["MetricName"],
            "Namespace": asked["Namespace"],
            "StatisticType": "Statistic",
            "Statistic": asked["Statistic"].upper(),
            "Unit": asked.get("Unit"),
            "Dimensions": [{"value": item["Value"], "name": item["Name"]} for item in asked.get("Dimensions") or ()],
            "Period": asked["Period"],
            "EvaluationPeriods": asked["EvaluationPeriods"],
            "DatapointsToAlarm": asked.get("DatapointsToAlarm"),
            "ComparisonOperator": asked["ComparisonOperator"],
            "Threshold": asked["Threshold"],
            "TreatMissingData": asked.get("TreatMissingData", ""),
        },
    }
    for action in asked.get(ACTION_MEMBERS[row.state]) or ():
        webhooks.call(action, content)


def _has_action(row: Alarm, prefix: str) -> bool:
    actions = (action for member in ACTION_MEMBERS.values() for action in row.asked.get(member) or ())
    return any(action.startswith(prefix) for action in actions)


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _describe(call: Call, row: Alarm) -> dict[str, Any]:
    return {
        **row.asked,
        "AlarmArn": alarm_arn(call.account, call.region, row.name),
        "AlarmConfigurationUpdatedTimestamp": _moment(row.configured_ms),
        **{member: row.asked.get(member) or [] for member in ACTION_MEMBERS.values()},
        "Dimensions": row.asked.get("Dimensions") or [],
        "StateValue": row.state,
        "StateReason": row.reason,
        "StateReasonData": row.reason_data,
        "StateUpdatedTimestamp": _moment(row.updated_ms),
        "StateTransitionedTimestamp": _moment(row.transitioned_ms),
    }
