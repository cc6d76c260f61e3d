"""COPY and ADD: from sources and a destination to the entries of one layer, then to its tar.

First the plan (what goes where, judged against the image), then the writing. The plan also gives the digest that the
cache is keyed by: contents, names, modes and owners, no times, as Docker does it.
"""

import hashlib
import io
import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from longshore.build.chmod import Mode
from longshore.build.context import decompressor_for
from longshore.build.trees import Entry, TarTree, Tree, resolve, walk
from longshore.errors import InvalidArgument
from longshore.oci.ignore import Ignore
from longshore.storage import tarstream
from longshore.storage.tarstream import END, encode_header, padding

BLOCK = 1 << 20
_MAGIC_OF_TAR = (257, b"ustar")
_WILD = re.compile(r"[*?\[]")
_KINDS = {
    stat.S_IFDIR: tarstream.DIRECTORY,
    stat.S_IFLNK: tarstream.SYMLINK,
    stat.S_IFIFO: tarstream.FIFO,
    stat.S_IFCHR: tarstream.CHARACTER,
    stat.S_IFBLK: tarstream.BLOCKDEV,
}


@dataclass(frozen=True, slots=True)
class Source:
    """One or more arguments of COPY or ADD that come out of the same tree."""

    tree: Tree
    paths: tuple[str, ...]
    unpack: bool = False  # an archive is unpacked
    root_owned: bool = False  # the owners in the tree say nothing: all becomes root's
    name: str = "build context"  # for messages


@dataclass(frozen=True, slots=True)
class Request:
    """One COPY or ADD with everything expanded. `owner` None: as the source has it."""

    keyword: str
    destination: str  # absolute; a trailing slash says directory
    owner: tuple[int, int] | None = None
    mode: Mode | None = None
    exclude: tuple[str, ...] = ()
    parents: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry of the layer: `target` is its path in the image, bytes come from `tree`."""

    target: str
    entry: Entry
    tree: Tree
    copied: bool = True  # and not a parent taken over from the image


def plan_copy(
    request: Request, sources: Sequence[Source], image: Tree, decompress: Callable[[BinaryIO], BinaryIO]
) -> list[Placed]:
    """All entries of the layer in the order of the tar, parents that the image lacks included.

    Raises InvalidArgument for a missing source or a destination that cannot be.
    """
    return _Planner(request, image, decompress).plan(sources)


class _Planner:
    def __init__(self, request: Request, image: Tree, decompress: Callable[[BinaryIO], BinaryIO]) -> None:
        self.request, self.image, self.decompress = request, image, decompress
        self.exclude = Ignore("\n".join(request.exclude)) if request.exclude else None
        self.destination = resolve(image, request.destination)
        self.placed: dict[str, Placed] = {}

    def plan(self, sources: Sequence[Source]) -> list[Placed]:
        found = [(source, entry) for source in sources for entry in self.matching(source)]
        to_directory = self.request.destination.endswith("/") or self.request.parents
        if len(found) > 1 and not to_directory:
            raise InvalidArgument(
                f"When using {self.request.keyword} with more than one source file, "
                "the destination must be a directory and end with a /"
            )
        existing = self.image.entry(self.destination)
        into = to_directory or (existing is not None and existing.is_directory)
        for source, entry in found:
            items = self.with_parents_of(source) if self.request.parents else self.items(source, entry, into)
            for item in items:
                self.add(source, item)
        return self.with_image_parents()

    def add(self, source: Source, item: Placed) -> None:
        there = self.image.entry(item.target)
        if there is not None and item.target != "/":
            if item.entry.is_directory and not there.is_directory:
                raise InvalidArgument(f"cannot copy to non-directory: {item.target}")
            if not item.entry.is_directory and there.is_directory:
                raise InvalidArgument(f"cannot replace directory {item.target} with a file")
        entry = item.entry
        if item.copied:
            uid, gid = (0, 0) if source.root_owned and item.tree is source.tree else (entry.uid, entry.gid)
            uid, gid = self.request.owner or (uid, gid)
            mode = self.request.mode(entry.mode, entry.is_directory) if self.request.mode else entry.mode
            entry = replace(entry, uid=uid, gid=gid, mode=mode)
        self.placed[item.target] = replace(item, entry=entry)

    def matching(self, source: Source) -> list[Entry]:
        """What the arguments name; with --parents only whether they name anything."""
        if self.request.parents:
            return [_root(source.tree)] if source.paths else []
        found: list[Entry] = []
        for path in source.paths:
            entries = matching(source.tree, path)
            if not entries and not _WILD.search(path):
                raise _missing(self.request, source, path)
            found += [e for e in entries if e.is_directory or not self.excluded(posixpath.basename(e.path))]
        return found

    def excluded(self, path: str) -> bool:
        return self.exclude is not None and self.exclude.excludes(path)

    def items(self, source: Source, entry: Entry, into: bool) -> Iterator[Placed]:
        if entry.is_directory:
            yield from self.directory(entry, source.tree, self.destination)
            return
        archive = _archive(entry, source.tree, self.decompress) if source.unpack and entry.is_file else None
        if archive is not None:
            top = replace(_root(archive), mtime=entry.mtime)
            yield from self.directory(top, archive, self.destination)
            return
        name = posixpath.basename(entry.path) if entry.path != "/" else ""
        yield Placed(posixpath.join(self.destination, name) if into else self.destination, entry, source.tree)

    def directory(self, top: Entry, tree: Tree, destination: str) -> Iterator[Placed]:
        """The contents of a directory go into the destination; a link to a directory in the image is followed."""
        homes = {top.path: destination}
        prefix = len(top.path.rstrip("/")) + 1
        for entry in walk(tree, top):
            if entry.path == top.path:
                # one that exists already keeps its owner and mode
                there = self.image.entry(destination)
                kept = there is not None and there.is_directory
                yield Placed(destination, there if kept and there else entry, tree, copied=not kept)
                continue
            parent, name = posixpath.split(entry.path)
            if self.excluded(entry.path[prefix:]) and not (
                entry.is_directory and self.exclude and not self.exclude.prunes(entry.path[prefix:])
            ):
                if entry.is_directory:
                    homes[entry.path] = ""
                continue
            home = homes.get(parent, "")
            if not home:
                if entry.is_directory:
                    homes[entry.path] = ""
                continue
            target = posixpath.join(home, name)
            if entry.is_directory:
                target = resolve(self.image, target)
                homes[entry.path] = target
            yield Placed(target, entry, tree)

    def with_parents_of(self, source: Source) -> Iterator[Placed]:
        """--parents: below the destination stands the whole path, or what follows `/./` in it."""
        for path in source.paths:
            base, pivot, pattern = path.partition("/./")
            if not pivot:
                base, pattern = "", path
            top = source.tree.entry(resolve(source.tree, "/" + base))
            pattern = posixpath.normpath("/" + pattern).lstrip("/")
            wanted = Ignore(pattern or "**")
            found = False
            if top is not None:
                prefix = len(top.path.rstrip("/")) + 1
                shown: set[str] = set()
                for entry in walk(source.tree, top):
                    relative = entry.path[prefix:]
                    if not relative or self.excluded(relative) or (pattern and not wanted.excludes(relative)):
                        continue
                    found = True
                    for parent in reversed(_parents(relative)):
                        if parent not in shown:
                            shown.add(parent)
                            above = source.tree.entry(posixpath.join(top.path, parent))
                            if above is not None:
                                yield Placed(posixpath.join(self.destination, parent), above, source.tree)
                    shown.add(relative)
                    yield Placed(posixpath.join(self.destination, relative), entry, source.tree)
            if not found and not _WILD.search(path):
                raise _missing(self.request, source, path)

    def with_image_parents(self) -> list[Placed]:
        return with_parents(self.placed, self.image)


def _parents(path: str) -> list[str]:
    """Nearest first."""
    found: list[str] = []
    while path := posixpath.dirname(path):
        found.append(path)
    return found


def _missing(request: Request, source: Source, path: str) -> InvalidArgument:
    return InvalidArgument(
        f"{request.keyword} failed: file not found in {source.name} or excluded by .dockerignore: "
        f"stat {path}: file does not exist"
    )


def plan_directory(path: str, image: Tree, owner: tuple[int, int] = (0, 0)) -> list[Placed]:
    """The entries that make a directory exist (WORKDIR); none when it does. Raises InvalidArgument."""
    target = resolve(image, path)
    there = image.entry(target)
    if there is not None and there.is_directory:
        return []
    if there is not None:
        raise InvalidArgument(f"cannot make the directory {path}: it is a file")
    made = Entry(target, stat.S_IFDIR, 0o755, *owner, 0, 0.0)
    return with_parents({target: Placed(target, made, image)}, image, owner)


def matching(tree: Tree, pattern: str) -> list[Entry]:
    """What a path, or a pattern of Go's filepath.Match component by component, names; links are followed."""
    parts = [part for part in posixpath.normpath("/" + pattern).split("/") if part]
    paths = ["/"]
    for part in parts:
        if _WILD.search(part):
            expression = re.compile(_component(part))
            paths = [
                resolve(tree, posixpath.join(path, name))
                for path in paths
                for name in tree.children(path)
                if expression.fullmatch(name)
            ]
        else:
            bare = re.sub(r"\\(.)", r"\1", part)
            paths = [resolve(tree, posixpath.join(path, bare)) for path in paths]
    return [entry for path in dict.fromkeys(paths) if (entry := tree.entry(path)) is not None]


