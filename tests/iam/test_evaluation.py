"""The policy evaluator against the cases of cases.toml and cases_layers.toml, and properties that must hold of any
policy."""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnotch.iam.evaluation import Outcome, evaluate, evaluate_trust
from vnotch.iam.grammar import PolicyError, parse_policy
from vnotch.iam.policy import Caller, Kind, Policy
from vnotch.iam.variables import Variants, common_literal, wildcard

CASES = tomllib.loads((Path(__file__).parent / "cases.toml").read_text())
LAYERS = tomllib.loads((Path(__file__).parent / "cases_layers.toml").read_text())
ANA = {"kind": "AWS", "name": "arn:aws:iam::123456789012:user/ana", "account": "123456789012"}


def policy(
    statements: list[dict[str, Any]], kind: Kind = Kind.IDENTITY, name: str = "p", version: str = "2012-10-17"
) -> Policy:
    return parse_policy(json.dumps({"Version": version, "Statement": statements}), kind, name)


@pytest.mark.parametrize("case", CASES["case"], ids=lambda case: case["name"])
def test_identity_case(case: dict[str, Any]) -> None:
    sets = case.get("policies") or [case["statements"]]
    policies = [policy(statements, name=f"p{n}") for n, statements in enumerate(sets)]
    session = [policy(case["session"], name="session")] if "session" in case else None
    decision = evaluate(policies, case["action"], case["resource"], case.get("context", {}), session=session)
    assert decision.outcome.value == case["expect"]
    assert (decision.statement is None) == (decision.outcome is Outcome.IMPLICIT_DENY)


@pytest.mark.parametrize("case", LAYERS["case"], ids=lambda case: case["name"])
def test_case_of_layers(case: dict[str, Any]) -> None:
    def layer(member: str, kind: Kind = Kind.IDENTITY) -> list[Policy]:
        statements = case.get(member, [])
        return [policy(statements, kind, member, case.get("version", "2012-10-17"))] if statements else []

    who = case.get("caller", ANA)
    caller = Caller(who["kind"], who["name"], who.get("account", ""), tuple(who.get("arns", ())))
    decision = evaluate(
        layer("identity"),
        case["action"],
        case["resource"],
        {key: tuple(value) if isinstance(value, list) else value for key, value in case.get("context", {}).items()},
        session=layer("session") if "session" in case else None,
        boundary=next(iter(layer("boundary")), None),
        resource_policies=layer("resource_policy", Kind.RESOURCE),
        caller=caller,
        other_account=case.get("resource_account", "123456789012") != caller.account and caller.kind == "AWS",
    )
    assert decision.outcome.value == case["expect"]
    assert (decision.statement is None) == (decision.outcome is Outcome.IMPLICIT_DENY)
    if "layer" in case:
        assert decision.layer == case["layer"]


def test_there_are_cases_enough_and_each_names_its_source() -> None:
    rows = [row for table in CASES["condition"] for row in table["rows"]]
    cases = [*CASES["case"], *CASES["condition"], *CASES["trust"], *LAYERS["case"]]
    assert all(case.get("source") for case in cases)
    assert len(cases) + len(rows) >= 150


@pytest.mark.parametrize("row", [row for table in CASES["condition"] for row in table["rows"]], ids=str)
def test_condition(row: list[Any]) -> None:
    operator, key, values, given_value, holds = row
    condition = {operator: {key: values if len(values) > 1 else values[0]}}
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition}
    value = tuple(given_value) if isinstance(given_value, list) else given_value
    context = {} if value == "-" else {key.lower(): value}
    assert evaluate([policy([statement])], "ec2:CreateVpc", "*", context).allowed is holds


@pytest.mark.parametrize("case", CASES["trust"], ids=lambda case: case["name"])
def test_trust_case(case: dict[str, Any]) -> None:
    caller = case["caller"]
    who = Caller(caller["kind"], caller["name"], caller.get("account", ""), tuple(caller.get("arns", ())))
    trust = policy(case["statements"], Kind.TRUST)
    decision = evaluate_trust(trust, "sts:AssumeRole", who, case.get("context", {}))
    assert decision.outcome.value == case["expect"]
    if "delegated" in case:
        assert decision.delegated is case["delegated"]


@pytest.mark.parametrize("case", CASES["malformed"], ids=lambda case: case["says"])
def test_malformed(case: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(case["document"], Kind(case.get("kind", "identity")))
    assert case["says"] in caught.value.message


def test_a_decision_names_its_statement() -> None:
    statements = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Sid": "NoLogs", "Effect": "Deny", "Action": "logs:*", "Resource": "*"},
    ]
    decision = evaluate([policy(statements, name="narrow")], "logs:PutLogEvents", "*", {})
    assert str(decision.statement) == "narrow, statement NoLogs"
    assert (
        str(evaluate([policy(statements, name="narrow")], "ec2:CreateVpc", "*", {}).statement) == "narrow, statement 1"
    )


