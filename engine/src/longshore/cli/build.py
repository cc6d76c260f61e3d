"""`longshore build`: sends the build context as a tar and shows what the builder says."""

import io
import os
import re
import stat
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from longshore.cli.context import client
from longshore.cli.options import labels
from longshore.cli.output import Progress

_PIECE = 1 << 20


class Ignore:
    """.dockerignore: patterns in order, the last one that matches decides, `!` takes back.

    Go's filepath.Match with `**` (https://docs.docker.com/build/concepts/context/#dockerignore-files).
    """

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in text.splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            keep = line.startswith("!")
            pattern = os.path.normpath(line.removeprefix("!").strip().lstrip("/") or ".")
            if pattern != ".":
                self._rules.append((keep, re.compile(_glob(pattern))))
        self._takes_back = any(keep for keep, _ in self._rules)

    def excludes(self, path: str) -> bool:
        """Whether this path (relative, with /) or a directory above it is left out."""
        parts = path.split("/")
        out = False
        for keep, pattern in self._rules:
            if any(pattern.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1)):
                out = not keep
        return out

    def prunes(self, directory: str) -> bool:
        """Whether nothing below can come back, so that it need not be walked."""
        return not self._takes_back and self.excludes(directory)


def _glob(pattern: str) -> str:
    out, position = "", 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            out += "(?:.*/)?"
            position += 3
        elif pattern.startswith("**", position):
            out += ".*"
            position += 2
        elif pattern[position] == "*":
            out += "[^/]*"
            position += 1
        elif pattern[position] == "?":
            out += "[^/]"
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            out += pattern[position : end + 1].replace("[!", "[^", 1)
            position = end + 1
        elif pattern[position] == "\\" and position + 1 < len(pattern):
            out += re.escape(pattern[position + 1])
            position += 2
        else:
            out += re.escape(pattern[position])
            position += 1
    return out


def context_paths(root: Path, ignore: Ignore, always: set[str]) -> Iterator[str]:
    """Relative paths of the context in a fixed order, directories before their contents."""

    def walk(prefix: str) -> Iterator[str]:
        for entry in sorted(os.scandir(root / prefix), key=lambda item: item.name):
            path = f"{prefix}{entry.name}"
            excluded = ignore.excludes(path) and path not in always
            if not excluded:
                yield path
            if entry.is_dir(follow_symlinks=False) and not ignore.prunes(path):
                yield from walk(f"{path}/")

    return walk("")


def tar_stream(root: Path, dockerfile: Path | None, name: str) -> Iterator[bytes]:
    """The context as a tar; `dockerfile` is one outside of the context, sent as `name`. Raises OSError.

    A thread writes into a pipe and we read from it, so that a large file never lies in memory.
    """
    ignore_file = root / ".dockerignore"
    ignore = Ignore(ignore_file.read_text() if ignore_file.is_file() else "")
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with open(writing, "wb") as pipe:
                _write_tar(pipe, root, context_paths(root, ignore, {name, ".dockerignore"}), dockerfile, name)
        except BrokenPipeError:
            pass  # the daemon refused early; its answer tells why
        except (OSError, tarfile.TarError) as error:
            failures.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    with open(reading, "rb", buffering=0) as pipe:
        while data := pipe.read(_PIECE):
            yield data
    thread.join()
    if failures:
        raise click.ClickException(f"cannot read the build context: {failures[0]}")


def _write_tar(pipe: IO[bytes], root: Path, paths: Iterable[str], dockerfile: Path | None, name: str) -> None:
    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 16) as tar:
        for path in paths:
            mode = (root / path).lstat().st_mode
            if stat.S_ISSOCK(mode):
                continue
            info = tar.gettarinfo(root / path, path)
            info.uid = info.gid = 0  # as docker: who built it is nobody's business
            info.uname = info.gname = ""
            if info.isreg():
                with open(root / path, "rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
        if dockerfile is not None:
            data = dockerfile.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _stdin_context() -> Iterator[bytes]:
    while data := sys.stdin.buffer.read(_PIECE):
        yield data


@click.command("build")
@click.option("-t", "--tag", "tags", multiple=True, help="Name of the image; may be repeated.")
@click.option("-f", "--file", "dockerfile", default="", help="Dockerfile, DIR/Dockerfile otherwise.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME=VALUE")
@click.option("--label", "label_texts", multiple=True, metavar="NAME=VALUE")
@click.option("--no-cache", is_flag=True)
@click.option("--pull", is_flag=True, help="Ask the registry for newer base images.")
@click.option("--target", default="", help="Stage to build.")
@click.option("--network", default="", help="Network of RUN steps.")
@click.option("--platform", default="")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's id only.")
@click.option("--rm/--no-rm", default=True)
@click.option("--force-rm", is_flag=True)
@click.argument("directory")
def build_command(directory: str, dockerfile: str, **given: Any) -> None:
    """Build an image from a Dockerfile and the files of a DIRECTORY (- reads a tar from standard input)."""
    name, outside, context = _context(directory, dockerfile)
    query: dict[str, Any] = {
        "t": list(given["tags"]),
        "dockerfile": name,
        "buildargs": _build_args(given["build_args"]),
        "labels": labels(given["label_texts"]) or None,
        "nocache": given["no_cache"],
        "pull": given["pull"],
        "target": given["target"],
        "networkmode": given["network"],
        "platform": given["platform"],
        "rm": given["rm"],
        "forcerm": given["force_rm"],
        "q": given["quiet"],
    }
    body = context if context is not None else tar_stream(Path(directory), outside, name)
    headers = {"Content-Type": "application/x-tar"}
    progress = Progress()
    for message in client().request("POST", "/build", query, body, headers).lines():
        if "aux" not in message:
            progress.feed(message)


def _build_args(texts: tuple[str, ...]) -> dict[str, Any] | None:
    """A bare name takes this process's value."""
    pairs = (text.partition("=") for text in texts)
    return {key: value if given else os.environ.get(key) for key, given, value in pairs} or None


def _context(directory: str, dockerfile: str) -> tuple[str, Path | None, Iterator[bytes] | None]:
    """(Dockerfile's name in the context, the file when it lies outside, the stream when it is standard input)."""
    if directory == "-":
        return dockerfile or "Dockerfile", None, _stdin_context()
    root = Path(directory)
    if not root.is_dir():
        raise click.UsageError(f"unable to prepare context: path {directory!r} not found")
    if not dockerfile:
        if not (root / "Dockerfile").is_file():
            raise click.UsageError(f"there is no Dockerfile in {directory}")
        return "Dockerfile", None, None
    path = Path(dockerfile)
    if not path.is_file():
        raise click.UsageError(f"there is no file {dockerfile}")
    try:
        return path.resolve().relative_to(root.resolve()).as_posix(), None, None
    except ValueError:
        return f".dockerfile.{os.urandom(5).hex()}", path, None
