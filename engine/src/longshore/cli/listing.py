"""`longshore ps`: the list of containers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from longshore.cli.context import client, filter_option, format_option
from longshore.cli.flags import command, flag, number
from longshore.cli.output import (
    age_of,
    ellipsis,
    items,
    joined_labels,
    label_method,
    moment,
    parse_filters,
    short_id,
    show,
)
from longshore.oci.units import human_size

COLUMNS = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
}
TABLE = "ID Image Command RunningFor Status Ports Names"


def port_text(ports: list[dict[str, Any]]) -> str:
    """ "0.0.0.0:8080->80/tcp, 443/tcp"; neighbours published on the same numbers are one range, as docker writes them."""
    ranges: dict[tuple[str, str], list[list[int]]] = {}
    others: list[str] = []
    for port in sorted(ports, key=_port_order):
        inside, address, kind = port["PrivatePort"], port.get("IP") or "", port["Type"]
        if address and port.get("PublicPort", 0) != inside:
            others.append(f"{_bracketed(address)}:{port.get('PublicPort', 0)}->{inside}/{kind}")
            continue
        runs = ranges.setdefault((address, kind), [])
        if runs and runs[-1][1] + 1 == inside:
            runs[-1][1] = inside
        else:
            runs.append([inside, inside])
    # Runs that another one of their kind followed stand first: docker prints them as it meets the next.
    finished = [_run_text(key, run) for key, runs in ranges.items() for run in runs[:-1]]
    return ", ".join([*finished, *(_run_text(key, runs[-1]) for key, runs in ranges.items()), *others])


def _port_order(port: Mapping[str, Any]) -> tuple[int, str, int, str]:
    return port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port["Type"]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _run_text(key: tuple[str, str], run: list[int]) -> str:
    address, kind = key
    numbers = str(run[0]) if run[0] == run[1] else f"{run[0]}-{run[1]}"
    return f"{_bracketed(address)}:{numbers}->{numbers}/{kind}" if address else f"{numbers}/{kind}"


def container_row(view: Mapping[str, Any], *, truncate: bool) -> dict[str, Any]:
    """One line of `ps`, with the field names that docker's templates know."""
    command, labels, image = view["Command"], view.get("Labels"), view["Image"]
    if truncate and short_id(image) == short_id(view.get("ImageID", "")):
        image = short_id(image)  # its tag has gone to another image
    mounts = [str(mount.get("Name") or mount.get("Source") or "") for mount in items(view, "Mounts")]
    networks: dict[str, Any] = (view.get("NetworkSettings") or {"Networks": None})["Networks"] or {}
    names = [name.removeprefix("/") for name in view["Names"]]
    size, virtual = view.get("SizeRw", 0), view.get("SizeRootFs", 0)
    return {
        "ID": view["Id"][:12] if truncate else view["Id"],
        "Names": ",".join(name for name in names if not truncate or "/" not in name),
        "Image": image or "<no image>",
        "Command": json.dumps(ellipsis(command, 20) if truncate else command, ensure_ascii=False),
        "CreatedAt": moment(view["Created"]),
        "RunningFor": age_of(view["Created"]),
        "Ports": port_text(items(view, "Ports")),
        "State": view["State"],
        "Status": view["Status"],
        "Size": human_size(size, digits=3)
        + (f" (virtual {human_size(virtual, digits=3)})" if virtual else ""),
        "Labels": joined_labels(labels),
        "Label": label_method(labels),
        "Mounts": ",".join(ellipsis(name, 15) if truncate else name for name in mounts),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in items(view, "Mounts"))),
        "Networks": ",".join(sorted(networks)),
    }


@command("ps")
@flag("-a", "--all", help="Also those that do not run.")
@filter_option
@format_option
@number("-n", "--last", help="The last N created ones, whatever their state.", default=-1)
@flag("-l", "--latest", help="The last created one, whatever its state.")
@flag("--no-trunc", help="Do not shorten.")
@flag("-q", "--quiet", help="Only ids.")
@flag("-s", "--size", help="Also sizes.")
def ls_command(
    all: bool,
    filters: tuple[str, ...],
    format: str,
    last: int,
    latest: bool,
    no_trunc: bool,
    quiet: bool,
    size: bool,
) -> None:
    """List containers."""
    limit = 1 if latest and last == -1 else last
    query = {
        "all": all,
        "limit": limit if limit > 0 else None,
        "filters": parse_filters(filters),
        "size": size or (any(name in format for name in (".Size", "json .")) and not quiet),
    }
    views = client().request("GET", "/containers/json", query).json()
    if quiet:
        rows = [{"ID": view["Id"] if no_trunc else view["Id"][:12]} for view in views]
    else:
        rows = [container_row(view, truncate=not no_trunc) for view in views]
    show(
        rows, COLUMNS, format=format, quiet="ID" if quiet else "", default=f"{TABLE} Size" if size else TABLE
    )
