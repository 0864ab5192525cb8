"""The numbers by which flows name rules, kept over restarts: a number means one rule for ever.

They are written down before the datapath may give one to a packet, so that whatever comes out of a map, the journal or
an open window can be named by this process or the next.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from vnotch.agent.durable import replace_file, set_aside
from vnotch.deciders import Decider, Layer, RuleNumbers
from vnotch.errors import InputError
from vnotch.rules import RuleBook, acl_entry_id

log = logging.getLogger(__name__)


class SavedNumbers(Mapping[int, tuple[str, str]]):
    """Rule number -> (x-rule-id, x-rule-layer), as `record.WindowRecords` wants it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.numbers = _load(path)
        self._saved = len(self)

    def take_in(self, book: RuleBook) -> None:
        """Gives a number to all that the book's rules may be named by. Raises OSError where they cannot be saved."""
        for group in book.security_groups:
            self.numbers.number(Decider(Layer.SECURITY_GROUP, group.group_id))
            for rule in group.rules:
                self.numbers.number(Decider(Layer.SECURITY_GROUP, rule.rule_id))
        for acl in book.network_acls:
            for egress in (False, True):
                self.numbers.number(Decider(Layer.NETWORK_ACL, acl_entry_id(acl.acl_id, egress, None)))
            for entry in acl.entries:
                name = acl_entry_id(acl.acl_id, entry.egress, entry.rule_number)
                self.numbers.number(Decider(Layer.NETWORK_ACL, name))
        if len(self) != self._saved:
            replace_file(self._path, json.dumps(self.numbers.to_json()).encode())
            self._saved = len(self)

    def __getitem__(self, number: int) -> tuple[str, str]:
        decider = self.numbers.decider(number)
        if decider is None:
            raise KeyError(number)
        return decider.rule_id or "-", decider.layer.value

    def __iter__(self) -> Iterator[int]:
        return (number for number, _, _ in self.numbers.to_json()["numbers"])

    def __len__(self) -> int:
        return len(self.numbers.to_json()["numbers"])


def _load(path: Path) -> RuleNumbers:
    try:
        return RuleNumbers.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return RuleNumbers()
    except (ValueError, InputError) as error:
        log.error("%s is set aside, rules of before have no names: %s", set_aside(path), error)
        return RuleNumbers()
