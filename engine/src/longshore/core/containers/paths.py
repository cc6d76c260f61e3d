"""Where a container's own files are."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """`data` survives a reboot (records, logs, exit records), `run` does not need to (tmpfs: sockets)."""

    data: Path
    run: Path

    def folder(self, id: str) -> Path:
        """The container's own folder: hosts files, log, exit record."""
        return self.data / "containers" / id

    def state(self, id: str) -> Path:
        return self.run / "containers" / id

    def exit_record(self, id: str) -> Path:
        return self.folder(id) / "exit.json"
