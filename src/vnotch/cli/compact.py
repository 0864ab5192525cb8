"""`vnotch compact`: the small files of flow logs in a folder or bucket become few large ones."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from vnotch.cli.query import MISSES_DATA, Profile, S3Endpoint, bytes_of
from vnotch.cli.tail import seconds_of
from vnotch.cli.terminal import counted, out, plain
from vnotch.errors import InputError

if TYPE_CHECKING:
    from vnotch.compact.compaction import Result

SPANS = {"5m": 300, "1h": 3600, "1d": 86_400}
_GIGABYTES_MAX = 4


def compact(
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, file:///folder or a folder.")],
    span: Annotated[
        str, typer.Option(help="Merge what ends in the same 5m, 1h or 1d; beyond 5m only for readers who ask by day.")
    ] = "5m",
    target_size: Annotated[str, typer.Option(help="Size of the merged files; files above half of it stay.")] = "128MB",
    older_than: Annotated[str, typer.Option(help="Files written later stay: uploads are repeated for a day.")] = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be merged, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    profile: Profile = None,
    s3_endpoint_url: S3Endpoint = None,
) -> None:
    """Merge the small files of flow logs, in AWS's folders and under AWS's names; no record is lost or changed.

    Each merged file is there as a whole before the old ones go, and a run that was killed is ended by the next one.
    Files of other names, large ones and new ones stay as they are. Exit status 3: files that could not be read stay.
    """
    from vnotch.cli.waiting import ProgressBar, write_summary
    from vnotch.compact.compaction import Compaction, Settings
    from vnotch.compact.trees import open_tree
    from vnotch.query.problems import Problems
    from vnotch.query.progress import Progress

    if span not in SPANS:
        raise InputError(f"--span {span!r} is not right", f"one of {', '.join(SPANS)}")
    target_bytes = bytes_of(target_size)
    if target_bytes > _GIGABYTES_MAX * 1_000_000_000:
        raise InputError(f"--target-size {target_size} is too much", f"at most {_GIGABYTES_MAX}GB")
    settings = Settings(target_bytes, SPANS[span], seconds_of(older_than))
    problems, progress = Problems(), Progress()
    progress.doing = "listing files"
    run = Compaction(open_tree(source, profile, s3_endpoint_url), settings, problems, progress)
    with ProgressBar(progress) as bar, bar.ticking():
        result = run.run(dry_run)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(_document(result, dry_run, problems.document())) + b"\n")
    else:
        _print(result, dry_run, span)
    write_summary(problems, "these files stay as they are")
    raise typer.Exit(MISSES_DATA if problems or result.busy else 0)


def _document(result: Result, dry_run: bool, problems: dict[str, object]) -> dict[str, Any]:
    return {"dry_run": dry_run, **asdict(result), "problems": problems}


def _print(result: Result, dry_run: bool, span: str) -> None:
    for merged in result.merged:
        records = counted(merged.records or 0, "record")
        after = "" if merged.bytes_after is None else f", {merged.bytes_after:,} bytes, {records}"
        out.print(plain(f"{merged.folder}{merged.into}"), soft_wrap=True, highlight=False)
        of = "would be of" if dry_run else "of"
        out.print(f"  {of} {counted(merged.files, 'file')}, {merged.bytes_before:,} bytes{after}", highlight=False)
    for folder in result.ended:
        out.print(plain(f"{folder}: ended what a run that was killed had begun"), soft_wrap=True, highlight=False)
    for folder in result.busy:
        out.print(plain(f"{folder}: another run is at work here, or was and its hour is not over"), highlight=False)
    files = sum(merged.files for merged in result.merged)
    verb = "would become" if dry_run else "became"
    said = f"{counted(files, 'file')} {verb} {len(result.merged):,}" if files else "nothing to merge"
    out.print(said, highlight=False)
    if result.gone:
        out.print(f"{result.gone:,} went meanwhile: another run merged them", highlight=False)
    if result.large_or_new:
        out.print(f"{counted(result.large_or_new, 'file')} left: large enough, or written too lately", highlight=False)
    if result.alone:
        hint = ": no other ends in the same 5m; --span 1h or 1d merges more" if span == "5m" else ""
        out.print(f"{counted(result.alone, 'file')} left: small and alone{hint}", highlight=False)
