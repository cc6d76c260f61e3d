"""`longshore apply`: the desired state of a host, or a part of it."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from longshore.cli.context import client


@click.command("apply")
@click.option("-f", "--file", "file", required=True, help="The wanted state as JSON; - reads standard input.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's stream as it is.")
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
    failed = False
    for message in client().request("POST", "/longshore/v1/apply", None, wanted).lines():
        failed = failed or message.get("type") == "error" or bool(message.get("failed"))
        for line in [json.dumps(message)] if as_json else _lines(message):
            click.echo(line)
    if failed:
        raise click.exceptions.Exit(1)


def _lines(message: dict[str, Any]) -> list[str]:
    """The plan, then what is worth reading of each step; docs/reference/apply.md has the messages."""
    kind = message.get("type")
    if kind == "plan":
        return [
            f"{number}: {step['action']} {step['kind']} {step['name']}"
            + (f" ({step['reason']})" if step["reason"] else "")
            for number, step in enumerate(message["steps"])
        ]
    if kind == "step":
        text = message.get("message", "")
        if message["status"] == "running":
            return [f"{message['index']}: {text}"] if text else []
        took = f"{message['index']}: {message['status']} after {message['seconds']:.1f} s"
        return [f"{took}: {text}" if text else took]
    if kind == "result":
        failed = message["failed"]
        return [
            f"failed: {failed['message']}" if failed else "changed" if message["changed"] else "nothing to do"
        ]
    return [f"error: {message.get('message', message)}"]
