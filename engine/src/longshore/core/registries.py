"""Registries that run inside the daemon: started and stopped on request, and found again after a restart.

Each is a folder `<data root>/registries/<name>` with its data and, as long as it is wanted, `settings.json`.
"""

import asyncio
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound, Unavailable

if TYPE_CHECKING:
    from longshore.registry.server.service import RegistryServer

log = logging.getLogger("longshore.registry.server")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


class Registries:
    """The server half is imported when the first one starts: it costs 20 MB and 200 ms."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._running: dict[str, RegistryServer] = {}
        self._failed: dict[str, str] = {}
        self._changing = asyncio.Lock()

    async def restore(self) -> None:
        """Start what was running; one that cannot is shown with its reason and stays wanted."""
        for path in sorted(self._root.glob("*/settings.json")):
            name = path.parent.name
            try:
                document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
                self._running[name] = await self._enter(name, document)
            except (EngineError, OSError, msgspec.MsgspecError) as error:
                log.error("the registry %s does not start: %s", name, error)
                self._failed[name] = str(error)

    async def start(self, name: str, document: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
        """Serve, now and after each start of the daemon. `document` and `words` are the registry's configuration.

        Raises InvalidArgument, Conflict when it runs, Unavailable for an address in use.
        """
        from longshore.registry.server.settings import with_words

        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"invalid name {name!r} of a registry", hint="letters, digits, dots, dashes"
            )
        wanted = with_words(document, words)
        async with self._changing:
            if name in self._running:
                raise Conflict(f"the registry {name} runs", hint=f"longshore registry stop {name}")
            server = await self._enter(name, wanted)
            self._running[name] = server
            self._failed.pop(name, None)
            await asyncio.to_thread(_keep, self._root / name / "settings.json", msgspec.json.encode(wanted))
        return self._status(name)

    async def _enter(self, name: str, document: Mapping[str, Any]) -> "RegistryServer":
        from longshore.registry.server.service import RegistryServer
        from longshore.registry.server.settings import make_settings

        given = document.get("storage")
        storage = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        if "filesystem" in storage:
            raise InvalidArgument(
                "a registry of the daemon is kept under its data root", detail="storage.filesystem"
            )
        quiet: dict[str, Any] = {"accesslog": {"disabled": True}}  # the daemon's log is not its request log
        given_http = document.get("http")
        http = cast("dict[str, Any]", given_http) if isinstance(given_http, dict) else {}
        placed: dict[str, Any] = {
            "log": quiet,
            **document,
            "http": {"draintimeout": "5s", **http},  # the daemon's own patience
            "storage": {**storage, "filesystem": {"rootdirectory": str(self._root / name)}},
        }
        return await RegistryServer(make_settings(placed)).__aenter__()

    async def stop(self, name: str) -> None:
        """End it for good; its data stays for the next start. Raises NotFound."""
        async with self._changing:
            if name not in self._running and name not in self._failed:
                raise NotFound(f"no such registry: {name}")
            (self._root / name / "settings.json").unlink(missing_ok=True)
            self._failed.pop(name, None)
            if server := self._running.pop(name, None):
                await server.__aexit__(None, None, None)

    def list(self) -> list[dict[str, Any]]:
        return [self._status(name) for name in sorted({*self._running, *self._failed})]

    def _status(self, name: str) -> dict[str, Any]:
        if server := self._running.get(name):
            return {"name": name, "status": "running", "error": "", **server.status()}
        return {"name": name, "status": "failed", "error": self._failed[name], "addresses": []}

    async def close(self) -> None:
        """The daemon ends; they are wanted again when it starts."""
        servers, self._running = list(self._running.values()), {}
        await asyncio.gather(*(server.__aexit__(None, None, None) for server in servers))


def _keep(path: Path, data: bytes) -> None:
    """Only for root's eyes: a pull-through cache has a password."""
    temporary = path.with_suffix(".new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except OSError as cause:
        raise Unavailable(f"cannot keep {path}", detail=cause.strerror or str(cause)) from cause
