"""Quotas: AWS's values (VPC user guide, "Amazon VPC quotas") unless others are given."""

from __future__ import annotations

import re

import pytest

from vnotch.api.quotas import Quotas
from vnotch.errors import InputError


def test_the_defaults_are_awss() -> None:
    quotas = Quotas.of(())
    assert quotas == Quotas()
    assert (quotas.security_groups, quotas.rules_per_security_group, quotas.security_groups_per_interface) == (
        2500,
        60,
        5,
    )
    assert (quotas.network_acls_per_vpc, quotas.entries_per_network_acl) == (200, 20)


def test_each_may_be_given_by_its_name() -> None:
    quotas = Quotas.of(["rules-per-security-group=200", "entries-per-network-acl=40"])
    assert quotas == Quotas(rules_per_security_group=200, entries_per_network_acl=40)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["rules=5"], "quota 'rules=5': there is none of that name"),
        (["rules_per_security_group=5"], "there is none of that name"),
        (["prefix-lists"], "quota 'prefix-lists': not a number from 1 on"),
        (["prefix-lists=0"], "not a number from 1 on"),
        (["prefix-lists=-3"], "not a number from 1 on"),
        (["prefix-lists=\u0663"], "not a number from 1 on"),
        (["prefix-lists=2147483648"], "not a number from 1 on"),
        (["prefix-lists=1", "prefix-lists=2"], "quota prefix-lists is given twice"),
        # The product of the two cannot exceed 1,000.
        (["rules-per-security-group=201"], "times 5 security groups per interface are 1005"),
        (["entries-per-network-acl=1001"], "1001 is more than 1000"),
    ],
)
def test_what_is_not_understood_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Quotas.of(settings)
