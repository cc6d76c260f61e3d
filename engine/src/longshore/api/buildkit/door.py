"""What a build asks of a BuildKit client, answered through the client's session (longshore.build.ports.Door)."""

import hashlib
import posixpath
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from longshore.api.buildkit import attachables
from longshore.api.buildkit.contexts import Contexts, SyncedTree
from longshore.api.buildkit.filesync import receive
from longshore.api.buildkit.frontend import remote_context
from longshore.api.buildkit.jobs import Job
from longshore.api.buildkit.messages import SourceInfo
from longshore.api.buildkit.session import Session
from longshore.build.context import receive_context
from longshore.build.events import Done, Failed, Started, Step, Transfer
from longshore.build.ports import ContextFiles, DockerfileSource, Wanted
from longshore.build.trees import TarTree
from longshore.build.upload import ignore_of, read_text
from longshore.errors import EngineError, InvalidArgument
from longshore.registry.auth import Credentials

IGNORE = ".dockerignore"
ROW_STEP = 1 << 20  # bytes between two messages about a transfer


class SessionDoor:
    """One build's door. `close` gives back what no build has taken."""

    def __init__(
        self,
        session: Session,
        contexts: Contexts,
        attributes: Mapping[str, str],
        job: Job,
        scratch: Path,
    ) -> None:
        self._session, self._contexts, self._attributes = session, contexts, attributes
        self._job, self._scratch = job, scratch
        self._uploaded = job.uploaded

    async def dockerfile(self) -> DockerfileSource:
        name = self._attributes.get("filename") or "Dockerfile"
        source = await self._find_dockerfile(name)
        self._job.rendering.source = SourceInfo(source.name, source.data, "Dockerfile")
        return source

    async def context(self, name: str, wanted: Wanted) -> ContextFiles:
        if not name and self._from_stdin:
            return await self._upload()
        folder = name or self._attributes.get("contextkey") or "context"
        # The builder has a step for it, whose row this is.
        title = f"[internal] load build context{f' {name}' if name else ''}"
        step = partial(self._job.rendering.running, title)
        return await self._receive(folder, "transferring context:", step, wanted.paths, wanted.exclude)

    async def secret(self, id: str) -> bytes | None:
        return await attachables.secret(self._session, id)

    @asynccontextmanager
    async def ssh(self, id: str) -> AsyncGenerator[Path | None, None]:
        async with attachables.ssh_agent(self._session, id or "default") as path:
            yield path

    async def credentials(self, domain: str) -> Credentials | None:
        given = self._job.logins.get(domain)
        return given if given is not None else await attachables.credentials(self._session, domain)

    def close(self) -> None:
        """Twice is fine."""
        if self._uploaded is not None:
            self._uploaded.close()

    # Where the Dockerfile is

    @property
    def _from_stdin(self) -> bool:
        return self._attributes.get("context", "").startswith(attachables.UPLOADED)

    async def _find_dockerfile(self, name: str) -> DockerfileSource:
        own_folder = "dockerfilekey" in self._attributes
        if self._from_stdin and not own_folder:
            tree = await self._upload()
            data = read_text(tree, name)
            if data is None:
                raise _missing(name)
            return DockerfileSource(name, data, ignore_of(tree, name))
        if remote_context(self._attributes) and not own_folder:
            raise InvalidArgument("the Dockerfile is in the remote context")
        lower = posixpath.join(posixpath.dirname(name), "dockerfile")
        paths = [name, f"{name}.dockerignore"]
        if posixpath.basename(name) == "Dockerfile":
            paths.append(lower)
        folder = self._attributes.get("dockerfilekey") or "dockerfile"
        tree = await self._load(
            f"[internal] load build definition from {name}", folder, "transferring dockerfile:", paths
        )
        try:
            data = read_text(tree, name)
            if data is None:
                data = read_text(tree, lower)
            if data is None:
                raise _missing(name)
            ignore = read_text(tree, f"{name}.dockerignore")
        finally:
            tree.close()
        return DockerfileSource(name, data, ignore if ignore is not None else await self._ignore())

    async def _ignore(self) -> bytes | None:
        if self._attributes.get("context"):
            return None  # not the client's folder
        folder = self._attributes.get("contextkey") or "context"
        tree = await self._load(f"[internal] load {IGNORE}", folder, "transferring context:", (IGNORE,))
        try:
            return read_text(tree, IGNORE)
        finally:
            tree.close()

    # Transfers

    async def _load(self, title: str, folder: str, row: str, paths: Iterable[str]) -> SyncedTree:
        """One sync as a vertex of its own."""
        step = Step(_digest(self._job.ref, title), title)
        self._job.tell(Started(step))
        try:
            tree = await self._receive(folder, row, lambda: step.id, paths)
        except EngineError as error:
            self._job.tell(Failed(step.id, error))
            raise
        self._job.tell(Done(step.id))
        return tree

    async def _receive(
        self,
        folder: str,
        row: str,
        step: Callable[[], str],
        paths: Iterable[str],
        exclude: Iterable[str] = (),
    ) -> SyncedTree:
        told = 0

        def progress(done: int, last: bool) -> None:
            nonlocal told
            vertex = step()
            if vertex and (last or done - told > ROW_STEP):
                told = done
                self._job.tell(Transfer(vertex, row, "transferring", done, done=last))

        return await receive(
            self._session, self._contexts, folder, paths=paths, exclude=exclude, progress=progress
        )

    async def _upload(self) -> TarTree:
        """The context that the client reads from its standard input."""
        if self._uploaded is None:
            title = "[internal] load remote build context"
            step = Step(_digest(self._job.ref, title), title)
            self._job.tell(Started(step))
            chunks = attachables.uploaded(self._session, self._attributes["context"])
            self._uploaded = await receive_context(chunks, self._scratch)
            self._job.tell(Done(step.id))
        return self._uploaded


def _missing(name: str) -> InvalidArgument:
    return InvalidArgument(f"failed to read dockerfile: open {name}: no such file or directory")


def _digest(*words: str) -> str:
    return "sha256:" + hashlib.sha256("\0".join(words).encode()).hexdigest()
