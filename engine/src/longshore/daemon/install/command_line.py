"""The command line, and what it prints."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, cast

from .commands import configure, control, install, rollback, status, uninstall
from .outcome import Outcome, SetupError
from .places import TLS_FILES

NOT_RUNNING = 3  # LSB: the exit code of an init script's `status`


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="longshore-setup", description="Install the Longshore engine on this host."
    )
    top.add_argument("--json", action="store_true", help="print the outcome as one JSON line")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], object], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.set_defaults(function=function)
        return command

    command = add("install", install, "install this bundle's release, or upgrade to it")
    add_settings(command)
    command = add("configure", configure, "change settings or certificates, not the release")
    add_settings(command)
    command = add("rollback", rollback, "go back to the previous release")
    command.add_argument("--no-start", action="store_true", help="do not restart the daemon")
    add("status", status, "show what is installed and whether it runs")
    command = add("service", control, "start, stop, restart or show the daemon")
    command.add_argument("action", choices=["start", "stop", "restart", "force-reload", "status"])
    command = add("uninstall", uninstall, "remove the engine from this host")
    command.add_argument("--purge", action="store_true", help="also remove all containers and all data")
    return top


def add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="settings for /etc/longshore/daemon.json")
    command.add_argument("--tls-dir", metavar="DIR", help=f"folder with {', '.join(TLS_FILES)}")
    command.add_argument("--no-start", action="store_true", help="do not start the daemon")
    command.add_argument("--check", action="store_true", help="only say what would change")


def main() -> NoReturn:
    options = parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise SetupError("the installer needs root; run it with sudo")
        result = options.function(options)
    except (SetupError, OSError) as error:
        if options.json:
            print(json.dumps({"failed": True, "error": str(error)}))
        print(f"longshore-setup: {error}", file=sys.stderr)
        sys.exit(1)
    report(result, as_json=options.json)
    asked = options.command == "service" and options.action == "status"
    sys.exit(NOT_RUNNING if asked and not result["running"] else 0)


def report(result: object, *, as_json: bool) -> None:
    values = cast(
        dict[str, Any],
        {name: getattr(result, name) for name in Outcome.__slots__}
        if isinstance(result, Outcome)
        else result,
    )
    if as_json:
        print(json.dumps(values))
        return
    if values.keys() == {"service", "running"}:
        print(f"longshored is {'running' if values['running'] else 'not running'} ({values['service']})")
        return
    for name, value in values.items():
        if value not in ("", [], {}):
            text = ", ".join(map(str, cast(list[object], value))) if isinstance(value, list) else value
            print(f"{name}: {text}")
