"""`longshore ps`, `logs`, `start`, `stop`, `restart`, `kill`, `rm`, `rename`, `wait`, `inspect`."""

import json
from collections.abc import Mapping
from typing import Any

import click

from longshore.cli.client import segment
from longshore.cli.context import ApiError, client, each, filter_option, format_option
from longshore.cli.output import (
    age_of,
    ellipsis,
    items,
    moment,
    parse_filters,
    render,
    short_id,
    show,
)
from longshore.cli.terminal import write_all
from longshore.oci.frames import Demultiplexer
from longshore.oci.units import human_size

_COLUMNS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}


def port_text(ports: list[dict[str, Any]]) -> str:
    """ "0.0.0.0:8080->80/tcp, 443/tcp", published ones first."""
    texts: list[str] = []
    for port in sorted(
        ports, key=lambda each: (each["PrivatePort"], each.get("IP", ""), each.get("PublicPort", 0))
    ):
        inside = f"{port['PrivatePort']}/{port['Type']}"
        if port.get("PublicPort"):
            address = port.get("IP") or "0.0.0.0"
            address = f"[{address}]" if ":" in address else address
            inside = f"{address}:{port['PublicPort']}->{inside}"
        texts.append(inside)
    return ", ".join(texts)


def container_row(view: Mapping[str, Any], *, truncate: bool) -> dict[str, Any]:
    """One line of `ps`, with the field names that docker's templates know."""
    command = view["Command"]
    labels: dict[str, str] = view.get("Labels") or {}
    image: str = view["Image"]
    if truncate and short_id(image) == short_id(view.get("ImageID", "")):
        image = short_id(image)  # its tag has gone to another image
    mounts = [str(mount.get("Name") or mount.get("Source") or "") for mount in items(view, "Mounts")]
    networks: dict[str, Any] = (view.get("NetworkSettings") or {"Networks": None})["Networks"] or {}
    return {
        "ID": view["Id"][:12] if truncate else view["Id"],
        "Image": image,
        "Command": f'"{ellipsis(command, 20) if truncate else command}"',
        "CreatedAt": moment(view["Created"]),
        "RunningFor": age_of(view["Created"]),
        "Status": view["Status"],
        "State": view["State"],
        "Ports": port_text(items(view, "Ports")),
        "Names": ",".join(name.removeprefix("/") for name in view["Names"]),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Networks": ",".join(sorted(networks)),
        "Mounts": ",".join(ellipsis(name, 15) if truncate else name for name in mounts if name),
        "Size": f"{human_size(view.get('SizeRw', 0), digits=3)} (virtual {human_size(view.get('SizeRootFs', 0), digits=3)})",
    }


