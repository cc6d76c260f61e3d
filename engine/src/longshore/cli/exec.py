"""`longshore exec`."""

from __future__ import annotations

import sys
from typing import Any

import click

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client
from longshore.cli.environment import environment
from longshore.cli.flags import command, flag, many, one, several, text
from longshore.cli.run_errors import start_exit_code


@command("exec", program_follows=True)
@flag("-d", "--detach", help="Run in the background.")
@text("--detach-keys", help="Keys that leave the command running, ctrl-p,ctrl-q otherwise.")
@many("-e", "--env", help="NAME=VALUE, or the NAME of a variable of ours.")
@many("--env-file", help="File of such lines.")
@flag("-i", "--interactive", help="Pass standard input on.")
@flag("--privileged", help="With all capabilities.")
@flag("-t", "--tty", help="Give it a terminal.")
@text("-u", "--user", help="Name or number, with :group if wanted.")
@text("-w", "--workdir", help="Folder to run in.")
@one("container", "CONTAINER", complete=completers.running)
@several("command", "COMMAND", raw=True)
def exec_command(container: str, command: tuple[str, ...], **given: Any) -> None:
    """Run a command in a running container; exit with its exit code."""
    from longshore.cli.terminal import detach_keys, window_size

    api = client()
    detach, tty, interactive = given["detach"], given["tty"], given["interactive"]
    if tty and interactive and not detach and not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY")
    keys = detach_keys(given["detach_keys"])
    request: dict[str, Any] = {
        "Cmd": list(command),
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Env": environment(given["env"], given["env_file"]),
        "User": given["user"],
        "WorkingDir": given["workdir"],
        "Privileged": given["privileged"],
        "DetachKeys": given["detach_keys"],
    }
    size = window_size() if tty else None
    if size:
        request["ConsoleSize"] = list(size)
    identifier = api.post(f"/containers/{segment(container)}/exec", request)["Id"]
    start: dict[str, Any] = {"Detach": detach, "Tty": tty}
    if size:
        start["ConsoleSize"] = list(size)
    if detach:
        api.post(f"/exec/{identifier}/start", start)
        return
    raise click.exceptions.Exit(_joined(api, identifier, start, stdin=interactive, keys=keys))


def _joined(api: Any, identifier: str, start: dict[str, Any], *, stdin: bool, keys: bytes) -> int:
    from longshore.cli.attached import follow_window
    from longshore.cli.context import ApiError, complain
    from longshore.cli.terminal import Detached, Pump, raw_terminal

    tty = start["Tty"]
    try:
        upgraded = api.upgrade(f"/exec/{identifier}/start", None, start)
    except ApiError as error:
        complain(error)
        code = start_exit_code(str(error))
        return code if code != 125 else 1
    try:
        with follow_window(api, f"/exec/{identifier}/resize", active=tty), raw_terminal(tty and stdin):
            Pump(upgraded, stdin=stdin, tty=tty, keys=keys).run()
    except Detached:
        return 0
    return int(api.get(f"/exec/{identifier}/json")["ExitCode"] or 0)
