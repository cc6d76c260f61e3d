"""`longshore volume …`."""

from __future__ import annotations

from typing import Any

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import ApiError, client, confirmed, each, filter_option, format_option
from longshore.cli.environment import labels, pairs
from longshore.cli.flags import command, flag, many, one, several, text
from longshore.cli.output import emit, items, joined_labels, label_method, parse_filters, show
from longshore.oci.units import human_size

COLUMNS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}


def volume_row(view: dict[str, Any]) -> dict[str, Any]:
    """One line of `volume ls`. Links and sizes are known to `system df` only."""
    usage = view.get("UsageData")
    return {
        "Driver": view["Driver"],
        "Name": view["Name"],
        "Scope": view["Scope"],
        "Mountpoint": view["Mountpoint"],
        "Labels": joined_labels(view.get("Labels")),
        "Label": label_method(view.get("Labels")),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": human_size(max(0, usage["Size"])) if usage else "N/A",
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    }


@command("create")
@text("-d", "--driver", help="Driver of the volume.", default="local")
@many("--label", help="NAME=VALUE to find it by.")
@many("-o", "--opt", help="NAME=VALUE for the driver.", metavar="map")
@one("name", "[VOLUME]", required=False)
def create_command(name: str, driver: str, label: tuple[str, ...], opt: tuple[str, ...]) -> None:
    """Create a volume; without a name it gets a random one."""
    body = {"Name": name, "Driver": driver, "DriverOpts": pairs(opt, "--opt"), "Labels": labels(label)}
    emit(client().post("/volumes/create", body)["Name"])


@command("ls")
@filter_option
@format_option
@flag("-q", "--quiet", help="Only names.")
def ls_command(filters: tuple[str, ...], format: str, quiet: bool) -> None:
    """List volumes."""
    found = client().request("GET", "/volumes", {"filters": parse_filters(filters)}).json()
    rows = [volume_row(view) for view in sorted(items(found, "Volumes"), key=lambda view: view["Name"])]
    show(rows, COLUMNS, format=format, quiet="Name" if quiet else "", default="Driver Name")


@command("rm")
@flag("-f", "--force", help="Not being there is no failure.")
@several("names", "VOLUME", complete=completers.volumes)
def rm_command(names: tuple[str, ...], force: bool) -> None:
    """Remove volumes."""
    api = client()

    def remove(name: str) -> None:
        try:
            api.request("DELETE", f"/volumes/{segment(name)}", {"force": force}).read()
        except ApiError as error:
            if not (force and error.status == 404):
                raise

    each(names, remove)


@command("prune")
@flag("-a", "--all", help="Also those that have a name.")
@many("--filter", "filters", help="Only what matches: label=name=value.", metavar="filter")
@flag("-f", "--force", help="Do not ask.")
def prune_command(all: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove volumes that no container uses."""
    wanted = parse_filters(filters) or {}
    if all:
        wanted["all"] = ["true"]
    what = "all volumes" if all else "anonymous volumes"
    if not confirmed(f"This will remove {what} not used by at least one container.", force=force):
        return
    done = client().request("POST", "/volumes/prune", {"filters": wanted or None}).json()
    if names := items(done, "VolumesDeleted"):
        emit("\n".join(["Deleted Volumes:", *names, ""]))
    emit(f"Total reclaimed space: {human_size(done['SpaceReclaimed'])}")
