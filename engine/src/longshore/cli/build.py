"""`longshore build`: sends the build context as a tar and shows what the builder says."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import click

from longshore.cli.build_extension import CONTEXTS, encoded, extension_of
from longshore.cli.build_output import parse_output, write_output
from longshore.cli.build_progress import PlainProgress, shown_checks, shown_warnings
from longshore.cli.context import client
from longshore.cli.create_request import extra_host, ulimit
from longshore.cli.environment import labels
from longshore.cli.flags import command, flag, invalid, many, number, one, text
from longshore.cli.output import emit
from longshore.cli.progress import Progress, counted
from longshore.cli.tar_pipe import tar_stream
from longshore.errors import EngineError, InvalidArgument
from longshore.oci.ignore import Ignore
from longshore.oci.units import parse_size

_BLOCK = 512  # of a tar
_PIECE = 1 << 20


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


def context_stream(
    root: Path,
    dockerfile: Path | IO[bytes] | None,
    name: str,
    more: Mapping[str, Path] | None = None,
) -> Iterator[bytes]:
    """The context as a tar; `dockerfile` is one outside of the context, sent as `name`. Raises EngineError.

    `more`: folders that go along as named contexts.
    """
    own = root / f"{name}.dockerignore"
    paths = context_paths(
        root, _ignore_of(own if own.is_file() else root / ".dockerignore"), always_sent(name)
    )

    def write(tar: tarfile.TarFile) -> None:
        _write_context(tar, root, paths, dockerfile, name)
        for context, folder in (more or {}).items():
            found = context_paths(folder, _ignore_of(folder / ".dockerignore"), set())
            _write_context(tar, folder, found, None, "", prefix=f"{CONTEXTS}/{context}/")

    return tar_stream(write, "the build context")


def always_sent(name: str) -> set[str]:
    """What the builder needs, ignored or not."""
    return {name, ".dockerignore", f"{name}.dockerignore"}


def _ignore_of(path: Path) -> Ignore:
    return Ignore(path.read_text() if path.is_file() else "")


def _write_context(
    tar: tarfile.TarFile,
    root: Path,
    paths: Iterable[str],
    dockerfile: Path | IO[bytes] | None,
    name: str,
    prefix: str = "",
) -> None:
    for path in paths:
        mode = (root / path).lstat().st_mode
        if stat.S_ISSOCK(mode):
            continue
        info = tar.gettarinfo(root / path, prefix + path)
        info.uid = info.gid = 0  # as docker: who built it is nobody's business
        info.uname = info.gname = ""
        if info.isreg():
            with open(root / path, "rb") as file:
                tar.addfile(info, file)
        else:
            tar.addfile(info)
    if dockerfile is not None:
        data = dockerfile.read_bytes() if isinstance(dockerfile, Path) else dockerfile.read()
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _stdin_context(dockerfile: str) -> tuple[str, Iterator[bytes]]:
    """(Dockerfile's name, a tar): standard input is one, compressed or not, or it is a Dockerfile itself."""
    stdin = sys.stdin.buffer
    first = stdin.read(_BLOCK)
    packed = first.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
    if packed or first[257:262] == b"ustar" or (len(first) == _BLOCK and not any(first)):

        def rest() -> Iterator[bytes]:
            data = first
            while data:
                yield data
                data = stdin.read(_PIECE)

        return dockerfile or "Dockerfile", rest()
    if dockerfile:
        raise click.UsageError("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    data = first + stdin.read()

    def write(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    return "Dockerfile", tar_stream(write, "standard input")


@command("build")
@many("--add-host", help="Name and address for /etc/hosts of RUN steps, name:ip.")
@many("--build-arg", "build_args", help="NAME=VALUE for ARG, or the NAME of a variable of ours.")
@many("--allow", help="Entitlement to give, network.host.", metavar="strings")
@many("--build-context", "build_contexts", help="One more context, NAME=FOLDER|URL|docker-image://IMAGE.")
@many("--cache-from", help="Image whose layers may be used.", metavar="strings")
@many("--cache-to", help="Where to keep the cache, type=inline.", metavar="strings")
@flag("--check", help="Only look for mistakes in the Dockerfile.")
@text("--cgroup-parent", help="Cgroup to put RUN steps below.")
@flag("--compress", help="Send the files compressed.")
@number("--cpu-period", help="Period of the CPU quota of RUN steps in microseconds.", default=0)
@number("--cpu-quota", help="Microseconds of CPU in every period.", default=0)
@number("-c", "--cpu-shares", help="Relative weight of CPU time.", default=0)
@text("--cpuset-cpus", help="CPUs for RUN steps, such as 0-3 or 0,1.")
@text("--cpuset-mems", help="Memory nodes for RUN steps.")
@flag("--disable-content-trust", help="Has no meaning here: signatures are not looked at.", default=True)
@text("-f", "--file", "dockerfile", help="Dockerfile, PATH/Dockerfile otherwise.")
@flag("--force-rm", help="Remove intermediate containers of failed builds too.")
@text("--iidfile", help="File to write the image's id to.")
@many("--label", "label_texts", help="NAME=VALUE to find the image by.")
@text("-m", "--memory", help="Limit of memory of RUN steps.", metavar="bytes")
@text("--memory-swap", help="Limit of memory and swap together; -1 is none.", metavar="bytes")
@text("--network", help="Network of RUN steps.", default="default")
@flag("--no-cache", help="Run every step.")
@many("--no-cache-filter", help="Stage to run every step of.", metavar="strings")
@many("-o", "--output", "outputs", help="FOLDER, - or type=local|tar|oci|docker|image,dest=PATH.")
@text("--metadata-file", help="File to write what was built to, as JSON.")
@text("--platform", help="os/arch[/variant] of the image.")
@text("--progress", help="auto (the classic builder's steps), plain, rawjson or quiet.", default="auto")
@flag("--pull", help="Ask the registry for newer base images.")
@flag("-q", "--quiet", help="Print the image's id only.")
@flag("--rm", help="Remove intermediate containers.", default=True)
@many("--secret", "secrets", help="Secret for RUN --mount, id=ID[,src=FILE|env=VARIABLE].")
@many("--security-opt", help="Security options of RUN steps.", metavar="strings")
@text("--shm-size", help="Size of /dev/shm of RUN steps.", metavar="bytes")
@flag("--squash", help="One layer of all steps.")
@many("--ssh", help="Agent for RUN --mount=type=ssh, default or ID[=SOCKET].")
@many("-t", "--tag", "tags", help="Name of the image, name:tag.")
@text("--target", help="Stage to build.")
@many("--ulimit", help="NAME=SOFT[:HARD] of RUN steps.", metavar="ulimit")
@one("directory", "PATH|URL|-")
def build_command(directory: str, dockerfile: str, **given: Any) -> None:
    """Build an image from a Dockerfile and the files of a folder; - reads a tar or a Dockerfile from standard input."""
    query = build_query(given)
    exports = [parse_output(output) for output in given["outputs"]]
    remote = directory.startswith(("http://", "https://", "git://", "git@", "github.com/"))
    body: Iterator[bytes] | bytes = b""
    extension = extension_of(given)
    quiet = bool(given["quiet"]) or given["progress"] == "quiet"
    if remote:
        query |= {"remote": directory, "dockerfile": dockerfile or "Dockerfile"}
    else:
        name, outside, context = _context(directory, dockerfile)
        query["dockerfile"] = name
        body = (
            context
            if context is not None
            else context_stream(Path(directory), outside, name, _folders(given))
        )
        body = body if quiet else counted(body, "sent")
    headers = {"Content-Type": "application/x-tar", **_registry_logins(), **encoded(extension)}
    lines = client().request("POST", "/build", query, body, headers).lines()
    if given["check"]:
        raise SystemExit(_checked(lines, str(query["dockerfile"])))
    image = _shown(lines, given, quiet=quiet)
    for export in exports:
        write_output(client(), image, export, list(given["tags"]))
    if given["iidfile"]:
        Path(given["iidfile"]).write_text(image)
    if given["metadata_file"]:
        _write_metadata(Path(given["metadata_file"]), image, list(given["tags"]))


def _shown(lines: Iterable[Mapping[str, Any]], given: Mapping[str, Any], *, quiet: bool) -> str:
    """Show what the builder says; returns the id of the image. Raises EngineError."""
    image = ""
    progress = Progress(quiet=quiet)
    plain = PlainProgress()
    for message in lines:
        if "aux" in message:
            image = str(message["aux"].get("ID") or image)
        elif given["progress"] == "rawjson":
            sys.stderr.write(json.dumps(message) + "\n")
            if "error" in message and "event" not in message:
                raise EngineError(str(message["error"]))
        elif given["progress"] == "plain":
            plain.feed(message)
        else:
            if quiet and str(message.get("stream", "")).startswith("sha256:"):
                image = message["stream"].strip()
            progress.feed(message)
    if given["progress"] == "plain":
        sys.stderr.write(shown_warnings(plain.warnings))
    if quiet and image:
        emit(image)
    return image


def _checked(lines: Iterable[Mapping[str, Any]], name: str) -> int:
    """--check: print the findings; returns the exit code."""
    plain = PlainProgress()
    for message in lines:
        plain.feed(message)
    sys.stdout.write(shown_checks(plain.warnings, name))
    return 1 if plain.warnings else 0


def _write_metadata(path: Path, image: str, tags: list[str]) -> None:
    document: dict[str, Any] = {"containerimage.config.digest": image, "containerimage.digest": image}
    if tags:
        document["image.name"] = ",".join(tags)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _folders(given: Mapping[str, Any]) -> dict[str, Path]:
    """Named contexts that are folders here. Raises FlagError."""
    found: dict[str, Path] = {}
    for given_text in given["build_contexts"]:
        name, _, value = given_text.partition("=")
        if not name or not value:
            raise invalid("--build-context", given_text, "write NAME=FOLDER")
        if "://" not in value and not value.startswith("git@"):
            if not Path(value).is_dir():
                raise invalid("--build-context", given_text, f"there is no folder {value}")
            found[name.lower()] = Path(value)
    return found


def build_query(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags as the query of POST /build. Raises FlagError."""
    images = [name for name in given["cache_from"] if "type=" not in name]
    sizes = {name: _size(given[name], name) for name in ("memory", "shm_size")}
    return {
        "t": list(given["tags"]),
        "buildargs": _build_args(given["build_args"]),
        "labels": labels(given["label_texts"]) or None,
        "cachefrom": json.dumps(images) if images else None,
        "cgroupparent": given["cgroup_parent"],
        "cpuperiod": given["cpu_period"] or None,
        "cpuquota": given["cpu_quota"] or None,
        "cpushares": given["cpu_shares"] or None,
        "cpusetcpus": given["cpuset_cpus"],
        "cpusetmems": given["cpuset_mems"],
        "extrahosts": [extra_host(text) for text in given["add_host"]],
        "memory": sizes["memory"] or None,
        "memswap": -1 if given["memory_swap"] == "-1" else _size(given["memory_swap"], "memory_swap") or None,
        "networkmode": given["network"],
        "nocache": given["no_cache"],
        "platform": given["platform"],
        "pull": given["pull"],
        "q": given["quiet"],
        "rm": given["rm"],
        "forcerm": given["force_rm"],
        "securityopt": json.dumps(list(given["security_opt"])) if given["security_opt"] else None,
        "shmsize": sizes["shm_size"] or None,
        "squash": given["squash"] or None,
        "target": given["target"],
        "ulimits": json.dumps([ulimit(text) for text in given["ulimit"]]) if given["ulimit"] else None,
    }


def _size(text: str, name: str) -> int:
    try:
        return parse_size(text) if text else 0
    except InvalidArgument as cause:
        raise invalid(f"--{name.replace('_', '-')}", text, cause.hint) from cause


def _registry_logins() -> dict[str, str]:
    """Every stored login, for the base images: X-Registry-Config."""
    import base64

    from longshore.cli.login import config_file

    logins = config_file().all()
    if not logins:
        return {}
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(logins).encode()).decode()}


def _build_args(texts: tuple[str, ...]) -> dict[str, Any] | None:
    """A bare name takes this process's value."""
    pairs = (text.partition("=") for text in texts)
    return {key: value if given else os.environ.get(key) for key, given, value in pairs} or None


def _context(directory: str, dockerfile: str) -> tuple[str, Path | None, Iterator[bytes] | None]:
    """(Dockerfile's name in the context, the file when it lies outside, the stream when it is standard input)."""
    if directory == "-":
        name, stream = _stdin_context(dockerfile)
        return name, None, stream
    root = Path(directory)
    if not root.is_dir():
        raise click.UsageError(f"unable to prepare context: path {directory!r} not found")
    if not dockerfile:
        if not (root / "Dockerfile").is_file():
            raise click.UsageError(f"there is no Dockerfile in {directory}")
        return "Dockerfile", None, None
    if dockerfile == "-":
        data = sys.stdin.buffer.read()
        name = f".dockerfile.{os.urandom(5).hex()}"
        return name, None, context_stream(root, io.BytesIO(data), name)
    path = Path(dockerfile)
    if not path.is_file():
        raise click.UsageError(f"there is no file {dockerfile}")
    try:
        return path.resolve().relative_to(root.resolve()).as_posix(), None, None
    except ValueError:
        return f".dockerfile.{os.urandom(5).hex()}", path, None
