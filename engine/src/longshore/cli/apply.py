"""`longshore apply`: the desired state of a host, or a part of it."""

import json
import sys
from pathlib import Path
from typing import Any, cast

import click

from longshore.cli.context import client
from longshore.cli.flags import command, flag


@command("apply")
@click.option(
    "-f", "--file", required=True, metavar="FILE", help="The wanted state as JSON; - reads standard input."
)
@flag("--dry-run", help="Only show what would change.")
@flag("--json", "as_json", help="Print the daemon's stream as it is.")
def apply_command(file: str, dry_run: bool, as_json: bool) -> None:
    """Bring containers, networks, volumes and images to the wanted state; does nothing when they are there."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        wanted: dict[str, Any] = json.loads(text)
    except OSError as cause:
        raise click.UsageError(f"cannot read {file}: {cause.strerror}") from cause
    except ValueError as cause:
        raise click.UsageError(f"{file} is not JSON: {cause}") from cause
    if dry_run:
        wanted["dry_run"] = True
    shown = Shown()
    failed = False
    for message in client().request("POST", "/longshore/v1/apply", None, wanted).lines():
        failed = failed or message["type"] == "error" or bool(message.get("failed"))
        if as_json:
            click.echo(json.dumps(message))
        else:
            for line in shown.lines(message):
                click.echo(line)
    if failed:
        raise click.exceptions.Exit(1)


class Shown:
    """Turns the daemon's events into lines: the plan with its differences, each step's end, the result."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []

    def lines(self, message: dict[str, Any]) -> list[str]:
        match message["type"]:
            case "plan":
                self._steps = cast("list[dict[str, Any]]", message["steps"])
                changing = [step for step in self._steps if step["action"] != "keep"]
                return [line for step in changing for line in _step_lines(step)]
            case "step" if message["status"] != "running":
                step = self._steps[int(message["index"])]
                what = f"{step['kind']} {step['name']}: {message['status']} ({message['seconds']:.2f} s)"
                return [f"{what} {message['message']}".rstrip()]
            case "result":
                unchanged = "nothing has changed" if message["failed"] else "nothing to change"
                return ["changed" if message["changed"] else unchanged]
            case "error":
                return [f"error: {message['message']}"]
            case _:
                return []


def _step_lines(step: dict[str, Any]) -> list[str]:
    reason = f" ({step['reason']})" if step["reason"] else ""
    before, after = step["diff"]["before"], step["diff"]["after"]
    return [
        f"{step['action']} {step['kind']} {step['name']}{reason}",
        *(f"  - {key}: {json.dumps(value)}" for key, value in before.items()),
        *(f"  + {key}: {json.dumps(value)}" for key, value in after.items()),
    ]
