"""`longshore run` and `create`. Exit codes of run: 125 the engine failed, 126 and 127 the command could not be
executed or found, anything else is the command's own.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from longshore.cli.client import Client
from longshore.cli.context import ApiError, client
from longshore.cli.images import pull_image
from longshore.cli.options import create_request
from longshore.cli.output import items
from longshore.cli.terminal import Detached, Pump, handled, raw_terminal, window_size

Function = TypeVar("Function", bound=Callable[..., Any])

_TEXT: tuple[tuple[str, ...], ...] = (
    ("--name",),
    ("-h", "--hostname"),
    ("-u", "--user"),
    ("-w", "--workdir"),
    ("--network", "--net"),
    ("--restart",),
    ("-m", "--memory"),
    ("--memory-swap",),
    ("--shm-size",),
    ("--cpuset-cpus",),
    ("--stop-signal",),
    ("--pid",),
    ("--ipc",),
    ("--uts",),
    ("--cgroupns",),
    ("--log-driver",),
    ("--ip",),
    ("--mac-address",),
    ("--platform",),
    ("--cidfile",),
    ("--health-cmd",),
    ("--health-interval",),
    ("--health-timeout",),
    ("--health-start-period",),
)
_LISTS: tuple[tuple[str, ...], ...] = (
    ("-e", "--env"),
    ("--env-file",),
    ("-v", "--volume"),
    ("--mount",),
    ("-p", "--publish"),
    ("--expose",),
    ("-l", "--label"),
    ("--cap-add",),
    ("--cap-drop",),
    ("--security-opt",),
    ("--dns",),
    ("--dns-search",),
    ("--add-host",),
    ("--group-add",),
    ("--volumes-from",),
    ("--ulimit",),
    ("--device",),
    ("--tmpfs",),
    ("--sysctl",),
    ("--log-opt",),
    ("--network-alias",),
    ("-a", "--attach"),
)
_FLAGS: tuple[tuple[str, ...], ...] = (
    ("-i", "--interactive"),
    ("-t", "--tty"),
    ("-P", "--publish-all"),
    ("--rm",),
    ("--privileged",),
    ("--read-only",),
    ("--init",),
    ("--no-healthcheck",),
)


def container_options(function: Function) -> Function:
    """All flags that describe a container."""
    for names in _TEXT:
        function = click.option(*names, default="", metavar="TEXT")(function)
    for names in _LISTS:
        function = click.option(*names, multiple=True, metavar="TEXT")(function)
    for names in _FLAGS:
        function = click.option(*names, is_flag=True)(function)
    for names, kind in (
        (("--cpus",), float),
        (("--cpu-shares",), int),
        (("--pids-limit",), int),
        (("--stop-timeout",), int),
        (("--health-retries",), int),
    ):
        function = click.option(*names, type=kind, default=None)(function)
    function = click.option("--entrypoint", default=None, metavar="TEXT")(function)
    return click.option("--pull", type=click.Choice(["missing", "always", "never"]), default="missing")(
        function
    )


def create_container(api: Client, image: str, command: tuple[str, ...], given: dict[str, Any]) -> str:
    """Create, pulling the image when it is missing; returns the id. Warnings go to standard error."""
    body = create_request(image, command, given)
    query = {"name": given["name"], "platform": given["platform"]}
    if given["pull"] == "always":
        pull_image(api, image, platform=given["platform"], quiet=True)
    try:
        created = api.request("POST", "/containers/create", query, body).json()
    except ApiError as error:
        if error.status != 404 or given["pull"] == "never" or "image" not in str(error).lower():
            raise
        click.echo(f"Unable to find image '{image}' locally", err=True)
        pull_image(api, image, platform=given["platform"], stream=sys.stderr)
        created = api.request("POST", "/containers/create", query, body).json()
    for warning in items(created, "Warnings"):
        click.echo(f"WARNING: {warning}", err=True)
    if given["cidfile"]:
        Path(given["cidfile"]).write_text(created["Id"])
    return created["Id"]


@click.command("create", context_settings={"allow_interspersed_args": False})
@container_options
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def create_command(image: str, command: tuple[str, ...], **given: Any) -> None:
    """Create a container without starting it."""
    click.echo(create_container(client(), image, command, {**given, "detach": False}))


@click.command("run", context_settings={"allow_interspersed_args": False})
@container_options
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the id.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the command.")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run_command(image: str, command: tuple[str, ...], **given: Any) -> None:
    """Create a container and run it."""
    api = client()
    if given["tty"] and given["interactive"] and not given["detach"] and not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY")
    identifier = create_container(api, image, command, given)
    if given["detach"]:
        try:
            api.post(f"/containers/{identifier}/start")
        except ApiError as error:
            _start_failed(error)
        click.echo(identifier)
        return
    raise click.exceptions.Exit(_run_attached(api, identifier, given))


def _run_attached(api: Client, identifier: str, given: dict[str, Any]) -> int:
    path = f"/containers/{identifier}"
    query = {"stream": True, "stdin": given["interactive"], "stdout": True, "stderr": True}
    upgraded = api.upgrade(f"{path}/attach", query)
    # Asked for before the start: nothing that happens afterwards can be missed.
    waiting = api.request("POST", f"{path}/wait", {"condition": "removed" if given["rm"] else "next-exit"})
    try:
        api.post(f"{path}/start")
    except ApiError as error:
        _start_failed(error)
    try:
        with (
            follow_window(api, f"{path}/resize", active=given["tty"]),
            proxied(api, path, tty=given["tty"], active=given["sig_proxy"]),
            raw_terminal(given["tty"] and given["interactive"]),
        ):
            Pump(upgraded, stdin=given["interactive"], tty=given["tty"]).run()
    except Detached:
        return 0
    return int(waiting.json()["StatusCode"])


def proxied(api: Client, path: str, *, tty: bool, active: bool) -> Any:
    """Signals of ours are the container's while inside; a raw terminal sends its own."""
    if tty or not active:
        return handled({})

    def pass_on(number: int) -> Callable[[], None]:
        def send() -> None:
            try:
                api.post(f"{path}/kill", signal=str(number))
            except ApiError:
                pass  # it has just ended

        return send

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    return handled({number: pass_on(number) for number in numbers})


def follow_window(api: Client, path: str, *, active: bool) -> Any:
    """Tell the size of our terminal now and whenever it changes."""

    def tell() -> None:
        if size := window_size():
            try:
                api.request("POST", path, {"h": size[0], "w": size[1]}).read()
            except ApiError:
                pass  # it has just ended

    if not active:
        return handled({})
    tell()
    return handled({signal.SIGWINCH: tell})


def _start_failed(error: ApiError) -> None:
    click.echo(f"Error: {error}", err=True)
    raise click.exceptions.Exit(start_exit_code(str(error)))


def start_exit_code(message: str) -> int:
    """docker's reading of why a start failed."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    if "permission denied" in message or "is a directory" in message:
        return 126
    return 125
