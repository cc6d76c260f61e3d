"""`longshore cp`: files into a container and out of it, by the rules of docker's `cp`.

https://docs.docker.com/reference/cli/docker/container/cp/: a folder is copied as a whole, its contents when the path
ends in `/.`; what the target's name becomes depends on what is there.
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from longshore.cli import completers
from longshore.cli.archives import pieces
from longshore.cli.client import Client, segment
from longshore.cli.context import ApiError, client
from longshore.cli.flags import command, flag, one
from longshore.cli.progress import counted
from longshore.cli.tar_pipe import tar_stream
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.units import human_size

_GO_DIR, _GO_LINK = 1 << 31, 1 << 27  # Go's os.FileMode, which the API speaks


def split_argument(text: str) -> tuple[str, str]:
    """(container, path); no container for a path of this machine. Pure."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith(".") or not container:
        return "", text
    return container, path


def contents_only(path: str) -> bool:
    """Whether a path means what is in the folder, not the folder. Pure."""
    return path.endswith("/.") or path in (".", "/")


def target_name(source: str, *, is_folder: bool, target: str, found: str) -> tuple[str, str]:
    """(folder to copy into, the name there), the name "" when the contents go straight into the folder. Pure.

    `found` says what is at the target: "folder", "file" or "" for nothing. Raises InvalidArgument.
    """
    folder, name = posixpath.split(target.rstrip("/") or "/")
    if found == "folder":
        base = posixpath.basename(source.rstrip("/"))
        return target, "" if contents_only(source) else base
    if is_folder and found == "file":
        raise InvalidArgument(f"cannot copy directory {source}", detail=f"{target} is a file")
    if not is_folder and target.endswith("/"):
        why = "it is not a directory" if found else "no such directory"
        raise InvalidArgument(f"cannot copy to {target}", detail=why)
    if name == ".":
        raise InvalidArgument(f"cannot copy to {target}", detail="no such directory")
    return folder or ".", name


@command("cp")
@flag("-a", "--archive", help="Keep user and group of the files.")
@flag("-L", "--follow-link", help="Copy what a symbolic link SRC_PATH leads to.")
@flag("-q", "--quiet", help="Say nothing; so without a terminal.")
@one("source", "[CONTAINER:]SRC_PATH|-", complete=completers.container_paths)
@one("target", "[CONTAINER:]DEST_PATH|-", complete=completers.container_paths)
def cp_command(source: str, target: str, archive: bool, follow_link: bool, quiet: bool) -> None:
    """Copy files between a container and this machine; - is a tar on standard input or output."""
    from_container, source_path = split_argument(source)
    to_container, target_path = split_argument(target)
    if from_container and to_container:
        raise click.UsageError("copying between containers is not supported: copy through this machine")
    if not from_container and not to_container:
        raise click.UsageError("must specify at least one container source: CONTAINER:PATH")
    if not source_path or not target_path:
        raise click.UsageError("the path is missing: write CONTAINER:PATH")
    quiet = quiet or not sys.stderr.isatty()
    job = Copy(client(), from_container or to_container, archive=archive, follow=follow_link, quiet=quiet)
    size = job.out(source_path, target_path) if from_container else job.into(source_path, target_path)
    if not quiet and target != "-":
        click.echo(f"Successfully copied {human_size(size)} to {target}", err=True)


class Copy:
    """One copy between this machine and one container. Both ways return the bytes that were transferred."""

    def __init__(self, api: Client, container: str, *, archive: bool, follow: bool, quiet: bool) -> None:
        self._api, self._path = api, f"/containers/{segment(container)}/archive"
        self._archive, self._follow, self._quiet = archive, follow, quiet

    def _stat(self, path: str) -> dict[str, Any] | None:
        """What the daemon says of a path inside; None for nothing there."""
        try:
            reply = self._api.request("HEAD", self._path, {"path": path})
        except ApiError as error:
            if error.status != 404 or "container" in str(error).lower():
                raise
            return None
        reply.read()
        return json.loads(base64.b64decode(reply.headers["x-docker-container-path-stat"]))

    def _resolved(self, path: str) -> tuple[str, dict[str, Any] | None]:
        """The path behind a symbolic link, and what is there."""
        found = self._stat(path)
        if found and found["mode"] & _GO_LINK:
            path = posixpath.join(posixpath.dirname(path.rstrip("/")), found["linkTarget"])
            found = self._stat(path)
        return path, found

    def out(self, source: str, target: str) -> int:
        """From the container to this machine."""
        path = source
        if self._follow:
            path, _ = self._resolved(source)
        reply = self._api.request("GET", self._path, {"path": path})
        status = json.loads(base64.b64decode(reply.headers["x-docker-container-path-stat"]))
        counter = _Counter(counted(reply.chunks(), "copied", quiet=self._quiet))
        if target == "-":
            if sys.stdout.isatty():
                raise click.UsageError("refusing to write a tar to a terminal: redirect the output")
            for data in counter:
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return counter.total
        from longshore.cli.unpack import unpack

        is_folder = bool(status["mode"] & _GO_DIR)
        found = "folder" if Path(target).is_dir() else "file" if os.path.lexists(target) else ""
        folder, name = target_name(source, is_folder=is_folder, target=target, found=found)
        if not Path(folder).is_dir():
            raise NotFound(f"cannot copy to {target}", detail=f"no such directory: {folder}")
        unpack(counter, Path(folder), name, keep_owner=self._archive)
        return counter.total

    def into(self, source: str, target: str) -> int:
        """From this machine to the container."""
        path, there = self._resolved(target)
        if source == "-":
            if not there or not there["mode"] & _GO_DIR:
                raise InvalidArgument(f"destination {target!r} must be a directory")
            return self._put(path, pieces(sys.stdin.buffer))
        try:
            is_folder = Path(source).is_dir() and (
                self._follow or source.endswith(("/", "/.")) or not Path(source).is_symlink()
            )
            if not os.path.lexists(source):
                raise FileNotFoundError
        except OSError as cause:
            raise NotFound(f"no such file or directory: {source}") from cause
        if not is_folder and source.endswith(("/", "/.")):
            raise InvalidArgument(f"{source} is not a directory")
        found = "" if there is None else "folder" if there["mode"] & _GO_DIR else "file"
        local = str(Path(source).resolve()) if source in (".", "..") else source
        folder, name = target_name(
            source if source == "." else local, is_folder=is_folder, target=path, found=found
        )

        def write(tar: tarfile.TarFile) -> None:
            tar.dereference = False
            _add(tar, Path(local), name, follow=self._follow)

        return self._put(folder, tar_stream(write, source))

    def _put(self, path: str, body: Iterator[bytes]) -> int:
        counter = _Counter(counted(body, "copied", quiet=self._quiet))
        query = {"path": path, "noOverwriteDirNonDir": True, "copyUIDGID": self._archive}
        self._api.request("PUT", self._path, query, counter, {"Content-Type": "application/x-tar"}).read()
        return counter.total


class _Counter:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.total = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.total += len(piece)
            yield piece


def _add(tar: tarfile.TarFile, path: Path, name: str, *, follow: bool) -> None:
    """A file or a whole folder under another name; "" puts a folder's contents at the top."""
    if follow and path.is_symlink():
        path = path.resolve()
    if name:
        info = tar.gettarinfo(path, name)
        if info.isreg():
            with path.open("rb") as stream:
                tar.addfile(info, stream)
        else:
            tar.addfile(info)
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            if not entry.is_socket():
                _add(tar, entry, posixpath.join(name, entry.name), follow=False)
