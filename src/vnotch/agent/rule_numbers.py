"""The numbers by which flows name rules, kept over restarts: a number means one rule for ever.

They are written down before the datapath may give one to a packet, so that whatever comes out of a map, the journal or
an open window can be named by this process or the next. A rule that is gone keeps its number until nothing of these can
have it any more; then it is forgotten, so that the file does not grow with every rule that ever was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from vnotch.deciders import TRACKED_BIT, Decider, Layer, RuleNumbers
from vnotch.durable import replace_file, set_aside
from vnotch.errors import InputError
from vnotch.rules import RuleBook, acl_entry_id

log = logging.getLogger(__name__)


class SavedNumbers(Mapping[int, tuple[str, str]]):
    """Rule number -> (x-rule-id, x-rule-layer), as `record.WindowRecords` wants it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.numbers = _load(path)
        self._saved = len(self)
        self._book: set[int] | None = None  # numbers of the book in force; None: not known yet
        self._leaving: dict[int, int] = {}  # number that no packet gets any more -> the last drain that may have it

    def take_in(self, book: RuleBook) -> None:
        """Gives a number to all that the book's rules may be named by. Raises OSError where they cannot be saved."""
        self._book = {self.numbers.number(decider) for decider in _deciders(book)}
        if len(self) != self._saved:
            self._save()

    @property
    def has_old(self) -> bool:
        """Whether there are numbers of rules that are no longer in the book."""
        return self._book is not None and len(self) > len(self._book)

    def forget(self, in_use: Iterable[int], next_drain: int, oldest_drain: int) -> None:
        """Forgets the numbers that nothing can have any more. Called after a flip, before the rules change again.

        `in_use`: what packets may still be given, beside the book. A number that is not among them may be in drains up
        to `next_drain`, whose packets are being counted now, and is forgotten when all drains before `oldest_drain`,
        its last one included, are in windows that are spooled. Raises OSError where the file cannot be saved.
        """
        if self._book is None:
            return
        known = set(self)
        kept = known & (self._book | {number & ~TRACKED_BIT for number in in_use})
        self._leaving = {number: self._leaving.get(number, next_drain) for number in known - kept}
        gone = {number for number, last in self._leaving.items() if last < oldest_drain}
        if gone:
            self.numbers.retain(known - gone)
            self._leaving = {number: last for number, last in self._leaving.items() if number not in gone}
            self._save()

    def _save(self) -> None:
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


def _deciders(book: RuleBook) -> Iterator[Decider]:
    """All that the book's rules may be named by."""
    for group in book.security_groups:
        yield Decider(Layer.SECURITY_GROUP, group.group_id)
        for rule in group.rules:
            yield Decider(Layer.SECURITY_GROUP, rule.rule_id)
    for acl in book.network_acls:
        for egress in (False, True):
            yield Decider(Layer.NETWORK_ACL, acl_entry_id(acl.acl_id, egress, None))
        for entry in acl.entries:
            yield Decider(Layer.NETWORK_ACL, acl_entry_id(acl.acl_id, entry.egress, entry.rule_number))


def _load(path: Path) -> RuleNumbers:
    try:
        return RuleNumbers.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return RuleNumbers()
    except (ValueError, InputError) as error:
        log.error("%s is set aside, rules of before have no names: %s", set_aside(path), error)
        return RuleNumbers()
