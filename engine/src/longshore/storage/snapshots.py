"""The writable directories of containers: `<root>/<container id>/{upper,work}` for an overlay mount."""

from dataclasses import dataclass
from pathlib import Path

from longshore.errors import Conflict, InvalidArgument, NotFound
from longshore.storage.content import space_errors
from longshore.storage.trees import remove_tree, tree_size


@dataclass(frozen=True, slots=True)
class Writable:
    """`upper` collects a container's changes, `work` belongs to overlayfs; both on one file system."""

    upper: Path
    work: Path


class Snapshots:
    """All calls block on the disk. What a crash left half removed goes when the store opens."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in root.glob(".removing-*"):
            remove_tree(leftover)

    def create(self, id: str) -> Writable:
        """Make the directories. Raises Conflict when they exist, OutOfSpace with nothing left."""
        base = self._base(id)
        writable = Writable(base / "upper", base / "work")
        with space_errors(self.root):
            try:
                base.mkdir(mode=0o700)
            except FileExistsError as cause:
                raise Conflict("the container's directory exists already", detail=id) from cause
            try:
                for directory in (writable.upper, writable.work):
                    directory.mkdir()
                # the container's "/" takes its mode from here, whatever our umask is
                writable.upper.chmod(0o755)
            except OSError:
                remove_tree(base)
                raise
        return writable

    def get(self, id: str) -> Writable:
        """Raises NotFound."""
        base = self._base(id)
        if not base.is_dir():
            raise NotFound("no such snapshot", detail=id)
        return Writable(base / "upper", base / "work")

    def remove(self, id: str) -> None:
        """Delete the container's files. Twice is fine. An overlay that is still mounted keeps them until then."""
        base = self._base(id)
        trash = self.root / f".removing-{id}"
        try:
            base.rename(
                trash
            )  # at once gone for everybody; a crash from here on is finished at the next start
        except FileNotFoundError:
            pass
        remove_tree(trash)

    def size(self, id: str) -> int:
        """Bytes of the files a container has written (the "SizeRw" of the API); 0 without a snapshot."""
        return tree_size(self._base(id) / "upper")

    def list(self) -> list[str]:
        return sorted(name for name in (e.name for e in self.root.iterdir()) if not name.startswith("."))

    def _base(self, id: str) -> Path:
        if not id or "/" in id or id.startswith("."):
            raise InvalidArgument("invalid snapshot id", detail=repr(id))
        return self.root / id