def test_a_policy_nested_too_deeply_is_refused() -> None:
    with pytest.raises(PolicyError):
        parse_policy('{"Statement":' + "[" * 50_000 + "]" * 50_000 + "}")


# --- properties ---

actions = st.sampled_from(["ec2:CreateVpc", "ec2:DescribeVpcs", "logs:PutLogEvents", "iam:GetRole"])
action_patterns = st.sampled_from(["*", "ec2:*", "logs:Put*", "ec2:Describe????", "iam:GetRole", "logs:*"])
arns = st.sampled_from(["*", "arn:aws:logs:us-east-1:1:log-group:a:*", "arn:aws:ec2:us-east-1:1:vpc/vpc-1"])
statements_ = st.fixed_dictionaries(
    {"Effect": st.sampled_from(["Allow", "Deny"]), "Action": action_patterns, "Resource": arns}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(statements_, min_size=1, max_size=5), actions, arns, action_patterns)
def test_adding_a_deny_never_allows(listed: list[dict[str, Any]], action: str, resource: str, denied: str) -> None:
    before = evaluate([policy(listed)], action, resource, {})
    after = evaluate([policy([*listed, {"Effect": "Deny", "Action": denied, "Resource": "*"}])], action, resource, {})
    assert not (after.allowed and not before.allowed)


@settings(max_examples=200, deadline=None)
@given(st.lists(statements_, min_size=1, max_size=5), actions, arns)
def test_the_order_of_statements_and_policies_does_not_matter(
    listed: list[dict[str, Any]], action: str, resource: str
) -> None:
    together = evaluate([policy(listed)], action, resource, {}).outcome
    assert evaluate([policy(listed[::-1])], action, resource, {}).outcome is together
    assert evaluate([policy([one]) for one in listed], action, resource, {}).outcome is together


teams = st.sampled_from(["net", "ops", "n*", ""])
tag_conditions = st.dictionaries(
    st.sampled_from(
        [
            *("StringEquals", "StringNotEquals", "StringLike", "StringNotLikeIfExists", "StringEqualsIfExists", "Null"),
            *("ForAnyValue:StringEquals", "ForAllValues:StringLike", "ForAllValues:StringNotEquals"),
        ]
    ),
    st.just(None),
    min_size=1,
    max_size=2,
).flatmap(
    lambda operators: st.fixed_dictionaries(
        {
            name: st.fixed_dictionaries(
                {
                    "aws:RequestTag/Team": st.sampled_from(["true", "false"])
                    if name == "Null"
                    else st.lists(teams, min_size=1, max_size=2)
                }
            )
            for name in operators
        }
    )
)
tagging = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]),
        "Action": action_patterns,
        "Resource": arns,
        "Condition": tag_conditions,
    }
)


@settings(max_examples=300, deadline=None)
@given(st.lists(tagging | statements_, min_size=1, max_size=4), actions, arns, teams, teams)
def test_a_tag_in_two_spellings_is_allowed_no_more_than_either(
    listed: list[dict[str, Any]], action: str, resource: str, one: str, other: str
) -> None:
    """A request or resource with Team and team: whoever must have the one or the other cannot hide behind it."""
    key, policies = "aws:requesttag/team", [policy(listed)]
    both = evaluate(policies, action, resource, {key: Variants((one, other))})
    each = [evaluate(policies, action, resource, {key: value}) for value in (one, other)]
    assert both.allowed <= all(decision.allowed for decision in each)
    assert both.explicit >= any(decision.explicit for decision in each)


@settings(max_examples=200, deadline=None)
@given(st.lists(statements_, max_size=4), st.lists(statements_, min_size=1, max_size=3), actions, arns)
def test_a_boundary_and_a_session_policy_never_allow_more(
    listed: list[dict[str, Any]], limit: list[dict[str, Any]], action: str, resource: str
) -> None:
    mine = [policy(listed)] if listed else []
    free = evaluate(mine, action, resource, {})
    for limits in ({"boundary": policy(limit)}, {"session": [policy(limit)]}):
        limited = evaluate(mine, action, resource, {}, **limits)  # type: ignore[arg-type]
        assert free.allowed or not limited.allowed
        both = evaluate([policy(limit)], action, resource, {})
        assert limited.allowed is (free.allowed and both.allowed)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(statements_, max_size=4),
    st.lists(statements_, min_size=1, max_size=3),
    st.sampled_from(["*", ANA["name"], "123456789012", "arn:aws:iam::123456789012:user/bob"]),
    actions,
    arns,
)
def test_across_accounts_nothing_is_allowed_that_is_not_within_one(
    listed: list[dict[str, Any]], theirs: list[dict[str, Any]], principal: str, action: str, resource: str
) -> None:
    mine = [policy(listed)] if listed else []
    named = [{**statement, "Principal": {"AWS": principal}} for statement in theirs]
    asked: dict[str, Any] = {"resource_policies": [policy(named, Kind.RESOURCE)], "caller": Caller(**ANA)}
    across = evaluate(mine, action, resource, {}, **asked, other_account=True)
    assert not across.allowed or evaluate(mine, action, resource, {}, **asked).allowed
    assert not across.allowed or evaluate(mine, action, resource, {}).allowed


