"""One run over a tree: what can be merged is merged, folder by folder, so that a kill at any point costs work alone.

In a folder: the file that says what replaces what (`bucket_replacement`), then the merged file, whole and durable, then
the old ones go, and some time later the first one, so that a listing which began before all this meets it. A run that
finds such a file left by a process that is gone ends its work: where the merged file is there its olds go, where it is
not, nothing happened.

The same file keeps two runs out of each other's folders. An old file that changed while it was read stays, and no
merged one is put beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from vnotch.bucket_replacement import REPLACEMENT_BYTES_MAX, REPLACEMENT_NAME, Merge, Replacement, is_replacement
from vnotch.compact.merging import (
    MergeProblem,
    count_parquet,
    count_text,
    merge_parquet,
    merge_text,
    parquet_schema,
    text_header,
)
from vnotch.compact.owner import is_gone, this_process
from vnotch.compact.plan import Group, Part, candidates, groups, is_flow_log, part_of, without
from vnotch.compact.trees import Found, Tree
from vnotch.errors import HostError
from vnotch.interrupts import check
from vnotch.query.files import FileProblem
from vnotch.query.problems import Problem, Problems
from vnotch.query.progress import Progress

LEASE_SECONDS = 3600
LINGER_SECONDS = 10.0
"""How long what says that files were replaced outlives them: longer than a listing of one folder takes."""
OLDS_SAID_MAX = 10_000
"""Files that one folder says to be replaced at a time."""


@dataclass(frozen=True)
class Settings:
    """`older_than_seconds`: files written later stay, since an upload of them may be repeated."""

    target_bytes: int = 128_000_000
    span_seconds: int = 300
    older_than_seconds: float = 86_400


@dataclass
class Merged:
    """What became of one group, or would become of it."""

    folder: str
    into: str
    files: int
    bytes_before: int
    bytes_after: int | None = None
    records: int | None = None


@dataclass
class Result:
    merged: list[Merged] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    """Folders in which another run is at work, or of a dry run one that was killed has left its work."""
    ended: list[str] = field(default_factory=list)
    """Folders in which the work of a run that was killed was ended."""
    large_or_new: int = 0
    alone: int = 0
    """Small files with no other to be merged with."""
    gone: int = 0
    """Files that went after they were listed: another run merged them."""
    other: int = 0
    """Files that have no name of AWS's."""


