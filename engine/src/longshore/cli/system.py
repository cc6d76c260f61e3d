"""`longshore info`, `version`, `doctor`, `events`, `system …`."""

import json
import os
import platform
import selectors
import socket
import sys
from datetime import UTC, datetime
from typing import Any

import click

from longshore import __version__
from longshore.cli.context import ApiError, Unreachable, client, filter_option, format_option
from longshore.cli.output import items, parse_filters, render, show
from longshore.oci.units import binary_size, human_size


@click.command("version")
@format_option
def version_command(format: str) -> None:
    """Show versions of client and daemon."""
    value: dict[str, Any] = {
        "Client": {"Version": __version__, "Python": platform.python_version(), "Os": "linux"},
        "Server": None,
    }
    failure: Exception | None = None
    try:
        value["Server"] = client().get("/version")
    except (Unreachable, ApiError) as error:
        failure = error
    if format:
        click.echo(json.dumps(value) if format == "json" else render(format, value))
    else:
        for side in ("Client", "Server"):
            if value[side]:
                click.echo(f"{side}:")
                _facts(
                    value[side],
                    ("Version", "ApiVersion", "MinAPIVersion", "Python", "KernelVersion", "Os", "Arch"),
                )
    if failure:
        raise failure


def _facts(value: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if value.get(name) not in (None, ""):
            click.echo(f" {name + ':':<20}{value[name]}")


@click.command("info")
@format_option
def info_command(format: str) -> None:
    """Show the engine and its machine."""
    value = client().get("/info")
    if format:
        click.echo(json.dumps(value) if format == "json" else render(format, value))
        return
    _facts(
        value,
        (
            "ServerVersion",
            "Name",
            "Containers",
            "ContainersRunning",
            "ContainersPaused",
            "ContainersStopped",
            "Images",
            "Driver",
            "CgroupDriver",
            "CgroupVersion",
            "KernelVersion",
            "OperatingSystem",
            "Architecture",
            "NCPU",
        ),
    )
    click.echo(f" {'Total Memory:':<20}{binary_size(value.get('MemTotal', 0))}")
    _facts(value, ("DockerRootDir",))
    for option in items(value, "SecurityOptions"):
        click.echo(f" {'Security:':<20}{option}")
    for warning in items(value, "Warnings"):
        click.echo(f"WARNING: {warning}", err=True)


@click.command("doctor")
@format_option
def doctor_command(format: str) -> None:
    """Check what the machine lacks. Exit code 1 when something that is needed fails."""
    checks = client().get("/longshore/v1/doctor")
    if format:
        show(checks, {}, format=format)
    else:
        _doctor_table(checks)
    if any(check["status"] == "fail" for check in checks):
        raise click.exceptions.Exit(1)


def _doctor_table(checks: list[dict[str, str]]) -> None:
    marks = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
    width = max((len(check["check"]) for check in checks), default=0)
    for check in checks:
        word, colour = marks.get(check["status"], (check["status"], "white"))
        click.echo(f"{click.style(f'{word:<5}', fg=colour)} {check['check']:<{width}}  {check['detail']}")
        if check.get("hint") and check["status"] != "ok":
            click.echo(f"{'':<{width + 8}}-> {check['hint']}")


@click.command("events")
@click.option("--since", default="", help="Show events since this Unix time.")
@click.option("--until", default="", help="Stop at this Unix time.")
@filter_option
@format_option
def events_command(since: str, until: str, filters: tuple[str, ...], format: str) -> None:
    """Show what happens, as it happens."""
    query = {"since": since, "until": until, "filters": parse_filters(filters)}
    for event in client().request("GET", "/events", query).lines():
        if format:
            click.echo(json.dumps(event) if format == "json" else render(format, event))
            continue
        at = datetime.fromtimestamp(event["timeNano"] / 1e9, UTC).astimezone().isoformat()
        attributes = ", ".join(
            f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items())
        )
        click.echo(f"{at} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})")


@click.group("system")
def system_command() -> None:
    """Manage the engine."""


@system_command.command("df")
def df_command() -> None:
    """Show how much disk is used."""
    value = client().get("/system/df")
    volumes = sum(
        max(0, each["UsageData"]["Size"]) for each in items(value, "Volumes") if each.get("UsageData")
    )
    containers = sum(each.get("SizeRw", 0) for each in items(value, "Containers"))
    sizes = (("Images", value.get("LayersSize", 0)), ("Containers", containers), ("Volumes", volumes))
    rows = [
        {"Type": kind, "Total": len(items(value, kind)), "Size": human_size(size)} for kind, size in sizes
    ]
    show(rows, {"Type": "TYPE", "Total": "TOTAL", "Size": "SIZE"})


@system_command.command("dial-stdio")
def dial_stdio_command() -> None:
    """Join standard input and output with the daemon's socket (what docker's ssh:// transport runs)."""
    sock = client().connect()
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "in")
        selector.register(sock, selectors.EVENT_READ, "out")
        while True:
            for key, _ in selector.select():
                if key.data == "in":
                    data = os.read(sys.stdin.fileno(), 1 << 16)
                    if data:
                        sock.sendall(data)
                    else:
                        selector.unregister(sys.stdin.fileno())
                        sock.shutdown(socket.SHUT_WR)
                else:
                    data = sock.recv(1 << 16)
                    if not data:
                        return
                    _write_all(sys.stdout.fileno(), data)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
