"""`vnotch import`: existing flow logs into a log group."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import orjson
import typer

from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.query import MISSES_DATA, Format, Json, Profile, S3Endpoint, Since, SkipBad, Until, text_format_of
from vnotch.cli.terminal import counted, out
from vnotch.errors import InputError
from vnotch.freed_memory import keep_freed_memory


def import_(
    places: Annotated[list[str], typer.Argument(help="s3://bucket/prefix, a file, a folder or a pattern.")],
    group: Annotated[str, typer.Option("--log-group", help="The log group.")],
    create: Annotated[bool, typer.Option("--create", help="Make the log group where there is none.")] = False,
    stream: Annotated[
        str | None, typer.Option(help="One log stream for all.", show_default="one an interface: eni-...-all")
    ] = None,
    since: Since = None,
    until: Until = None,
    format: Format = None,
    as_json: Json = False,
    skip_bad: SkipBad = False,
    profile: Profile = None,
    s3_endpoint_url: S3Endpoint = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Bring existing flow logs into a log group: text and Parquet, any format, of any age that the group keeps.

    --since and --until choose files by their names and folders. A file that was imported is not taken again, and an
    import that was ended is taken up where it was. Exit status 3: files or lines that could not be read are missing,
    and named.
    """
    keep_freed_memory()
    from vnotch.cli.endpoint import Endpoint
    from vnotch.cli.waiting import ProgressBar, write_summary
    from vnotch.imports.run import Import
    from vnotch.imports.service import LogService
    from vnotch.query.period import Period
    from vnotch.query.problems import Problems
    from vnotch.query.progress import Progress
    from vnotch.query.table import find_files
    from vnotch.signed_http import Refused, SignedHttp

    if any(place.startswith("group:") for place in places):
        raise InputError("a log group is nothing to import from", "name files, folders or s3://bucket/prefix")
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    if create:
        logs = endpoint.client("logs")
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=group)
    problems, progress = Problems(), Progress()
    given = text_format_of(format) if format else None

    def connect() -> LogService:
        http = SignedHttp(endpoint.url, endpoint.region, endpoint.access_key_id, endpoint.secret_access_key)
        return LogService(http, group)

    with ProgressBar(progress) as bar, bar.ticking():
        files = find_files(places, Period.parse(since, until), problems, profile, s3_endpoint_url)
        progress.bytes_total = sum(file.size for file in files)
        try:
            result = Import(connect, given, stream, problems, progress).run(files)
        except Refused as refused:
            if refused.code != "ResourceNotFoundException":
                raise
            raise InputError(f"there is no log group {group}", "--create makes it") from None
    if as_json:
        document = {**asdict(result), "problems": problems.document()}
        sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
    else:
        said = f"{counted(result.records, 'record')} of {counted(result.files, 'file')}"
        out.print(f"{said} {'is' if result.records == 1 else 'are'} in {group}", highlight=False)
        if result.files_before:
            out.print(f"there already: {counted(result.files_before, 'file')}", highlight=False)
        if result.expired:
            out.print(f"older than the group keeps them: {counted(result.expired, 'record')}", highlight=False)
        if result.too_new:
            out.print(f"of more than two hours ahead: {counted(result.too_new, 'record')}", highlight=False)
    write_summary(problems, "not everything is imported")
    raise typer.Exit(MISSES_DATA if problems and not skip_bad else 0)
