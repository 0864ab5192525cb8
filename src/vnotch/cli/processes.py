"""The commands that run something until it is ended: `server`, `agent`, `up` and `demo`.

What they run is imported when they run it, so that every other command starts without it.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import step
from vnotch.config import ACCOUNT, ENDPOINT_HOST, ENDPOINT_PORT, FLOWS_PER_MAP, REGION, Folders
from vnotch.errors import InputError
from vnotch.freed_memory import keep_freed_memory


def server(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = ENDPOINT_HOST,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = ENDPOINT_PORT,
    account: Annotated[str | None, typer.Option(help="Account id, fixed at first start.", show_default=ACCOUNT)] = None,
    region: Annotated[str | None, typer.Option(help="Region, fixed at first start.", show_default=REGION)] = None,
    state_url: Annotated[
        str | None,
        typer.Option(
            envvar="VNOTCH_STATE_URL",
            help="Database of the state, such as postgresql+psycopg://USER@HOST/DATABASE.",
            show_default="SQLite in the data folder",
        ),
    ] = None,
    in_memory: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Keep everything in a folder in memory that is gone when the server ends; --data-dir names a link to "
            "it, which must not be there yet.",
        ),
    ] = False,
    any_interval: Annotated[
        bool, typer.Option("--any-interval", help="Take aggregation intervals from 1 to 900 s; AWS has 60 and 600.")
    ] = False,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Allow more or less of a resource than AWS does, such as rules-per-security-group=200. Repeatable.",
        ),
    ] = None,
    s3_endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="VNOTCH_S3_ENDPOINT",
            metavar="aws|URL|file:FOLDER",
            help="Where buckets of flow logs are: AWS, another S3 endpoint, or a folder of this host.",
            show_default="file:DATA-DIR/buckets",
        ),
    ] = None,
    s3_region: Annotated[
        str | None,
        typer.Option(envvar="VNOTCH_S3_REGION", help="Region of the S3 endpoint.", show_default="the profile's"),
    ] = None,
    s3_profile: Annotated[
        str | None,
        typer.Option(
            envvar="VNOTCH_S3_PROFILE", help="AWS profile that signs uploads.", show_default="AWS's usual chain"
        ),
    ] = None,
    s3_credentials: Annotated[
        Path | None,
        typer.Option(
            envvar="VNOTCH_S3_CREDENTIALS", help="AWS credentials file with the profile.", exists=True, dir_okay=False
        ),
    ] = None,
    bucket_policies: Annotated[
        bool | None,
        typer.Option(
            "--bucket-policies/--no-bucket-policies",
            envvar="VNOTCH_BUCKET_POLICIES",
            help="Add AWS's statements for log delivery to the policies of buckets with flow logs.",
            show_default="yes, but not on AWS itself",
        ),
    ] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(metavar="ARN=URL", help="What is called for an alarm's action that is an ARN. Repeatable."),
    ] = None,
    alert: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND,log-group=NAME[,name=value...]=URL",
            help="Call a URL on a burst of REJECTs (rejects), a port scan (port-scan) or a port that listens for the "
            "first time (new-listener), in the records of a log group (docs/logs.md). Repeatable.",
        ),
    ] = None,
    delivery_streams: Annotated[
        Path | None,
        typer.Option(
            envvar="VNOTCH_DELIVERY_STREAMS",
            metavar="FILE",
            help="TOML file of Firehose delivery streams: name, HTTPS endpoint, access key (docs/firehose.md).",
        ),
    ] = None,
) -> None:
    """Run the API endpoint, the log service and the state. Needs no privilege."""
    from vnotch.api.quotas import Quotas
    from vnotch.server_identity import check_identity

    check_identity(account, region, host)
    quotas = Quotas.of(quota or ())

    keep_freed_memory()
    from vnotch.api.cloudwatch.alert_settings import flow_alerts
    from vnotch.api.cloudwatch.webhooks import webhook_map
    from vnotch.buckets.s3 import S3Settings
    from vnotch.data_folder import folder_in_memory, is_in_memory
    from vnotch.delivery_streams import read_streams
    from vnotch.server import ServerConfig, run

    s3 = S3Settings(None, s3_region, s3_profile, str(s3_credentials) if s3_credentials else None, bucket_policies)
    webhooks = webhook_map(webhook or ())
    config = ServerConfig(
        folders=folders_of(data_dir),  # of --in-memory another one
        host=host,
        port=port,
        account=account,
        region=region,
        any_interval=any_interval,
        quotas=quotas,
        state_url=state_url,
        s3_endpoint=s3_endpoint,
        s3=s3,
        webhooks=webhooks,
        streams=read_streams(delivery_streams) if delivery_streams else {},
        alerts=flow_alerts(alert or ()),
    )
    if not in_memory:
        run(config, started=lambda url: step(f"vnotch server answers at {url}, data in {config.folders.root}"))
        return
    if state_url is not None:
        raise InputError("a state in a database is not in memory", "leave --state-url or --in-memory out")
    with folder_in_memory(data_dir and data_dir.absolute()) as folder:
        where = "in memory" if is_in_memory(folder) else "on disk, since there is little room in /dev/shm"

        def say(url: str) -> None:
            step(f"vnotch server answers at {url}, data {where} in {folder}, gone when it ends")
            step(f'point AWS clients here with: eval "$(vnotch env --data-dir {shlex.quote(str(folder))})"')

        run(replace(config, folders=Folders(folder)), started=say)


def agent(
    data_dir: DataDir = None,
    name: Annotated[str, typer.Option(help="Name of this agent at the server.", show_default="host name")] = "",
    endpoint_url: EndpointUrl = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The agent's key.", show_default="registers itself at the local server")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Region of the server; with --key-file.")] = None,
    netns: Annotated[
        str | None, typer.Option(help="Network namespace to capture: a name or a path.", show_default="its own")
    ] = None,
    attach_mode: Annotated[str, typer.Option(help="auto, tcx (kernel 6.6) or clsact.")] = "auto",
    flows_per_map: Annotated[int, typer.Option(help="Flows that each of the two maps holds.", min=1)] = FLOWS_PER_MAP,
    capture: Annotated[
        Path | None, typer.Option(help="Play a capture file (pcap, pcapng) instead; needs no root.", exists=True)
    ] = None,
    ip_ranges: Annotated[
        Path | None,
        typer.Option(help="AWS's ip-ranges.json, for the fields pkt-src-aws-service and pkt-dst-aws-service."),
    ] = None,
    flush: Annotated[
        bool, typer.Option("--flush", help="At the end close all windows, deliver, and detach; else capture goes on.")
    ] = False,
    pin_dir: Annotated[
        Path | None,
        typer.Option(help="Folder on a bpffs for maps and links.", show_default="/run/vnotch/bpf/NAME"),
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Capture the interfaces of this host and deliver their flow logs. Needs root, or CAP_BPF and its kin."""
    from vnotch.cli.agent import configure, default_name, log_to_stderr

    log_to_stderr(verbose)
    config = configure(
        folders_of(data_dir),
        name or default_name(),
        endpoint_url=endpoint_url,
        key_file=key_file,
        region=region,
        netns=netns,
        attach_mode=attach_mode,
        flows_per_map=flows_per_map,
        capture_file=capture,
        ip_ranges=ip_ranges,
        flush=flush,
        pin_dir=pin_dir,
    )

    from vnotch.agent.process import run

    def started() -> None:
        step(f"agent {config.name} captures {netns or 'this network namespace'}, delivers to {config.endpoint_url}")
        if ready_file is not None:
            ready_file.touch()

    if not run(config, started):
        raise typer.Exit(3)


