"""Local volumes: plain directories `<root>/<name>/_data`, as Docker's local driver lays them out."""

import logging
import re
import secrets
import threading
from pathlib import Path

from longshore.errors import InvalidArgument, NotFound
from longshore.storage.content import space_errors
from longshore.storage.trees import remove_tree, tree_size

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MAX_NAME = 255
_TRASH = ".removing-"
log = logging.getLogger("longshore.storage")


class VolumeStore:
    """All calls block on the disk, but the files of a removed volume go in the background: where the file system
    discards freed blocks at once, that takes seconds for a large one. What an end of the process leaves of them
    goes after the store has opened again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o701)  # containers' users pass through, nobody lists
        for leftover in root.glob(f"{_TRASH}*"):
            _remove_later(leftover)

    def create(self, name: str) -> Path:
        """The volume's directory, made if needed. Raises InvalidArgument for a bad name, OutOfSpace."""
        path = self._path(name)
        with space_errors(self.root):
            path.parent.mkdir(mode=0o701, exist_ok=True)
            if not path.is_dir():
                path.mkdir()
                path.chmod(
                    0o755
                )  # independent of our umask; the first container copies the image's owner and mode
        return path

    def path(self, name: str) -> Path:
        """Raises NotFound."""
        path = self._path(name)
        if not path.is_dir():
            raise NotFound(f"get {name}: no such volume")
        return path

    def remove(self, name: str) -> None:
        """Delete the volume with its contents. Twice is fine."""
        trash = self.root / f"{_TRASH}{secrets.token_hex(8)}"
        try:
            self._path(name).parent.rename(trash)
        except FileNotFoundError:
            return
        _remove_later(trash)

    def size(self, name: str) -> int:
        """Bytes of the files inside; 0 for a volume that is gone."""
        return tree_size(self._path(name))

    def list(self) -> list[str]:
        names = (name for name in (e.name for e in self.root.iterdir()) if not name.startswith("."))
        return sorted(name for name in names if (self.root / name / "_data").is_dir())

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
            raise InvalidArgument(
                f'create {name[:100]}: "{name[:100]}" includes invalid characters for a local volume name, '
                'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed',
                hint="if you intended to pass a host directory, use an absolute path",
            )
        return self.root / name / "_data"


def _remove_later(tree: Path) -> None:
    """In a thread that the end of the process does not wait for."""

    def work() -> None:
        try:
            remove_tree(tree)
        except OSError as error:
            log.warning("cannot remove %s: %s", tree, error.strerror)

    threading.Thread(target=work, name="removal of a volume", daemon=True).start()
