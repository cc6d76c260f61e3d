"""The door of clients that send the whole context as one tar: classic `POST /build`."""

import posixpath
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from longshore.build import git
from longshore.build.context import receive_context
from longshore.build.ports import ContextFiles, DockerfileSource, Wanted
from longshore.build.remote import fetched_context, is_url
from longshore.build.trees import Entry, TarTree, Tree, resolve
from longshore.errors import InvalidArgument, NotFound
from longshore.registry.auth import Credentials

CONTEXTS = "/.longshore-contexts"  # below it the tar has the folders that are named contexts
MAX_TEXT = 1 << 20  # of a Dockerfile or a .dockerignore


class Upload:
    """A Door over a tar. Whoever makes it closes it, unless a build has taken the context."""

    def __init__(self, tree: TarTree, dockerfile: str, credentials: Mapping[str, Credentials]) -> None:
        self._tree, self._name, self._credentials = tree, dockerfile, credentials
        self.secrets: Mapping[str, bytes] = {}
        self.agents: Mapping[str, Path] = {}  # sockets of this host

    @classmethod
    async def receive(
        cls,
        chunks: AsyncIterable[bytes],
        scratch: Path,
        dockerfile: str,
        credentials: Mapping[str, Credentials],
    ) -> "Upload":
        """Take the whole context. Raises InvalidArgument for what is no tar, OutOfSpace."""
        return cls(await receive_context(chunks, scratch), dockerfile, credentials)

    @classmethod
    async def fetch(
        cls, url: str, scratch: Path, dockerfile: str, credentials: Mapping[str, Credentials], *, keep_git_dir: bool
    ) -> "Upload":
        """The same for a context that is a git repository or a URL. Raises InvalidArgument, Unavailable."""
        if git.is_git(url):
            tree = await git.checkout(url, scratch, keep_git_dir=keep_git_dir)
            return cls(tree, dockerfile, credentials)
        if is_url(url):
            return cls(await fetched_context(url, scratch), dockerfile, credentials)
        raise InvalidArgument(
            f"invalid build context {url[:200]!r}", hint="give an http:// or https:// URL, or a git repository"
        )

    async def dockerfile(self) -> DockerfileSource:
        data = read_text(self._tree, self._name)
        if data is None:
            raise InvalidArgument(f"Cannot locate specified Dockerfile: {self._name}")
        return DockerfileSource(self._name, data, ignore_of(self._tree, self._name))

    async def context(self, name: str, wanted: Wanted) -> ContextFiles:
        if not name:
            return Part(self._tree, "", hidden=CONTEXTS)
        top = posixpath.join(CONTEXTS, name)
        if self._tree.entry(top) is None:
            raise NotFound(f"the client has sent no context {name!r}")
        return Part(self._tree, top)

    async def secret(self, id: str) -> bytes | None:
        return self.secrets.get(id)

    @asynccontextmanager
    async def ssh(self, id: str) -> AsyncGenerator[Path | None, None]:
        yield self.agents.get(id)

    async def credentials(self, domain: str) -> Credentials | None:
        return self._credentials.get(domain)

    def close(self) -> None:
        """Twice is fine."""
        self._tree.close()


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of a tree as a tree of its own, or a whole one without a folder. The tree is closed by its owner."""

    tree: Tree
    top: str
    hidden: str = ""

    def entry(self, path: str) -> Entry | None:
        if self.hidden and (path == self.hidden or path.startswith(f"{self.hidden}/")):
            return None
        found = self.tree.entry(f"{self.top}{path}".rstrip("/") or "/")
        return replace(found, path=path) if found is not None else None

    def children(self, path: str) -> list[str]:
        names = self.tree.children(f"{self.top}{path}".rstrip("/") or "/")
        return [name for name in names if posixpath.join(path, name) != self.hidden]

    def open(self, entry: Entry) -> BinaryIO:
        """By where the bytes are, which the new path does not change."""
        return self.tree.open(replace(entry, path=f"{self.top}{entry.path}"))

    def close(self) -> None: ...


def read_text(tree: Tree, name: str) -> bytes | None:
    """A small file of a context, None when it is not there. Raises InvalidArgument for one that is too large."""
    entry = tree.entry(resolve(tree, posixpath.normpath("/" + name)))
    if entry is None or not entry.is_file:
        return None
    if entry.size > MAX_TEXT:
        raise InvalidArgument(f"{name} is too large: {entry.size} bytes")
    with tree.open(entry) as stream:
        return stream.read()


def ignore_of(tree: Tree, dockerfile: str) -> bytes | None:
    """The .dockerignore that counts: the Dockerfile's own before the context's."""
    own = read_text(tree, f"{dockerfile}.dockerignore")
    return own if own is not None else read_text(tree, ".dockerignore")
