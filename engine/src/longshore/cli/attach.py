"""`longshore attach` and `start`."""

from __future__ import annotations

import sys

import click

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client, each
from longshore.cli.flags import command, flag, one, several, text
from longshore.errors import Conflict


@command("attach")
@text("--detach-keys", help="Keys that leave the container running, ctrl-p,ctrl-q otherwise.")
@flag("--no-stdin", help="Do not pass standard input on.")
@flag("--sig-proxy", help="Pass signals on to the process.", default=True)
@one("container", "CONTAINER", complete=completers.running)
def attach_command(container: str, detach_keys: str, no_stdin: bool, sig_proxy: bool) -> None:
    """Join a running container's input and output; exit with its exit code."""
    from longshore.cli.attached import run_attached

    api = client()
    path = f"/containers/{segment(container)}"
    view = api.get(f"{path}/json")
    state = view["State"]
    for condition, hint in (("Paused", "unpause it first"), ("Restarting", "wait until it runs")):
        if state[condition]:
            raise Conflict(f"cannot attach to a {condition.lower()} container", hint=hint)
    if not state["Running"]:
        raise Conflict("cannot attach to a stopped container", hint="start it first")
    tty, stdin = view["Config"]["Tty"], view["Config"]["OpenStdin"] and not no_stdin
    if tty and stdin and not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY")
    code = run_attached(
        api,
        path,
        streams={"stdout", "stderr"} | ({"stdin"} if stdin else set[str]()),
        tty=tty,
        sig_proxy=sig_proxy,
        keys=detach_keys,
        until="not-running",
    )
    raise click.exceptions.Exit(code)


@command("start")
@flag("-a", "--attach", help="Show its output, pass signals on, exit with its exit code.")
@text("--checkpoint", help="Restore from this checkpoint.")
@text("--checkpoint-dir", help="Folder of checkpoints.")
@text("--detach-keys", help="Keys that leave the container running, ctrl-p,ctrl-q otherwise.")
@flag("-i", "--interactive", help="Pass standard input on.")
@several("containers", "CONTAINER", complete=completers.stopped)
def start_command(
    containers: tuple[str, ...],
    attach: bool,
    checkpoint: str,
    checkpoint_dir: str,
    detach_keys: str,
    interactive: bool,
) -> None:
    """Start stopped containers."""
    api = client()
    query = {"detachKeys": detach_keys, "checkpoint": checkpoint, "checkpoint-dir": checkpoint_dir}

    def start(name: str) -> None:
        api.request("POST", f"/containers/{segment(name)}/start", query).read()

    if not (attach or interactive):
        each(containers, start)
        return
    if len(containers) != 1:
        raise click.UsageError("--attach and --interactive take one container")
    from longshore.cli.attached import run_attached

    path = f"/containers/{segment(containers[0])}"
    view = api.get(f"{path}/json")
    if view["State"]["Running"]:
        start(containers[0])
        return
    stdin = interactive and view["Config"]["OpenStdin"]
    removed = view["HostConfig"]["AutoRemove"]
    code = run_attached(
        api,
        path,
        streams={"stdout", "stderr"} | ({"stdin"} if stdin else set[str]()),
        tty=view["Config"]["Tty"],
        sig_proxy=True,
        keys=detach_keys,
        until="removed" if removed else "next-exit",
        start=lambda: start(containers[0]),
    )
    raise click.exceptions.Exit(code)
