"""`longshore run` and `create`. Exit codes of run: 125 the engine failed, 126 and 127 the command could not be
executed or found, anything else is the command's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from longshore.cli import completers
from longshore.cli.client import Client
from longshore.cli.context import ApiError, client, complain, warn
from longshore.cli.create_request import attached_streams, create_request
from longshore.cli.flags import command, invalid, one, several
from longshore.cli.output import items
from longshore.cli.run_errors import start_exit_code
from longshore.cli.run_flags import container_flags
from longshore.errors import Conflict, InvalidArgument


def create_container(api: Client, image: str, command: tuple[str, ...], given: dict[str, Any]) -> str:
    """Create, pulling the image when it is missing; returns the id. Warnings go to standard error."""
    if given["pull"] not in ("always", "missing", "never"):
        raise invalid("--pull", given["pull"], "one of always, missing, never")
    body = create_request(image, command, given)
    shared = None
    if given["use_api_socket"]:
        from longshore.cli.api_socket import SharedSocket

        shared = SharedSocket(api, body)
    with id_file(given["cidfile"]) as write_id:
        created = _created(api, image, body, given)
        write_id(created["Id"])
    for warning in items(created, "Warnings"):
        warn(warning)
    if shared:
        shared.share_logins(created["Id"])
    return created["Id"]


@contextmanager
def id_file(path: str) -> Generator[Callable[[str], object]]:
    """The --cidfile: made before the container, so that no id gets lost; gone again when none was written.

    Raises Conflict when it is there and InvalidArgument when it cannot be written.
    """
    if not path:
        yield lambda _: None
        return
    file = Path(path)
    try:
        stream = file.open("x")
    except FileExistsError as cause:
        raise Conflict(
            f"container ID file found: {file}", hint="remove it, or name another --cidfile"
        ) from cause
    except OSError as cause:
        raise InvalidArgument(f"cannot write {file}", detail=cause.strerror or str(cause)) from cause
    try:
        with stream:
            yield stream.write
    finally:
        if not file.stat().st_size:
            file.unlink()


def _created(api: Client, image: str, body: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The daemon's reply; pulls as --pull says."""
    query = {"name": given["name"], "platform": given["platform"]}
    if given["pull"] == "always":
        _pull(api, image, given)
    try:
        return api.request("POST", "/containers/create", query, body).json()
    except ApiError as error:
        if error.status != 404 or given["pull"] != "missing" or "image" not in str(error).lower():
            raise
    click.echo(f"Unable to find image '{image}' locally", err=True)
    _pull(api, image, given)
    return api.request("POST", "/containers/create", query, body).json()


def _pull(api: Client, image: str, given: dict[str, Any]) -> None:
    from longshore.cli.pull import pull_image

    pull_image(api, image, platform=given["platform"], quiet=given["quiet"], stream=sys.stderr)


@command("create", program_follows=True)
@container_flags(runs=False)
@one("image", "IMAGE", complete=completers.images)
@several("command", "COMMAND", required=False, raw=True)
def create_command(image: str, command: tuple[str, ...], **given: Any) -> None:
    """Create a container without starting it."""
    click.echo(create_container(client(), image, command, given))


@command("run", program_follows=True)
@container_flags(runs=True)
@one("image", "IMAGE", complete=completers.images)
@several("command", "COMMAND", required=False, raw=True)
def run_command(image: str, command: tuple[str, ...], **given: Any) -> None:
    """Create a container and run it; exit with its exit code."""
    from longshore.cli.terminal import detach_keys

    api = client()
    streams = attached_streams(given)
    detach_keys(given["detach_keys"])  # judged before anything is made
    if given["tty"] and "stdin" in streams and not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY")
    identifier = create_container(api, image, command, given)
    path = f"/containers/{identifier}"
    try:
        if not streams:
            api.request("POST", f"{path}/start", {"detachKeys": given["detach_keys"]}).read()
            click.echo(identifier)
            return
        code = _attached(api, path, streams, given)
    except ApiError as error:
        complain(error)
        raise click.exceptions.Exit(start_exit_code(str(error))) from error
    raise click.exceptions.Exit(code)


def _attached(api: Client, path: str, streams: set[str], given: dict[str, Any]) -> int:
    from longshore.cli.attached import run_attached

    return run_attached(
        api,
        path,
        streams=streams,
        tty=given["tty"],
        sig_proxy=given["sig_proxy"],
        keys=given["detach_keys"],
        until="removed" if given["rm"] else "next-exit",
        start=lambda: api.request("POST", f"{path}/start").read(),
    )
