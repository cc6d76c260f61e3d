"""`longshore exec` and `attach`."""

import sys
from typing import Any

import click

from longshore.cli.client import segment
from longshore.cli.context import client
from longshore.cli.options import environment
from longshore.cli.run import follow_window, proxied
from longshore.cli.terminal import Detached, Pump, raw_terminal, window_size


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-d", "--detach", is_flag=True, help="Run in the background.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE")
@click.option("--env-file", multiple=True, metavar="FILE")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]")
@click.option("-w", "--workdir", default="", metavar="DIR")
@click.option("--privileged", is_flag=True)
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(container: str, command: tuple[str, ...], **given: Any) -> None:
    """Run a command in a running container; exit with its exit code."""
    api = client()
    detach, tty, interactive = given["detach"], given["tty"], given["interactive"]
    if tty and interactive and not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY")
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
    upgraded = api.upgrade(f"/exec/{identifier}/start", None, start)
    try:
        with follow_window(api, f"/exec/{identifier}/resize", active=tty), raw_terminal(tty and interactive):
            Pump(upgraded, stdin=interactive, tty=tty).run()
    except Detached:
        return
    code = api.get(f"/exec/{identifier}/json")["ExitCode"]
    raise click.exceptions.Exit(code or 0)


@click.command("attach")
@click.option("--no-stdin", is_flag=True, help="Do not pass standard input on.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the command.")
@click.argument("container")
def attach_command(container: str, no_stdin: bool, sig_proxy: bool) -> None:
    """Attach to a running container; exit with its exit code."""
    api = client()
    path = f"/containers/{segment(container)}"
    view = api.get(f"{path}/json")
    if not view["State"]["Running"]:
        raise click.ClickException("cannot attach to a stopped container, start it first")
    tty, stdin = view["Config"]["Tty"], view["Config"]["OpenStdin"] and not no_stdin
    waiting = api.request("POST", f"{path}/wait", {"condition": "not-running"})
    upgraded = api.upgrade(f"{path}/attach", {"stream": True, "stdin": stdin, "stdout": True, "stderr": True})
    try:
        with (
            follow_window(api, f"{path}/resize", active=tty),
            proxied(api, path, tty=tty, active=sig_proxy),
            raw_terminal(tty and stdin),
        ):
            Pump(upgraded, stdin=stdin, tty=tty).run()
    except Detached:
        return
    raise click.exceptions.Exit(int(waiting.json()["StatusCode"]))