@click.command("ps")
@click.option("-a", "--all", "show_all", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-n", "--last", type=int, default=0, help="The last N created ones.")
@click.option("-l", "--latest", is_flag=True, help="The last created one.")
@click.option("-s", "--size", is_flag=True, help="Also sizes.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten.")
@filter_option
@format_option
def ps_command(
    show_all: bool,
    quiet: bool,
    last: int,
    latest: bool,
    size: bool,
    no_trunc: bool,
    filters: tuple[str, ...],
    format: str,
) -> None:
    """List containers."""
    limit = 1 if latest else last
    query = {
        "all": show_all or limit > 0,
        "limit": limit or "",
        "filters": parse_filters(filters),
        "size": size,
    }
    views = client().request("GET", "/containers/json", query).json()
    rows = [container_row(view, truncate=not no_trunc) for view in views]
    columns = _COLUMNS | ({"Size": "SIZE"} if size else {})
    show(rows, columns, format=format, quiet="ID" if quiet else "")


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("-t", "--timestamps", is_flag=True)
@click.option("-n", "--tail", default="all", help="Only the last N lines.")
@click.option("--since", default="", help="Unix time, RFC 3339 or 10m.")
@click.option("--until", default="", help="Unix time, RFC 3339 or 10m.")
@click.argument("container")
def logs_command(container: str, follow: bool, timestamps: bool, tail: str, since: str, until: str) -> None:
    """Show a container's output."""
    query = {
        "stdout": True,
        "stderr": True,
        "follow": follow,
        "timestamps": timestamps,
        "tail": tail,
        "since": point_in_time(since),
        "until": point_in_time(until),
    }
    api = client()
    path = f"/containers/{segment(container)}"
    if api.get(f"{path}/json")["Config"]["Tty"]:
        for data in api.request("GET", f"{path}/logs", query).chunks():
            write_all(1, data)
        return
    frames = Demultiplexer()
    for data in api.request("GET", f"{path}/logs", query).chunks():
        for stream, payload in frames.feed(data):
            write_all(2 if stream == 2 else 1, payload)


def point_in_time(text: str) -> str:
    """A Unix time from what people write: seconds, a date, or how long ago."""
    if not text or text.replace(".", "", 1).isdigit():
        return text
    import time
    from datetime import datetime

    from longshore.cli.options import parse_duration

    try:
        return str(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return str(time.time() - parse_duration(text, "--since") / 1e9)


@click.command("start")
@click.option("-a", "--attach", "attach", is_flag=True, help="Show its output until it ends.")
@click.argument("containers", nargs=-1, required=True)
def start_command(containers: tuple[str, ...], attach: bool) -> None:
    """Start stopped containers."""
    api = client()
    if not attach:
        each(containers, lambda name: api.post(f"/containers/{segment(name)}/start"))
        return
    if len(containers) != 1:
        raise click.UsageError("--attach takes one container")
    from longshore.cli.terminal import Pump

    path = f"/containers/{segment(containers[0])}"
    tty = api.get(f"{path}/json")["Config"]["Tty"]
    upgraded = api.upgrade(f"{path}/attach", {"stream": True, "stdout": True, "stderr": True})
    waiting = api.request("POST", f"{path}/wait", {"condition": "next-exit"})
    api.post(f"{path}/start")
    Pump(upgraded, stdin=False, tty=tty).run()
    raise click.exceptions.Exit(int(waiting.json()["StatusCode"]))


def _stop_options(function: Any) -> Any:
    function = click.option(
        "-t", "--time", "--timeout", "timeout", type=int, default=None, help="Seconds until SIGKILL."
    )(function)
    return click.option("-s", "--signal", default="", help="Signal to send first.")(function)


@click.command("stop")
@_stop_options
@click.argument("containers", nargs=-1, required=True)
def stop_command(containers: tuple[str, ...], timeout: int | None, signal: str) -> None:
    """Stop running containers."""
    api = client()
    each(containers, lambda name: api.post(f"/containers/{segment(name)}/stop", t=timeout, signal=signal))


@click.command("restart")
@_stop_options
@click.argument("containers", nargs=-1, required=True)
def restart_command(containers: tuple[str, ...], timeout: int | None, signal: str) -> None:
    """Stop and start containers."""
    api = client()
    each(containers, lambda name: api.post(f"/containers/{segment(name)}/restart", t=timeout, signal=signal))


@click.command("kill")
@click.option("-s", "--signal", default="KILL", help="Name or number.")
@click.argument("containers", nargs=-1, required=True)
def kill_command(containers: tuple[str, ...], signal: str) -> None:
    """Send a signal to running containers."""
    api = client()
    each(containers, lambda name: api.post(f"/containers/{segment(name)}/kill", signal=signal))


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="Also running ones.")
@click.option("-v", "--volumes", is_flag=True, help="Also their anonymous volumes.")
@click.argument("containers", nargs=-1, required=True)
def rm_command(containers: tuple[str, ...], force: bool, volumes: bool) -> None:
    """Remove containers."""
    api = client()

    def remove(name: str) -> None:
        try:
            api.request("DELETE", f"/containers/{segment(name)}", {"force": force, "v": volumes}).read()
        except ApiError as error:
            if not (force and error.status == 404):
                raise
            click.echo(f"Error: {error}", err=True)  # --force: not being there is no failure

    each(containers, remove)


@click.command("rename")
@click.argument("container")
@click.argument("name")
def rename_command(container: str, name: str) -> None:
    """Rename a container."""
    client().post(f"/containers/{segment(container)}/rename", name=name)


@click.command("wait")
@click.argument("containers", nargs=-1, required=True)
def wait_command(containers: tuple[str, ...]) -> None:
    """Wait until containers have ended and print their exit codes."""
    api = client()
    each(
        containers,
        lambda name: click.echo(api.post(f"/containers/{segment(name)}/wait")["StatusCode"]),
        echo=False,
    )


@click.command("inspect")
@click.option("--type", "kind", type=click.Choice(["container", "image", "volume", "network"]), default=None)
@format_option
@click.argument("names", nargs=-1, required=True)
def inspect_command(names: tuple[str, ...], kind: str | None, format: str) -> None:
    """Show everything about containers, images, volumes or networks."""
    found: list[Any] = []
    failed = False
    for name in names:
        view = _find(name, kind)
        if view is None:
            click.echo(f"Error: no such {kind or 'object'}: {name}", err=True)
            failed = True
        elif format and format != "json":
            click.echo(render(format, view))
        else:
            found.append(view)
    if not format or format == "json":
        click.echo(json.dumps(found, indent=None if format else 4, ensure_ascii=False))
    if failed:
        raise click.exceptions.Exit(1)


def _find(name: str, kind: str | None) -> Any:
    paths = {
        "container": "/containers/{}/json",
        "image": "/images/{}/json",
        "volume": "/volumes/{}",
        "network": "/networks/{}",
    }
    for each_kind, path in paths.items():
        if kind in (None, each_kind):
            try:
                return client().get(path.format(segment(name)))
            except ApiError as error:
                if error.status != 404:
                    raise
    return None
