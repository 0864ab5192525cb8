"""The command line: one command, `vnotch`, with a sub-command for each thing a person wants.

An error of ours is one line with its remedy and exit status 2; Ctrl-C is exit status 130 without a traceback.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer

from vnotch import __version__
from vnotch.cli.attach import attach, detach
from vnotch.cli.endpoint import Endpoint, aws_command
from vnotch.cli.lab import lab
from vnotch.cli.options import DataDir, EndpointUrl, folders_of
from vnotch.cli.terminal import fail, is_terminal, out, plain, record_text, step
from vnotch.config import ACCOUNT, ENDPOINT_HOST, ENDPOINT_PORT, FLOWS_PER_MAP, REGION
from vnotch.errors import InputError, VnotchError

app = typer.Typer(
    name="vnotch",
    help="VPC Flow Logs for networks you run yourself.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(lab, name="lab")
app.command()(attach)
app.command()(detach)


def _version(value: bool) -> None:
    if value:
        out.print(f"vnotch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def server(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = ENDPOINT_HOST,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = ENDPOINT_PORT,
    account: Annotated[str | None, typer.Option(help="Account id, fixed at first start.", show_default=ACCOUNT)] = None,
    region: Annotated[str | None, typer.Option(help="Region, fixed at first start.", show_default=REGION)] = None,
    any_interval: Annotated[
        bool, typer.Option("--any-interval", help="Take aggregation intervals from 1 to 900 s; AWS has 60 and 600.")
    ] = False,
) -> None:
    """Run the API endpoint, the log service and the state. Needs no privilege."""
    from vnotch.server import ServerConfig, run

    config = ServerConfig(folders_of(data_dir), host, port, account, region, any_interval)
    run(config, started=lambda url: step(f"vnotch server answers at {url}, data in {config.folders.root}"))


@app.command()
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
    ready_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Capture the interfaces of this host and deliver their flow logs. Needs root, or CAP_BPF and its kin."""
    from vnotch.agent import run
    from vnotch.cli.agent import configure, log_to_stderr

    log_to_stderr(verbose)
    config = configure(
        folders_of(data_dir),
        name or socket.gethostname().split(".")[0],
        endpoint_url=endpoint_url,
        key_file=key_file,
        region=region,
        netns=netns,
        attach_mode=attach_mode,
        flows_per_map=flows_per_map,
        capture_file=capture,
        ip_ranges=ip_ranges,
        flush=flush,
    )

    def started() -> None:
        step(f"agent {config.name} captures {netns or 'this network namespace'}, delivers to {config.endpoint_url}")
        if ready_file is not None:
            ready_file.touch()

    if not run(config, started):
        raise typer.Exit(3)


@app.command()
def up(
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(help="Port of the endpoint.", min=1, max=65535)] = ENDPOINT_PORT,
    netns: Annotated[str | None, typer.Option(help="Network namespace to capture.", show_default="its own")] = None,
    any_interval: Annotated[bool, typer.Option("--any-interval", help="Intervals from 1 to 900 s.")] = False,
) -> None:
    """Run server and agent on this host until Ctrl-C. The agent needs root."""
    from vnotch.cli.up import run_both

    run_both(folders_of(data_dir), port, netns, any_interval)


@app.command()
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


@app.command()
def env(
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    unset: Annotated[
        bool, typer.Option("--unset", help="Print the commands that take the variables away again.")
    ] = False,
) -> None:
    """Print shell commands that point AWS clients here: eval "$(vnotch env)"."""
    if unset:
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION")
        sys.stdout.write("".join(f"unset {name}\n" for name in names))
        return
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url)
    sys.stdout.write("".join(f"export {name}={shlex.quote(value)}\n" for name, value in endpoint.environment().items()))
    sys.stdout.write(
        "# aws CLI before 2.13 or 1.29 (Debian 12) ignores AWS_ENDPOINT_URL: give it --endpoint-url as well\n"
    )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def aws(context: typer.Context) -> None:
    """Run the aws CLI against this endpoint: vnotch aws logs describe-log-groups."""
    endpoint = Endpoint.find(folders_of(None)).require_up()
    command, environment = aws_command(endpoint, context.args)
    os.execve(command[0], command, environment)


