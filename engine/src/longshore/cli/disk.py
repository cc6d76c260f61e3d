"""`longshore system df` and `system prune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from longshore.cli.context import client, confirmed, format_option
from longshore.cli.flags import command, flag, many
from longshore.cli.images import image_rows
from longshore.cli.listing import container_row
from longshore.cli.output import age_of, emit, items, parse_filters, short_id, show, table
from longshore.cli.volumes import volume_row
from longshore.oci.units import human_size

_COLUMNS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_ACTIVE = ("running", "paused", "restarting")


def _row(kind: str, total: int, active: int, size: int, free: int, *, share: bool = True) -> dict[str, Any]:
    text = human_size(free)
    if share and size > 0:
        text += f" ({free * 100 // size}%)"
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": text,
    }


def usage_rows(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The four lines of `system df` from the reply of /system/df. Pure."""
    images, containers = items(value, "Images"), items(value, "Containers")
    volumes, caches = items(value, "Volumes"), items(value, "BuildCache")
    layers = value.get("LayersSize", 0)
    in_use = [image for image in images if image.get("Containers", 0) != 0]
    used = sum(image["Size"] - image["SharedSize"] for image in in_use if image.get("SharedSize", -1) >= 0)
    idle = [each for each in containers if each["State"] not in _ACTIVE]
    sizes = [(usage["Size"], usage["RefCount"]) for each in volumes if (usage := each.get("UsageData"))]
    return [
        _row("Images", len(images), sum(each["Containers"] > 0 for each in in_use), layers, layers - used),
        _row(
            "Containers",
            len(containers),
            len(containers) - len(idle),
            sum(each.get("SizeRw", 0) for each in containers),
            sum(each.get("SizeRw", 0) for each in idle),
        ),
        _row(
            "Local Volumes",
            len(volumes),
            sum(count > 0 for _, count in sizes),
            sum(max(0, size) for size, _ in sizes),
            sum(max(0, size) for size, count in sizes if count == 0),
        ),
        _row(
            "Build Cache",
            len(caches),
            sum(each["InUse"] for each in caches),
            sum(each["Size"] for each in caches),
            sum(each["Size"] for each in caches if not each["InUse"] and not each["Shared"]),
            share=False,
        ),
    ]


@command("df")
@format_option
@flag(
    "-v",
    "--verbose",
    help="Every image, container, volume and cache, and where every byte of the data root is.",
)
def df_command(format: str, verbose: bool) -> None:
    """Show how much disk is used."""
    value = client().get("/system/df")
    if not verbose:
        show(usage_rows(value), _COLUMNS, format=format)
    elif format:
        _verbose_formatted(value, format)
    else:
        _verbose_tables(value)


def _verbose_rows(value: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        "Images": [row for view in items(value, "Images") for row in image_rows(view, truncate=True)],
        "Containers": [
            container_row(
                {**view, "SizeRootFs": 0}, truncate=True
            )  # what the image has is not the container's
            for view in items(value, "Containers")
        ],
        "Volumes": [volume_row(view) for view in items(value, "Volumes")],
        "BuildCache": [_cache_row(view) for view in items(value, "BuildCache")],
    }


def _cache_row(view: Mapping[str, Any]) -> dict[str, Any]:
    used = view.get("LastUsedAt") or ""
    return {
        "ID": short_id(view["ID"]),
        "CacheType": view["Type"],
        "Size": human_size(view["Size"]),
        "CreatedSince": age_of(view["CreatedAt"]),
        "LastUsedSince": age_of(used) if used else "",
        "UsageCount": str(view["UsageCount"]),
        "Shared": "true" if view["Shared"] else "false",
        "InUse": "true" if view["InUse"] else "false",
    }


def _verbose_formatted(value: Mapping[str, Any], format: str) -> None:
    from longshore.cli.output import json_row, show_object

    rows = _verbose_rows(value)
    if format == "json":
        body = ",".join(f'"{name}":[{",".join(map(json_row, found))}]' for name, found in rows.items())
        emit(f"{{{body}}}")
    else:
        show_object(rows, format)


