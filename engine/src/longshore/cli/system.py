"""`longshore info`, `version`, `doctor`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from longshore import __version__
from longshore.cli.context import client, format_option, inspect_format_option, warn
from longshore.cli.flags import command, flag
from longshore.cli.output import emit, items, show, show_object
from longshore.errors import EngineError
from longshore.oci.units import binary_size

_VERSION_NAMES = {"Version": "Version", "ApiVersion": "API version", "MinAPIVersion": "Minimum API", "Python": "Python",
                  "GitCommit": "Git commit", "BuildTime": "Built", "KernelVersion": "Kernel", "Os": "OS",
                  "Arch": "Arch"}  # fmt: skip


@command("version")
@inspect_format_option
def version_command(format: str) -> None:
    """Show versions of client and daemon."""
    python = ".".join(map(str, sys.version_info[:3]))
    ours: dict[str, Any] = {"Version": __version__, "Python": python, "Os": "linux", "Arch": _machine()}
    value: dict[str, Any] = {"Client": ours, "Server": None}
    failure: EngineError | None = None
    try:
        value["Server"] = client().get("/version")
        value["Server"]["APIVersion"] = value["Server"]["ApiVersion"]  # the name that templates know
    except EngineError as error:
        failure = error
    if format:
        show_object(value, format)
    else:
        for side in ("Client", "Server"):
            if value[side]:
                emit(f"{side}:")
                for name, title in _VERSION_NAMES.items():
                    if value[side].get(name):
                        emit(f" {title + ':':<18}{value[side][name]}")
    if failure:
        raise failure


def _machine() -> str:
    import os

    names = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = os.uname().machine
    return names.get(machine, machine)


@command("info")
@inspect_format_option
def info_command(format: str) -> None:
    """Show the engine and its machine."""
    value = client().get("/info")
    if format:
        show_object({**value, "ClientInfo": {"Version": __version__}}, format)
        return
    emit(f"Client:\n Version: {__version__}\n\nServer:")
    for line in info_lines(value):
        emit(line)
    for warning in items(value, "Warnings"):
        warn(str(warning).removeprefix("WARNING: "))


def info_lines(value: Mapping[str, Any]) -> list[str]:
    """What is told of the server, as docker words it. Pure."""
    names = {
        "Containers": " Containers", "ContainersRunning": "  Running", "ContainersPaused": "  Paused",
        "ContainersStopped": "  Stopped", "Images": " Images", "ServerVersion": " Server Version",
        "Driver": " Storage Driver",
    }  # fmt: skip
    lines = [f"{title}: {value[name]}" for name, title in names.items() if name in value]
    lines += [f"  {name}: {text}" for name, text in items(value, "DriverStatus")]
    plugins: dict[str, Any] = value.get("Plugins") or {}
    more = {
        " Logging Driver": value.get("LoggingDriver"),
        " Cgroup Driver": value.get("CgroupDriver"),
        " Cgroup Version": value.get("CgroupVersion"),
        " Plugins": "",
        "  Volume": " ".join(plugins.get("Volume") or ()),
        "  Network": " ".join(plugins.get("Network") or ()),
        "  Log": " ".join(plugins.get("Log") or ()),
        " Runtimes": " ".join(sorted(value.get("Runtimes") or ())),
        " Default Runtime": value.get("DefaultRuntime"),
        " Init Binary": value.get("InitBinary"),
        " Security Options": "",
    }
    lines += [f"{title}: {text}".rstrip() for title, text in more.items() if text is not None]
    for option in items(value, "SecurityOptions"):
        fields = [part.partition("=") for part in str(option).split(",")]
        lines += [
            f"  {text}" if name == "name" else f"   {name.capitalize()}: {text}" for name, _, text in fields
        ]
    rest = {
        " Kernel Version": value.get("KernelVersion"),
        " Operating System": value.get("OperatingSystem"),
        " OSType": value.get("OSType"),
        " Architecture": value.get("Architecture"),
        " CPUs": value.get("NCPU"),
        " Total Memory": binary_size(value.get("MemTotal", 0)),
        " Name": value.get("Name"),
        " ID": value.get("ID"),
        " Docker Root Dir": value.get("DockerRootDir"),
        " Debug Mode": "true" if value.get("Debug") else "false",
        " HTTP Proxy": value.get("HttpProxy") or None,
        " HTTPS Proxy": value.get("HttpsProxy") or None,
        " No Proxy": value.get("NoProxy") or None,
        " Labels": "" if items(value, "Labels") else None,
    }
    lines += [f"{title}: {text}".rstrip() for title, text in rest.items() if text is not None]
    lines += [f"  {label}" for label in items(value, "Labels")]
    registries: dict[str, Any] = value.get("RegistryConfig") or {}
    for title, key in ((" Insecure Registries", "InsecureRegistryCIDRs"), (" Registry Mirrors", "Mirrors")):
        if found := registries.get(key):
            lines += [f"{title}:", *(f"  {each}" for each in found)]
    lines.append(f" Live Restore Enabled: {'true' if value.get('LiveRestoreEnabled') else 'false'}")
    return lines


@command("doctor")
@format_option
@flag("--deep", help="Read every blob and compare it with its digest.")
@flag("--repair", help="Mend what does not fit together on the disk.")
def doctor_command(format: str, deep: bool, repair: bool) -> None:
    """Check what the machine lacks, and what is missing or left over on the disk.

    Exit code 1 when something that is needed fails.
    """
    query = {"deep": "1"} if deep else {}
    if repair:
        for mended in client().request("POST", "/longshore/v1/doctor/repair", query).json():
            click.echo(
                f"{mended['what']}: {mended['done'] or 'not mended: ' + mended['error']}", err=bool(format)
            )
    checks = client().get("/longshore/v1/doctor", **query)
    if format == "json":
        for check in checks:
            emit(json.dumps(check))
    elif format:
        show(
            checks, {"check": "CHECK", "status": "STATUS", "detail": "DETAIL", "hint": "HINT"}, format=format
        )
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