@app.command()
def tail(
    group: Annotated[str | None, typer.Argument(help="Log group.", show_default="the only one")] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f/-F", help="Go on as records arrive.")] = True,
    since: Annotated[str, typer.Option(help="How far back to begin: 30s, 10m, 2h, 1d.")] = "10m",
    pattern: Annotated[str, typer.Option("--filter", help="CloudWatch filter pattern.")] = "",
    prefix: Annotated[str, typer.Option("--stream-prefix", help="Only streams whose name begins so.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show records as they arrive."""
    from vnotch.cli.tail import Tail, choose_group

    since_ms = int((time.time() - seconds_of(since)) * 1000)
    logs = Endpoint.find(folders_of(data_dir), endpoint_url).require_up().client("logs")
    reader = Tail(logs, choose_group(logs, group, follow), since_ms, pattern, prefix)
    for event in reader.follow() if follow else reader.poll():
        if as_json:
            line = {"timestamp": event.timestamp_ms, "logStreamName": event.stream, "message": event.message}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        elif is_terminal():
            out.print(record_text(event.message))
        else:
            sys.stdout.write(plain(event.message) + "\n")
            sys.stdout.flush()


@app.command()
def explain(
    source: Annotated[str, typer.Argument(help="Address, interface, instance, or the Name tag of an interface.")],
    destination: Annotated[str, typer.Argument(help="The same.")],
    port: Annotated[int | None, typer.Argument(help="Destination port of TCP or UDP.", min=0, max=65535)] = None,
    protocol: Annotated[str, typer.Option(help="tcp, udp, icmp, icmpv6 or an IANA number.")] = "tcp",
    icmp_type: Annotated[int | None, typer.Option(help="ICMP type; echo request if not given.", min=0, max=255)] = None,
    data_dir: DataDir = None,
    endpoint_url: EndpointUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say whether a packet would be accepted, layer by layer, and which rule decides. Exit status 1: rejected."""
    endpoint = Endpoint.find(folders_of(data_dir), endpoint_url).require_up()
    asked: dict[str, str | int | None] = {
        "source": endpoint.interface_named(source),
        "destination": endpoint.interface_named(destination),
        "port": port,
        "protocol": protocol,
        "icmp_type": icmp_type,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    found = endpoint.request("GET", f"/vnotch/v1/explanation?{query}")
    text = found.pop("text")
    sys.stdout.write((json.dumps(found, indent=2) if as_json else plain(text)) + "\n")
    accepted = found["outcome"] == "ACCEPT" and found["reply_outcome"] in ("ACCEPT", None)
    raise typer.Exit(0 if accepted else 1)


def seconds_of(text: str) -> float:
    """Seconds of a duration such as 90, 30s, 10m, 2h, 1d. Raises InputError."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    number = text[:-1] if unit else text
    try:
        value = float(number) * (unit or 1)
    except ValueError:
        value = -1
    if not 0 <= value < 1e9:
        raise InputError(f"{text!r} is no duration", "write it like 30s, 10m, 2h or 1d")
    return value


def main() -> None:
    """Entry point of the `vnotch` command."""
    try:
        # Without standalone mode an exit status comes back as a value.
        status = app(standalone_mode=False, prog_name="vnotch")
        sys.exit(status if isinstance(status, int) else 0)
    except VnotchError as error:
        sys.exit(fail(error))
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sys.exit(_other(error))


def _other(error: Exception) -> int:
    """Errors of the libraries that a person can cause: wrong usage, and what the endpoint refuses. Raises the rest."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, BotoCoreError | ClientError):
        return fail(VnotchError(f"the endpoint: {error}"))
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own, wherever typer keeps click
        error.show()
        return int(error.exit_code)
    raise error


if __name__ == "__main__":
    main()