def _verbose_tables(value: Mapping[str, Any]) -> None:
    rows = _verbose_rows(value)
    cached = human_size(sum(each["Size"] for each in items(value, "BuildCache")))
    parts: tuple[tuple[str, str, Mapping[str, str]], ...] = (
        ("Images space usage:", "Images", {
            "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE",
            "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE", "Containers": "CONTAINERS"}),
        ("Containers space usage:", "Containers", {
            "ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "LocalVolumes": "LOCAL VOLUMES",
            "Size": "SIZE", "RunningFor": "CREATED", "Status": "STATUS", "Names": "NAMES"}),
        ("Local Volumes space usage:", "Volumes", {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}),
        (f"Build cache usage: {cached}", "BuildCache", {
            "ID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED",
            "LastUsedSince": "LAST USED", "UsageCount": "USAGE", "Shared": "SHARED"}),
    )  # fmt: skip
    for index, (title, kind, columns) in enumerate(parts):
        emit(("\n" if index else "") + f"{title}\n")
        table(list(columns.values()), [[row[name] for name in columns] for row in rows[kind]])
    emit("\nEvery byte on the disk:\n")
    shares = client().get("/longshore/v1/system/df")
    table(
        ["WHAT", "PATH", "FILES", "SIZE", "FREED BY"],
        [
            [each["what"], each["path"], str(each["count"]), human_size(each["size"]), each["free_by"]]
            for each in shares
        ],
    )


@command("prune")
@flag("-a", "--all", help="All unused images, not only those without a name.")
@many("--filter", "filters", help="Only what matches: label=name=value, until=24h.", metavar="filter")
@flag("-f", "--force", help="Do not ask.")
@flag("--volumes", help="Also anonymous volumes.")
def prune_command(all: bool, filters: tuple[str, ...], force: bool, volumes: bool) -> None:
    """Remove stopped containers, networks, images and build cache that are not used."""
    wanted = parse_filters(filters) or {}
    if volumes and "until" in wanted:
        raise click.UsageError('the "until" filter is not supported with "--volumes"')
    what = _what_goes(all=all, volumes=volumes, filters=filters)
    if not confirmed(f"This will remove:\n{what}", force=force):
        return
    freed = 0
    freed += _pruned("/containers/prune", wanted, "ContainersDeleted", "Deleted Containers:")
    freed += _pruned("/networks/prune", wanted, "NetworksDeleted", "Deleted Networks:")
    if volumes:
        freed += _pruned("/volumes/prune", wanted, "VolumesDeleted", "Deleted Volumes:")
    freed += _pruned(
        "/images/prune",
        {**wanted, "dangling": ["false" if all else "true"]},
        "ImagesDeleted",
        "Deleted Images:",
    )
    freed += _pruned("/build/prune", {}, "CachesDeleted", "Deleted build cache objects:", all=all)
    emit(f"Total reclaimed space: {human_size(freed)}")


def _what_goes(*, all: bool, volumes: bool, filters: Sequence[str]) -> str:
    lines = ["all stopped containers", "all networks not used by at least one container"]
    lines += ["all anonymous volumes not used by at least one container"] if volumes else []
    lines += [
        "all images without at least one container associated to them" if all else "all dangling images"
    ]
    lines += ["all build cache" if all else "unused build cache"]
    text = "".join(f"  - {line}\n" for line in lines)
    if filters:
        text += "\n  Items to be pruned will be filtered with:\n" + "".join(
            f"  - {each}\n" for each in filters
        )
    return text


def _pruned(path: str, filters: Mapping[str, list[str]], key: str, title: str, **query: Any) -> int:
    """Prune one kind, print what went; the bytes it gave back."""
    done: dict[str, Any] = client().request("POST", path, {"filters": dict(filters) or None, **query}).json()
    if names := items(done, key):
        emit(title)
        for name in names:
            if isinstance(name, str):
                emit(name)
            else:
                for word in ("Untagged", "Deleted"):
                    if name.get(word):
                        emit(f"{word.lower()}: {name[word]}")
        emit("")
    return int(done.get("SpaceReclaimed") or 0)
