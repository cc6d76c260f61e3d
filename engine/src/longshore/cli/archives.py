"""Archives in and out: `longshore load`, `save`, `import`, and how any archive is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import click

from longshore.cli import completers
from longshore.cli.client import Response
from longshore.cli.context import client
from longshore.cli.flags import command, flag, many, one, several, text
from longshore.cli.progress import Progress, counted
from longshore.cli.references import split_reference
from longshore.errors import InvalidArgument

_PIECE = 1 << 20


@contextmanager
def opened(path: str) -> Generator[IO[bytes]]:
    """A file to read, - is standard input. Raises InvalidArgument."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as stream:
            yield stream
    except (FileNotFoundError, IsADirectoryError, PermissionError) as cause:
        raise InvalidArgument(f"cannot read {path}", detail=cause.strerror or "") from cause


def pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while data := cast("Any", stream).read1(_PIECE):
        yield data


def write_archive(ask: Callable[[], Response], output: str, what: str) -> None:
    """Write a reply's body to a file, whole or not at all, or to standard output. Raises UsageError for a terminal."""
    if not output:
        if sys.stdout.isatty():
            raise click.UsageError("cowardly refusing to save to a terminal: use -o, or redirect the output")
        for data in counted(ask().chunks(), what):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    target = Path(output)
    if target.is_dir() or not target.parent.is_dir():
        why = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise InvalidArgument(f"cannot write {output}", detail=why)
    if target.exists() and not target.is_file():  # a pipe or a device: nothing to rename
        with target.open("wb") as stream:
            stream.writelines(ask().chunks())
        return
    response = ask()
    partial = Path(f"{output}.part")
    try:
        with partial.open("wb") as stream:
            for data in counted(response.chunks(), what):
                stream.write(data)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@command("load")
@text("-i", "--input", "source", help="File instead of standard input.", default="-")
@text("--platform", help="os/arch[/variant] of an image that has several.")
@flag("-q", "--quiet", help="No progress.")
def load_command(source: str, platform: str, quiet: bool) -> None:
    """Load images from an archive of `save`."""
    if source == "-" and sys.stdin.isatty():
        raise click.UsageError("requested load from stdin, but stdin is empty")
    progress = Progress()
    query = {"quiet": quiet or not sys.stdout.isatty(), "platform": platform}
    headers = {"Content-Type": "application/x-tar"}
    with opened(source) as stream:
        body = counted(pieces(stream), "sent", quiet=quiet)
        for message in client().request("POST", "/images/load", query, body, headers).lines():
            progress.feed(message)


@command("save")
@text("-o", "--output", help="File instead of standard output.")
@text("--platform", help="os/arch[/variant] of images that have several.")
@several("names", "IMAGE", complete=completers.images)
def save_command(names: tuple[str, ...], output: str, platform: str) -> None:
    """Save images to an archive that `load` and docker read."""
    query = {"names": list(names), "platform": platform}
    write_archive(lambda: client().request("GET", "/images/get", query), output, "saved")


@command("import")
@many("-c", "--change", "changes", help='Dockerfile instruction to apply, like CMD ["sh"].')
@text("-m", "--message", help="Comment of the image.")
@text("--platform", help="os/arch[/variant] of the image.")
@one("source", "file|URL|-")
@one("reference", "[REPOSITORY[:TAG]]", required=False)
def import_command(
    source: str, reference: str, changes: tuple[str, ...], message: str, platform: str
) -> None:
    """Make an image from a tar of a root filesystem: a file, - for standard input, or a URL that the engine reads."""
    repository, tag = split_reference(reference) if reference else ("", "")
    remote = source.startswith(("http://", "https://"))
    query = {
        "fromSrc": source if remote else "-",
        "repo": repository,
        "tag": tag,
        "message": message,
        "changes": list(changes),
        "platform": platform,
    }
    progress = Progress()
    if remote:
        for line in client().request("POST", "/images/create", query).lines():
            progress.feed(line)
        return
    with opened(source) as stream:
        body = counted(pieces(stream), "sent")
        for line in client().request("POST", "/images/create", query, body).lines():
            progress.feed(line)
