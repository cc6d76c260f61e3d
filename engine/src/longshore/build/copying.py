"""COPY and ADD: from sources and a destination to the entries of one layer, then to its tar.

First the plan (what goes where, judged against the image), then the writing. The plan also gives the digest that the
cache is keyed by: contents, names and modes, no times, as Docker does it.
"""

import fnmatch
import hashlib
import io
import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from longshore.build.context import decompressor_for
from longshore.build.trees import TarTree, Entry, Tree, resolve, walk
from longshore.errors import InvalidArgument
from longshore.storage import tarstream
from longshore.storage.tarstream import END, encode_header, padding

BLOCK = 1 << 20
REMOTE = "/.longshore-remote"  # below it ADD's fetched files stand in the tree; those are never unpacked
_MAGIC_OF_TAR = (257, b"ustar")
_KINDS = {
    stat.S_IFDIR: tarstream.DIRECTORY,
    stat.S_IFLNK: tarstream.SYMLINK,
    stat.S_IFIFO: tarstream.FIFO,
    stat.S_IFCHR: tarstream.CHARACTER,
    stat.S_IFBLK: tarstream.BLOCKDEV,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One COPY or ADD with everything expanded. `owner` None: root, as Docker gives it."""

    keyword: str
    sources: tuple[str, ...]
    destination: str  # absolute; a trailing slash says directory
    owner: tuple[int, int] | None = None
    mode: int | None = None
    unpack: bool = False  # ADD: a local archive is unpacked


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry of the layer: `target` is its path in the image, bytes come from `tree`."""

    target: str
    entry: Entry
    tree: Tree


def plan_copy(
    request: Request, source: Tree, image: Tree, decompress: Callable[[BinaryIO], BinaryIO]
) -> list[Placed]:
    """All entries of the layer in the order of the tar, parents that the image lacks included.

    Raises InvalidArgument for a missing source or a destination that cannot be.
    """
    found = [entry for pattern in request.sources for entry in _matching(request, source, pattern)]
    to_directory = request.destination.endswith("/")
    if len(found) > 1 and not to_directory:
        raise InvalidArgument(
            f"When using {request.keyword} with more than one source file, "
            "the destination must be a directory and end with a /"
        )
    destination = resolve(image, request.destination)
    existing = image.entry(destination)
    into = to_directory or (existing is not None and existing.is_directory)
    placed: dict[str, Placed] = {}
    for entry in found:
        if entry.is_directory:
            items = _directory(entry, source, image, destination)
        elif (
            request.unpack
            and entry.is_file
            and not entry.path.startswith(REMOTE)
            and (archive := _archive(entry, source, decompress))
        ):
            items = _directory(replace(_root(archive), mtime=entry.mtime), archive, image, destination)
        else:
            name = posixpath.basename(entry.path) if entry.path != "/" else ""
            items = iter([Placed(posixpath.join(destination, name) if into else destination, entry, source)])
        for item in items:
            _judge(item, image)
            placed[item.target] = item
    return _with_parents(placed, image)


def plan_directory(path: str, image: Tree) -> list[Placed]:
    """The entries that make a directory exist (WORKDIR); none when it does. Raises InvalidArgument."""
    target = resolve(image, path)
    there = image.entry(target)
    if there is not None and there.is_directory:
        return []
    if there is not None:
        raise InvalidArgument(f"cannot make the directory {path}: it is a file")
    made = Entry(target, stat.S_IFDIR, 0o755, 0, 0, 0, 0.0)
    return _with_parents({target: Placed(target, made, image)}, image)


def _matching(request: Request, tree: Tree, pattern: str) -> list[Entry]:
    """Sources of one argument: a path, or a pattern of Go's filepath.Match component by component."""
    parts = [part for part in posixpath.normpath("/" + pattern).split("/") if part]
    paths = ["/"]
    for part in parts:
        if any(char in part for char in "*?["):
            paths = [
                posixpath.join(path, name)
                for path in paths
                for name in tree.children(path)
                if fnmatch.fnmatchcase(name, part)
            ]
        else:
            paths = [resolve(tree, posixpath.join(path, part)) for path in paths]
    entries = [entry for path in paths if (entry := tree.entry(path)) is not None]
    if not entries:
        raise InvalidArgument(
            f"{request.keyword} failed: file not found in build context or excluded by .dockerignore: "
            f"stat {pattern}: file does not exist"
        )
    return entries


def _directory(top: Entry, source: Tree, image: Tree, destination: str) -> Iterator[Placed]:
    """The contents of a directory go into the destination; a link to a directory in the image is followed."""
    homes = {top.path: destination}
    for entry in walk(source, top):
        if entry.path == top.path:
            yield Placed(destination, entry, source)
            continue
        parent, name = posixpath.split(entry.path)
        target = posixpath.join(homes[parent], name)
        if entry.is_directory:
            target = resolve(image, target)
            homes[entry.path] = target
        yield Placed(target, entry, source)


def _judge(item: Placed, image: Tree) -> None:
    there = image.entry(item.target)
    if there is None or item.target == "/":
        return
    if item.entry.is_directory and not there.is_directory:
        raise InvalidArgument(f"cannot copy to non-directory: {item.target}")
    if not item.entry.is_directory and there.is_directory:
        raise InvalidArgument(f"cannot replace directory {item.target} with a file")


def _with_parents(placed: dict[str, Placed], image: Tree) -> list[Placed]:
    """Add every parent: as the image has it, because an overlay shows the newest layer's attributes; else 0755."""
    result: dict[str, Placed] = {}
    for target in sorted(placed):
        parent = posixpath.dirname(target)
        missing: list[str] = []
        while parent != "/" and parent not in result and parent not in placed:
            missing.append(parent)
            parent = posixpath.dirname(parent)
        for path in reversed(missing):
            there = image.entry(path)
            if there is not None and not there.is_directory:
                raise InvalidArgument(f"cannot copy to non-directory: {path}")
            made = there or Entry(path, stat.S_IFDIR, 0o755, 0, 0, 0, placed[target].entry.mtime)
            result[path] = Placed(path, replace(made, real=""), image)
        item = placed[target]
        there = image.entry(target)
        if item.entry.is_directory and there is not None:
            # Copying into a directory that exists keeps its owner and mode.
            item = Placed(target, replace(there, real=""), image)
        if target != "/":
            result[target] = item
    return [result[target] for target in sorted(result)]


def _root(tree: Tree) -> Entry:
    root = tree.entry("/")
    assert root is not None  # every tree has one
    return root


def _archive(entry: Entry, tree: Tree, decompress: Callable[[BinaryIO], BinaryIO]) -> TarTree | None:
    """The archive behind a file that ADD was given, or None when it is no tar, compressed or not."""
    with tree.open(entry) as stream:
        head = stream.read(512)
        offset, magic = _MAGIC_OF_TAR
        plain = head[offset : offset + len(magic)] == magic
        if not plain and decompressor_for(head) is None:
            return None
        stream.seek(0)
        unpacked = stream if plain else decompress(stream)
        copy = io.BytesIO() if entry.size < BLOCK else cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the tree keeps it
        while block := unpacked.read(BLOCK):
            copy.write(block)
    copy.seek(0)
    try:
        return TarTree(copy)
    except InvalidArgument:
        return None  # a compressed file that is no tar is copied as it is


def digest_of(placed: Sequence[Placed], request: Request) -> str:
    """What the cache compares: kind, mode, owner, target and contents of every entry."""
    total = hashlib.sha256(repr((request.owner, request.mode)).encode())
    for item in placed:
        entry = item.entry
        total.update(repr((item.target, entry.kind, entry.mode, entry.link, entry.device)).encode())
        if entry.is_file:
            content = hashlib.sha256()
            with item.tree.open(entry) as stream:
                while block := stream.read(BLOCK):
                    content.update(block)
            total.update(content.digest())
    return total.hexdigest()


def write_layer(placed: Sequence[Placed], request: Request, out: Callable[[bytes], object]) -> None:
    """The uncompressed layer tar. Equal plans give equal bytes."""
    for item in placed:
        copied = bool(item.entry.real)  # and not a parent taken over from the image
        entry = item.entry
        if copied:
            uid, gid = request.owner or (0, 0)
            entry = replace(
                entry, uid=uid, gid=gid, mode=entry.mode if request.mode is None else request.mode
            )
        for piece in member(item.target, entry, item.tree):
            out(piece)
    out(END)


def member(path: str, entry: Entry, tree: Tree, *, latest: int | None = None) -> Iterator[bytes]:
    """One file of a tree as a member of a tar, under a path of the image; no time after `latest`."""
    name = os.fsencode(path.lstrip("/"))
    seconds = int(entry.mtime) if latest is None else min(int(entry.mtime), latest)
    header = tarstream.Entry(
        name + b"/" if entry.is_directory else name,
        _KINDS.get(entry.kind, tarstream.REGULAR),
        mode=0o777 if entry.kind == stat.S_IFLNK else entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=max(seconds, 0) * 1_000_000_000,
    )
    header.linkname = os.fsencode(entry.link)
    header.device = entry.device
    if entry.is_file:
        header.stored = header.size = entry.size
    yield encode_header(header)
    if entry.is_file:
        with tree.open(entry) as stream:
            left = entry.size
            while left > 0:
                # a file that shrinks meanwhile is filled up, because the header is out already
                data = stream.read(min(BLOCK, left)) or bytes(min(BLOCK, left))
                left -= len(data)
                yield data
        yield padding(entry.size)
