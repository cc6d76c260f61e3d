"""`longshore images`, `pull`, `load`, `save`, `tag`, `rmi`, `history`."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import click

from longshore.cli.client import Client, segment
from longshore.cli.context import client, each, filter_option, format_option
from longshore.cli.output import (
    Progress,
    age_of,
    ellipsis,
    items,
    moment,
    parse_filters,
    short_id,
    show,
)
from longshore.oci.units import human_size

_PIECE = 1 << 20


def split_reference(text: str) -> tuple[str, str]:
    """(name, tag or digest) for `fromImage` and `tag`; latest when neither is given."""
    name, at, digest = text.partition("@")
    if at:
        return name, digest
    colon = text.rfind(":")
    if colon > text.rfind("/"):
        return text[:colon], text[colon + 1 :]
    return text, "latest"


def pull_image(
    api: Client, reference: str, *, platform: str = "", quiet: bool = False, stream: Any = None
) -> None:
    """Pull with progress on `stream`. Raises ApiError or ClickException."""
    name, tag = split_reference(reference)
    query = {"fromImage": name, "tag": tag, "platform": platform}
    headers = registry_login(name)
    progress = Progress(quiet=quiet, stream=stream)
    for message in api.request("POST", "/images/create", query, headers=headers).lines():
        progress.feed(message)


def registry_login(name: str) -> dict[str, str]:
    """The login that `docker login` stored for this image's registry, as a header; {} without one."""
    import base64
    import json

    folder = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
    try:
        logins: Any = json.loads((Path(folder) / "config.json").read_bytes()).get("auths", {})
    except (OSError, ValueError):
        return {}
    first, slash, _ = name.partition("/")
    has_host = slash and ("." in first or ":" in first or first == "localhost")
    key = first if has_host else "https://index.docker.io/v1/"
    login = logins.get(key)
    if not login or not login.get("auth"):
        return {}
    user, _, password = base64.b64decode(login["auth"]).decode().partition(":")
    value = {"username": user, "password": password, "serveraddress": key}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(value).encode()).decode()}


def image_rows(view: Mapping[str, Any], *, truncate: bool) -> list[dict[str, Any]]:
    """The lines of `images` for one image: one per tag."""
    names: list[str] = [tag for tag in items(view, "RepoTags") if tag != "<none>:<none>"]
    by_name: dict[str, str] = {
        text.partition("@")[0]: text.partition("@")[2] for text in items(view, "RepoDigests")
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
            }
        )
    return rows


@click.command("images")
@click.option("-a", "--all", "show_all", is_flag=True, help="Also intermediate ones.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--digests", is_flag=True, help="Also digests.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten.")
@filter_option
@format_option
@click.argument("reference", default="")
def images_command(
    show_all: bool,
    quiet: bool,
    digests: bool,
    no_trunc: bool,
    filters: tuple[str, ...],
    format: str,
    reference: str,
) -> None:
    """List images."""
    wanted = parse_filters(filters) or {}
    if reference:
        wanted["reference"] = [reference]
    views = client().request("GET", "/images/json", {"all": show_all, "filters": wanted or None}).json()
    rows = [row for view in views for row in image_rows(view, truncate=not no_trunc)]
    columns = {"Repository": "REPOSITORY", "Tag": "TAG"}
    if digests:
        columns["Digest"] = "DIGEST"
    columns |= {"ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE"}
    if quiet:
        rows = list({row["ID"]: row for row in rows}.values())
    show(rows, columns, format=format, quiet="ID" if quiet else "")


@click.command("pull")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--platform", default="", help="os/arch[/variant]")
@click.argument("reference")
def pull_command(reference: str, quiet: bool, platform: str) -> None:
    """Pull an image from a registry."""
    pull_image(client(), reference, platform=platform, quiet=quiet)
    name, tag = split_reference(reference)
    click.echo(f"{name}{'@' if ':' in tag else ':'}{tag}")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(_PIECE):
        yield data


@click.command("load")
@click.option(
    "-i", "--input", "source", type=click.File("rb"), default="-", help="File instead of standard input."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def load_command(source: IO[bytes], quiet: bool) -> None:
    """Load images from an archive of `save`."""
    if source.isatty():
        raise click.UsageError("requested load from stdin, but stdin is empty")
    progress = Progress()
    for message in client().request("POST", "/images/load", {"quiet": quiet}, _pieces(source)).lines():
        progress.feed(message)


@click.command("import")
@click.option(
    "-c", "--change", "changes", multiple=True, help='Dockerfile instruction to apply, like CMD ["sh"].'
)
@click.option("-m", "--message", default="", help="Comment of the image.")
@click.option("--platform", default="", help="os/arch[/variant]")
@click.argument("source", type=click.File("rb"))
@click.argument("reference", default="")
def import_command(
    source: IO[bytes], reference: str, changes: tuple[str, ...], message: str, platform: str
) -> None:
    """Make an image from a tar of a root filesystem; `-` reads standard input."""
    repository, tag = split_reference(reference) if reference else ("", "")
    query = {
        "fromSrc": "-",
        "repo": repository,
        "tag": tag,
        "message": message,
        "changes": list(changes),
        "platform": platform,
    }
    progress = Progress()
    for line in client().request("POST", "/images/create", query, _pieces(source)).lines():
        progress.feed(line)


@click.command("save")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default=None, help="File instead of standard output."
)
@click.argument("names", nargs=-1, required=True)
def save_command(names: tuple[str, ...], output: str | None) -> None:
    """Save images to an archive that `load` and docker read."""
    if output is None and sys.stdout.isatty():
        raise click.UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = client().request("GET", "/images/get", {"names": list(names)})
    if output is None:
        for data in response.chunks():
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    temporary = Path(f"{output}.part")
    try:
        with open(temporary, "wb") as file:
            for data in response.chunks():
                file.write(data)
        temporary.replace(output)
    except BaseException:
        temporary.unlink()
        raise


@click.command("tag")
@click.argument("source")
@click.argument("target")
def tag_command(source: str, target: str) -> None:
    """Give an image another name."""
    name, tag = split_reference(target)
    client().post(f"/images/{segment(source)}/tag", repo=name, tag=tag)


@click.command("rmi")
@click.option("-f", "--force", is_flag=True, help="Also tagged several times.")
@click.option("--no-prune", is_flag=True, help="Keep untagged parents.")
@click.argument("names", nargs=-1, required=True)
def rmi_command(names: tuple[str, ...], force: bool, no_prune: bool) -> None:
    """Remove images."""
    api = client()

    def remove(name: str) -> None:
        query = {"force": force, "noprune": no_prune}
        for item in api.request("DELETE", f"/images/{segment(name)}", query).json():
            for what, which in item.items():
                click.echo(f"{what}: {which}")

    each(names, remove, echo=False)


@click.command("history")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten.")
@format_option
@click.argument("name")
def history_command(name: str, quiet: bool, no_trunc: bool, format: str) -> None:
    """Show an image's history."""
    rows: list[dict[str, Any]] = []
    for entry in client().get(f"/images/{segment(name)}/history"):
        by = entry["CreatedBy"].replace("\t", " ")
        rows.append(
            {
                "ID": entry["Id"] if no_trunc else short_id(entry["Id"]),
                "CreatedSince": age_of(entry["Created"]),
                "CreatedBy": by if no_trunc else ellipsis(by, 45),
                "Size": human_size(entry["Size"], digits=3),
                "Comment": entry["Comment"],
            }
        )
    columns = {
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    }
    show(rows, columns, format=format, quiet="ID" if quiet else "")