class Compaction:
    """One run. `now` and `sleep` are the clock's, `owner` names this process."""

    def __init__(
        self,
        tree: Tree,
        settings: Settings,
        problems: Problems,
        progress: Progress,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        owner: str | None = None,
    ) -> None:
        self._tree = tree
        self._settings = settings
        self._problems = problems
        self._progress = progress
        self._now = now
        self._sleep = sleep
        self._owner = owner or this_process()
        self._lingering: list[tuple[float, str]] = []
        self._may_delete = False
        self.result = Result()

    def run(self, dry_run: bool = False) -> Result:
        """Raises AccessError, HostError and InputError where it cannot go on; a repeat ends what was begun."""
        self._progress.doing = "merging"
        for folder, found in groupby(self._tree.files(), key=lambda file: file.folder):
            check()
            self._folder(folder, list(found), dry_run)
            self._let_go(self._now())
        self._let_go(None)
        return self.result

    def _folder(self, folder: str, found: list[Found], dry_run: bool) -> None:
        left = self._left_work(folder) if any(is_replacement(file.key) for file in found) else None
        if left is not None:
            if dry_run or not (is_gone(left.owner) or left.expires_s < self._now()):
                self.result.busy.append(folder)
                return
            work = _Folder(self._tree, folder, self._owner, self._now)
            gone, changed = work.end(left)
            for name in changed:
                file = self._tree.log_file(Found(folder + name, 0, "", 0))
                self._problems.add(
                    Problem.UNREADABLE, file.name, sample="written again after it was merged: twice there"
                )
            found = [file for file in found if file.name not in gone]
            self.result.ended.append(folder)
            self._work(work, list(self._plan(found)))
            return
        planned = list(self._plan(found))
        if dry_run:
            for group in planned:
                self.result.merged.append(Merged(folder, group.into, len(group.parts), group.size))
        elif planned:
            self._check_may_delete(folder)
            work = _Folder(self._tree, folder, self._owner, self._now)
            if work.begin():
                self._work(work, planned)
            else:
                self.result.busy.append(folder)

    def _left_work(self, folder: str) -> Replacement | None:
        found = self._tree.find(folder, [REPLACEMENT_NAME]).get(REPLACEMENT_NAME)
        if found is None:
            return None
        file = self._tree.log_file(found)
        try:
            return Replacement.parse(file.place.head(file.key, REPLACEMENT_BYTES_MAX))
        except FileProblem as problem:
            if problem.problem is Problem.GONE:
                return None
            raise HostError(f"{file.name}: {problem.problem} {problem.detail}".rstrip()) from None

    def _check_may_delete(self, folder: str) -> None:
        """Once, before anything is merged: files that could not go would stand beside what was made of them."""
        if not self._may_delete and self._tree.create(folder + REPLACEMENT_NAME, _nothing(self._owner).to_bytes()):
            self._tree.delete(folder, [REPLACEMENT_NAME])
            self._may_delete = True

    def _plan(self, found: Iterable[Found]) -> Iterator[Group]:
        parts = []
        settled_s = self._now() - self._settings.older_than_seconds
        for file in found:
            part = part_of(file, settled_s, self._settings.target_bytes // 2)
            if part is not None:
                parts.append(part)
            elif is_flow_log(file):
                self.result.large_or_new += 1
            elif not is_replacement(file.key):
                self.result.other += 1
        taken, gone_before = 0, self.result.gone
        for several in candidates(parts, self._settings.span_seconds):
            for format, alike in self._alike(several):
                for group in groups(alike, self._settings.target_bytes, format):
                    taken += len(group.parts)
                    self._progress.bytes_total += group.size
                    yield group
        self.result.alone += len(parts) - taken - (self.result.gone - gone_before)

    def _alike(self, parts: Sequence[Part]) -> Iterator[tuple[pa.Schema | bytes, list[Part]]]:
        """Parts of one format each. Records without a time are of the time of their file's name, and stay in it."""
        sets: dict[object, tuple[pa.Schema | bytes, list[Part]]] = {}
        for part in parts:
            file = self._tree.log_file(part.found)
            try:
                format = parquet_schema(file) if part.is_parquet else text_header(file)
            except FileProblem as problem:
                if problem.problem is Problem.GONE:
                    self.result.gone += 1
                else:
                    self._problems.add(problem.problem, file.name, sample=problem.detail)
                continue
            names = format.names if isinstance(format, pa.Schema) else format.decode(errors="replace").split()
            slot = None if {"end", "start"} & set(names) else part.name.slot_s
            key = (format.to_string(show_schema_metadata=False) if isinstance(format, pa.Schema) else format, slot)
            sets.setdefault(key, (format, []))[1].append(part)
        yield from sets.values()

    def _work(self, work: _Folder, planned: Sequence[Group]) -> None:
        for group in planned:
            check()
            if work.olds_said and work.olds_said + len(group.parts) > OLDS_SAID_MAX:
                self._sleep(LINGER_SECONDS)
                work.say(())
            self._merge(work, group)
        self._lingering.append((self._now() + LINGER_SECONDS, work.folder))

    def _merge(self, work: _Folder, group: Group) -> None:
        left: Group | None = group
        while left is not None:
            scratch = self._tree.scratch(work.folder)
            try:
                records = self._write(left, scratch)
                size = scratch.stat().st_size
                if work.replace(left, scratch):
                    done = Merged(work.folder, left.into, len(left.parts), left.size, size, records)
                    self.result.merged.append(done)
                else:
                    name = self._tree.log_file(left.parts[0].found).name
                    self._problems.add(Problem.UNREADABLE, name, sample="changed while it was merged; left as it is")
                return
            except MergeProblem as found:
                self._problems.add(found.problem.problem, found.file.name, sample=found.problem.detail)
                left = without(left, found.number)
            finally:
                scratch.unlink(missing_ok=True)

    def _write(self, group: Group, scratch: Path) -> int:
        """Merges into a file of this host and reads it back. Raises MergeProblem."""
        files = [self._tree.log_file(part.found) for part in group.parts]
        if isinstance(group.format, pa.Schema):
            records, back = merge_parquet(files, group.format, scratch, self._progress), count_parquet(scratch)
        else:
            records, back = merge_text(files, group.format, scratch, self._progress), count_text(scratch)
        if records != back:
            raise HostError(f"{scratch} has {back:,} of {records:,} records", "is the disk full or failing?")
        return records

    def _let_go(self, now_s: float | None) -> None:
        """Takes away what said that files were replaced, where that was long enough ago; with None waits for it."""
        while self._lingering and (now_s is None or self._lingering[0][0] <= now_s):
            due_s, folder = self._lingering.pop(0)
            self._sleep(max(0.0, min(LINGER_SECONDS, due_s - self._now())))
            self._tree.delete(folder, [REPLACEMENT_NAME])


def _nothing(owner: str) -> Replacement:
    return Replacement((), owner, 0)


class _Folder:
    """A folder that is ours for some time, and what it says."""

    def __init__(self, tree: Tree, folder: str, owner: str, now: Callable[[], float]) -> None:
        self.folder = folder
        self._tree = tree
        self._now = now
        self._said = Replacement((), owner, int(now()) + LEASE_SECONDS)

    @property
    def olds_said(self) -> int:
        return sum(len(merge.olds) for merge in self._said.merges)

    def begin(self) -> bool:
        """False where it is another's."""
        if not self._tree.create(self._key, self._said.to_bytes()):
            return False
        self._tree.forget_scratch(self.folder)
        return True

    def end(self, left: Replacement) -> tuple[set[str], list[str]]:
        """Takes over from a run that is gone, and ends what it had begun; returns the names that are no more, and
        those of files that were written again since."""
        self.say(left.merges)
        self._tree.forget_scratch(self.folder)
        gone: set[str] = set()
        changed: list[str] = []
        done = []
        for merge in left.merges:
            found = self._tree.find(self.folder, [merge.into, *(old.name for old in merge.olds)])
            if merge.into in found:
                same = [old.name for old in merge.olds if old.name in found and found[old.name].tag == old.tag]
                self._tree.delete(self.folder, same)
                changed += [old.name for old in merge.olds if old.name in found and found[old.name].tag != old.tag]
                gone |= {old.name for old in merge.olds} - set(changed)
                done.append(merge)
        self.say(tuple(done))
        return gone, changed

    def say(self, merges: tuple[Merge, ...]) -> None:
        self._said = replace(self._said, merges=merges)
        self._tree.put(self._key, self._said.to_bytes())

    def replace(self, group: Group, scratch: Path) -> bool:
        """Puts the merged file in the place of its parts; False, and nothing is changed, where one of them changed."""
        names = [part.found.name for part in group.parts]
        found = self._tree.find(self.folder, names) | self._tree.find(self.folder, [group.into, REPLACEMENT_NAME])
        same = all(part.found.name in found and found[part.found.name].tag == part.found.tag for part in group.parts)
        if not same or group.into in found:
            return False
        self._check_ours(found.get(REPLACEMENT_NAME))
        self.say((*self._said.merges, group.merge))
        if not self._tree.publish(scratch, self.folder + group.into):
            self.say(self._said.merges[:-1])
            return False
        self._tree.delete(self.folder, names)
        return True

    def _check_ours(self, found: Found | None) -> None:
        """Raises HostError where another run has taken the folder over."""
        if found is not None and self._now() < self._said.expires_s:
            file = self._tree.log_file(found)
            if Replacement.parse(file.place.head(file.key, REPLACEMENT_BYTES_MAX)).owner == self._said.owner:
                return
        raise HostError(f"{self.folder or 'the folder'} is no longer ours", "let one run at a time work on a tree")

    @property
    def _key(self) -> str:
        return self.folder + REPLACEMENT_NAME
