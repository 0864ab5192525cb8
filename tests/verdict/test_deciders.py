"""Numbers of deciders: they name one thing for ever."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnotch.deciders import (
    DEFAULT_NUMBER,
    HOST_FIREWALL_NUMBER,
    TABLE_FULL_NUMBER,
    TRACKED_BIT,
    Decider,
    Layer,
    RuleNumbers,
)
from vnotch.errors import InputError

RULE = Decider(Layer.SECURITY_GROUP, "sgr-1")
ENTRY = Decider(Layer.NETWORK_ACL, "acl-1/ingress/*")

deciders = st.builds(
    Decider, st.sampled_from([Layer.SECURITY_GROUP, Layer.NETWORK_ACL, Layer.TRACKED]), st.text(min_size=1)
)


def test_fixed_numbers() -> None:
    numbers = RuleNumbers()
    assert numbers.number(Decider(Layer.DEFAULT)) == DEFAULT_NUMBER
    assert numbers.number(Decider(Layer.TRACKED)) == TABLE_FULL_NUMBER
    assert numbers.decider(DEFAULT_NUMBER) == Decider(Layer.DEFAULT)
    assert numbers.decider(TABLE_FULL_NUMBER) == Decider(Layer.TRACKED)
    assert numbers.number(Decider(Layer.HOST_FIREWALL)) == HOST_FIREWALL_NUMBER
    assert numbers.decider(HOST_FIREWALL_NUMBER) == Decider(Layer.HOST_FIREWALL)
    assert numbers.decider(0) is None
    assert numbers.decider(16) is None


def test_a_reply_has_the_number_of_its_rule_and_a_bit() -> None:
    numbers = RuleNumbers()
    number = numbers.number(RULE)
    assert numbers.number(Decider(Layer.TRACKED, "sgr-1")) == number | TRACKED_BIT
    assert numbers.decider(number | TRACKED_BIT) == Decider(Layer.TRACKED, "sgr-1")


@given(st.lists(deciders))
def test_numbers_and_deciders_are_one_to_one(wanted: list[Decider]) -> None:
    numbers = RuleNumbers()
    given_out = {decider: numbers.number(decider) for decider in wanted}
    assert len(set(given_out.values())) == len(given_out)
    copy = RuleNumbers.from_json(json.loads(json.dumps(numbers.to_json())))
    for decider, number in given_out.items():
        assert numbers.number(decider) == copy.number(decider) == number
        assert numbers.decider(number) == copy.decider(number) == decider


def test_a_number_is_never_given_out_again() -> None:
    numbers = RuleNumbers()
    rule, entry = numbers.number(RULE), numbers.number(ENTRY)
    numbers.retain([rule | TRACKED_BIT])
    assert numbers.decider(rule) == RULE
    assert numbers.decider(entry) is None
    numbers = RuleNumbers.from_json(numbers.to_json())
    assert numbers.number(ENTRY) > entry


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"next": 17, "numbers": [[16, "moon", "x"]]},
        {"next": 17, "numbers": [[17, "security-group", "x"]]},
        {"next": 17, "numbers": [[1, "security-group", "x"]]},
        {"next": 17, "numbers": [[16]]},
    ],
)
def test_other_documents_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(InputError, match="rule numbers"):
        RuleNumbers.from_json(document)