def up(
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(help="Port of the endpoint.", min=1, max=65535)] = ENDPOINT_PORT,
    netns: Annotated[str | None, typer.Option(help="Network namespace to capture.", show_default="its own")] = None,
    any_interval: Annotated[bool, typer.Option("--any-interval", help="Intervals from 1 to 900 s.")] = False,
) -> None:
    """Run server and agent on this host until Ctrl-C. The agent needs root."""
    from vnotch.cli.up import run_both

    run_both(folders_of(data_dir), port, netns, any_interval)


def demo(
    topology: Annotated[
        Path | None, typer.Option(help="Topology file.", exists=True, show_default="the mock environment")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long the traffic runs.", min=5, max=3600)] = 30,
    window: Annotated[int, typer.Option(help="Aggregation interval in seconds.", min=1, max=900)] = 5,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the endpoint.", min=1, max=65535, show_default=f"{ENDPOINT_PORT}, or one that is free"
        ),
    ] = None,
    from_capture: Annotated[
        bool, typer.Option("--from-capture", help="Play the recorded capture even where live capture is possible.")
    ] = False,
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Stay up until Ctrl-C.", show_default="in a terminal")
    ] = None,
) -> None:
    """Build a VPC on this host, run real traffic, show its flow log records and prove their numbers."""
    from vnotch.cli.demo import Demo, DemoOptions
    from vnotch.lab.topology_file import default_topology_path

    path = topology or default_topology_path()
    options = DemoOptions(path, path.with_suffix(".pcapng"), seconds, window, port, from_capture, stay)
    raise typer.Exit(Demo(options).run())
