"""`longshore images`, `tag`, `rmi`, `history`, `image prune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client, confirmed, each, filter_option, format_option
from longshore.cli.flags import command, flag, many, one, several, text
from longshore.cli.output import age_of, ellipsis, emit, items, moment, parse_filters, short_id, show
from longshore.cli.references import split_reference
from longshore.oci.units import human_size

COLUMNS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "VirtualSize": "VIRTUAL SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}
_HISTORY = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def image_rows(view: Mapping[str, Any], *, truncate: bool) -> list[dict[str, Any]]:
    """The lines of `images` for one image: one per tag."""
    names: list[str] = [tag for tag in items(view, "RepoTags") if tag != "<none>:<none>"]
    by_name: dict[str, str] = {
        text.partition("@")[0]: text.partition("@")[2]
        for text in items(view, "RepoDigests")
        if text != "<none>@<none>"
    }
    rows: list[dict[str, Any]] = []
    for name in names or ["<none>:<none>"]:
        repository, tag = name.rsplit(":", 1)
        if name == "<none>:<none>" and by_name:
            repository = next(iter(by_name))
        rows.append(
            {
                "Repository": repository,
                "Tag": tag,
                "Digest": by_name.get(repository, "<none>"),
                "ID": short_id(view["Id"]) if truncate else view["Id"],
                "CreatedSince": age_of(view["Created"]),
                "CreatedAt": moment(view["Created"]),
                "Size": human_size(view["Size"], digits=3),
                "VirtualSize": human_size(view["Size"]),
                "Containers": _known(view.get("Containers", -1)),
                "SharedSize": _known_size(view.get("SharedSize", -1)),
                "UniqueSize": "N/A"
                if view.get("SharedSize", -1) < 0
                else human_size(view["Size"] - view["SharedSize"]),
            }
        )
    return rows


def _known(count: int) -> str:
    return "N/A" if count < 0 else str(count)


def _known_size(size: int) -> str:
    return "N/A" if size < 0 else human_size(size)


@command("images")
@flag("-a", "--all", help="Also intermediate ones.")
@flag("--digests", help="Also digests.")
@filter_option
@format_option
@flag("--no-trunc", help="Do not shorten.")
@flag("-q", "--quiet", help="Only ids.")
@one("reference", "[REPOSITORY[:TAG]]", required=False, complete=completers.images)
def ls_command(
    all: bool,
    digests: bool,
    filters: tuple[str, ...],
    format: str,
    no_trunc: bool,
    quiet: bool,
    reference: str,
) -> None:
    """List images."""
    wanted = parse_filters(filters) or {}
    if reference:
        wanted.setdefault("reference", []).append(reference)
    views = client().request("GET", "/images/json", {"all": all, "filters": wanted or None}).json()
    rows = [row for view in views for row in image_rows(view, truncate=not no_trunc)]
    fields = f"Repository Tag {'Digest ' if digests else ''}ID CreatedSince Size"
    show(rows, COLUMNS, format=format, quiet="ID" if quiet else "", default=fields)


@command("tag")
@one("source", "SOURCE_IMAGE[:TAG]", complete=completers.images)
@one("target", "TARGET_IMAGE[:TAG]")
def tag_command(source: str, target: str) -> None:
    """Give an image another name."""
    name, tag = split_reference(target)
    client().post(f"/images/{segment(source)}/tag", repo=name, tag=tag)


@command("rmi")
@flag("-f", "--force", help="Also tagged several times, or used by stopped containers.")
@flag("--no-prune", help="Keep untagged parents.")
@many("--platform", help="Only these platforms of an image that has several.", metavar="strings")
@several("names", "IMAGE", complete=completers.images)
def rm_command(names: tuple[str, ...], force: bool, no_prune: bool, platform: tuple[str, ...]) -> None:
    """Remove images."""
    api = client()

    def remove(name: str) -> None:
        query = {"force": force, "noprune": no_prune, "platforms": list(platform)}
        for item in api.request("DELETE", f"/images/{segment(name)}", query).json():
            for what, which in item.items():
                emit(f"{what}: {which}")

    each(names, remove, echo=False)


@command("prune")
@flag("-a", "--all", help="All unused ones, not only those without a name.")
@many("--filter", "filters", help="Only what matches: until=24h, label=name=value.", metavar="filter")
@flag("-f", "--force", help="Do not ask.")
def prune_command(all: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove unused images."""
    wanted = parse_filters(filters) or {}
    wanted["dangling"] = ["false" if all else "true"]
    what = "all images without at least one container associated to them" if all else "all dangling images"
    if not confirmed(f"This will remove {what}.", force=force):
        return
    done = client().request("POST", "/images/prune", {"filters": wanted}).json()
    if removed := items(done, "ImagesDeleted"):
        emit("Deleted Images:")
        for item in removed:
            for key, word in (("Untagged", "untagged"), ("Deleted", "deleted")):
                if item.get(key):
                    emit(f"{word}: {item[key]}")
        emit("")
    emit(f"Total reclaimed space: {human_size(done['SpaceReclaimed'])}")


@command("history")
@format_option
@flag("-H", "--human", help="Sizes and dates for people.", default=True)
@flag("--no-trunc", help="Do not shorten.")
@text("--platform", help="os/arch[/variant] of an image that has several.")
@flag("-q", "--quiet", help="Only ids.")
@one("name", "IMAGE", complete=completers.images)
def history_command(name: str, format: str, human: bool, no_trunc: bool, platform: str, quiet: bool) -> None:
    """Show how an image was made."""
    rows: list[dict[str, Any]] = []
    for entry in client().request("GET", f"/images/{segment(name)}/history", {"platform": platform}).json():
        by = entry["CreatedBy"].replace("\t", " ")
        created = _rfc3339(entry["Created"])
        rows.append(
            {
                "ID": entry["Id"] if no_trunc else short_id(entry["Id"]),
                "CreatedSince": age_of(entry["Created"]) if human else created,
                "CreatedAt": created,
                "CreatedBy": by if no_trunc else ellipsis(by, 45),
                "Size": human_size(entry["Size"], digits=3) if human else str(entry["Size"]),
                "Comment": entry["Comment"],
            }
        )
    fields = "ID CreatedSince CreatedBy Size Comment"
    columns = _HISTORY if human else _HISTORY | {"CreatedSince": "CREATED AT"}
    show(rows, columns, format=format, quiet="ID" if quiet else "", default=fields)


def _rfc3339(created: int) -> str:
    import time

    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created))
    return f"{text[:-2]}:{text[-2:]}" if not text.endswith("+0000") else f"{text[:-5]}Z"