def _component(pattern: str) -> str:
    """https://pkg.go.dev/path/filepath#Match"""
    out, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            out += "(?s:.*)"
        elif char == "?":
            out += "(?s:.)"
        elif char == "[" and (end := pattern.find("]", position + 1)) > 0:
            body = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{'^' + body[1:] if body[0] in '!^' else body}]"
            position = end + 1
        elif char == "\\" and position < len(pattern):
            out += re.escape(pattern[position])
            position += 1
        else:
            out += re.escape(char)
    return out


def with_parents(
    placed: dict[str, Placed], image: Tree, owner: tuple[int, int] = (0, 0)
) -> list[Placed]:
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
            made = there or Entry(path, stat.S_IFDIR, 0o755, *owner, 0, placed[target].entry.mtime)
            result[path] = Placed(path, made, image, copied=False)
        if target != "/":
            result[target] = placed[target]
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


def digest_of(placed: Iterable[Placed]) -> str:
    """What the cache compares: kind, mode, owner, target, attributes and contents of every entry."""
    total = hashlib.sha256()
    for item in placed:
        entry = item.entry
        total.update(
            repr(
                (item.target, entry.kind, entry.mode, entry.uid, entry.gid, entry.link, entry.device, entry.xattrs)
            ).encode("utf-8", "surrogatepass")
        )
        if entry.is_file:
            content = hashlib.sha256()
            with item.tree.open(entry) as stream:
                while block := stream.read(BLOCK):
                    content.update(block)
            total.update(content.digest())
    return total.hexdigest()


def write_layer(
    placed: Sequence[Placed], out: Callable[[bytes], object], *, latest: int | None = None
) -> None:
    """The uncompressed layer tar. Equal plans give equal bytes. No time after `latest`."""
    for item in placed:
        for piece in member(item.target, item.entry, item.tree, latest=latest):
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
    header.xattrs = dict(entry.xattrs)
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