@settings(max_examples=300, deadline=None)
@given(st.text("ab*?.:/", min_size=1, max_size=8), st.text("ab.:/", max_size=8), st.data())
def test_a_wider_pattern_matches_no_less(pattern: str, text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(pattern) - 1))
    wider = pattern[:place] + data.draw(st.sampled_from("*?" if pattern[place] != "*" else "*")) + pattern[place + 1 :]
    if wildcard(pattern).fullmatch(text):
        assert wildcard(wider).fullmatch(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(statements_, min_size=1, max_size=4), actions, arns)
def test_a_document_written_again_decides_the_same(listed: list[dict[str, Any]], action: str, resource: str) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": listed})
    again = json.dumps(json.loads(document), indent=3, sort_keys=True)
    as_lists = json.dumps(
        {"Statement": [{**one, "Action": [one["Action"]], "Resource": [one["Resource"]]} for one in listed]}
    )
    outcomes = {evaluate([parse_policy(text)], action, resource, {}).outcome for text in (document, again, as_lists)}
    assert len(outcomes) == 1


def slow_wildcard(pattern: str, text: str) -> bool:
    """The definition, by cases."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return slow_wildcard(pattern[1:], text) or bool(text and slow_wildcard(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and slow_wildcard(pattern[1:], text[1:])


@settings(max_examples=500, deadline=None)
@given(st.text("ab*?.", max_size=8), st.text("ab.\n", max_size=8))
def test_wildcards_mean_what_they_say(pattern: str, text: str) -> None:
    assert (wildcard(pattern).fullmatch(text) is not None) is slow_wildcard(pattern, text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab*?", min_size=1, max_size=6), min_size=1, max_size=3), st.text("ab", max_size=8))
def test_what_matches_has_the_common_literal(patterns: list[str], text: str) -> None:
    if any(slow_wildcard(pattern, text) for pattern in patterns):
        assert common_literal(patterns) in text


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    start = time.perf_counter()
    assert wildcard("*a" * 60 + "b").fullmatch("a" * 5_000) is None
    assert time.perf_counter() - start < 1


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["Version", "Statement", "Effect", "Action", "Resource", "Condition", "StringEquals", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_garbage_is_refused_or_a_policy(content: Any) -> None:
    for kind in Kind:
        try:
            parsed = parse_policy(json.dumps(content), kind)
        except PolicyError:
            continue
        assert parsed.statements


PIECES = ('"', "{", "}", "[", "]", ",", "*", "${", ":", "\\u0000", "\\ud800", "null", "")
WHOLE = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "a",
                "Effect": "Allow",
                "NotAction": ["iam:*", "ec2:Delete*"],
                "Resource": ["arn:aws:iam::123456789012:user/${aws:username, 'x'}", "arn:aws:ec2:*:*:vpc/*"],
                "Condition": {
                    "ForAllValues:StringLike": {"aws:TagKeys": ["a*", "${*}"]},
                    "NumericLessThanIfExists": {"aws:EpochTime": "5"},
                    "IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "::1"]},
                    "DateGreaterThan": {"aws:CurrentTime": "2026-01-01"},
                    "Null": {"aws:TokenIssueTime": "true"},
                },
            },
            {"Effect": "Deny", "Action": "*", "NotResource": "arn:aws:s3:::${aws:PrincipalTag/t}/*"},
        ],
    }
)
SOME = {
    "aws:username": "ana",
    "aws:sourceip": "10.1.1.1",
    "aws:tagkeys": ("a", "b"),
    "aws:currenttime": "2026-02-01T00:00:00Z",
}


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_changed_document_is_refused_or_evaluated_and_never_breaks(data: st.DataObject) -> None:
    document = WHOLE
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(document) - 1))
        length = data.draw(st.integers(0, 6))
        piece = data.draw(
            st.sampled_from(['"', "{", "}", "[", "]", ",", "*", "${", "}", ":", "\\u0000", "\\ud800", "null", ""])
        )
        document = document[:place] + piece + document[place + length :]
    for kind in Kind:
        try:
            parsed = parse_policy(document, kind)
        except PolicyError:
            continue
        for resource in ("*", "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-1", ""):
            asked: dict[str, Any] = (
                {"resource_policies": [parsed], "caller": Caller(**ANA)} if kind is Kind.RESOURCE else {}
            )
            mine = [parsed] if kind is Kind.IDENTITY else []
            assert evaluate(mine, "ec2:CreateVpc", resource, SOME, **asked).outcome in Outcome
