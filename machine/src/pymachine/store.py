"""The store: a folder that holds every machine, in docker-machine's layout.

    <root>/certs/{ca,ca-key,cert,key}.pem            the store's own authority and its client
    <root>/machines/<name>/config.json               the machine (pymachine.record)
    <root>/machines/<name>/create.journal            only while it is half made
    <root>/machines/<name>/{id_ed25519,known_hosts}  how to log in, and its pinned host keys
    <root>/machines/<name>/{ca,cert,key,server,server-key}.pem
    <root>/locks/<name>                              flock(2), only while somebody works on it

Readers take no lock: files appear whole by rename. Whoever changes a machine holds its lock.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Generator
from pathlib import Path

from pymachine import record
from pymachine.errors import Busy, NotFound, StoreError
from pymachine.files import leftovers, make_private, write_atomic
from pymachine.names import parse_name
from pymachine.record import MachineFiles, MachineRecord

_POLL = 0.1


def default_root() -> Path:
    """`$PYMACHINE_STORAGE_PATH`, else `~/.pymachine`."""
    configured = os.environ.get("PYMACHINE_STORAGE_PATH")
    return Path(configured) if configured else Path.home() / ".pymachine"


class Store:
    """All machines of one user. Creating the object touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def certificates(self) -> Path:
        return self.root / "certs"

    def files(self, name: str) -> MachineFiles:
        """The paths of a machine that may or may not exist."""
        return MachineFiles(self.root / "machines" / parse_name(name))

    def names(self) -> list[str]:
        """All machines, sorted; those with a broken config and the half-made ones included."""
        try:
            entries = [entry for entry in (self.root / "machines").iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as cause:
            raise StoreError(f"cannot read the store {self.root}", detail=cause.strerror or "") from cause
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))

    def exists(self, name: str) -> bool:
        """Is there a folder of that name?"""
        return self.files(name).folder.is_dir()

    def load(self, name: str) -> MachineRecord:
        """Read a machine. NotFound when there is none, StoreError when its config cannot be understood."""
        files = self.files(name)
        try:
            value = json.loads(files.config.read_bytes())
        except FileNotFoundError as cause:
            if files.folder.is_dir():
                raise StoreError(
                    f"machine {name!r} has no config.json", hint=f"'pymachine rm -f {name}' removes the rest"
                ) from cause
            raise NotFound(
                f"machine {name!r} does not exist",
                hint="'pymachine ls' lists machines, 'pymachine create' adds one",
            ) from cause
        except OSError as cause:
            raise StoreError(f"cannot read {files.config}", detail=cause.strerror or "") from cause
        except ValueError as cause:
            raise StoreError(f"{files.config} is not JSON", detail=str(cause)) from cause
        try:
            loaded = record.decode(value)
        except StoreError as cause:
            raise StoreError(f"{files.config} is not understood", detail=str(cause)) from cause
        loaded.name = name  # the folder decides: a copied or renamed store stays consistent
        return loaded

    def save(self, machine: MachineRecord) -> None:
        """Write a machine; its lock must be held."""
        files = self.files(machine.name)
        make_private(files.folder)
        write_atomic(files.config, json.dumps(record.encode(machine, self.root), indent=4) + "\n")

    def delete(self, name: str) -> None:
        """Forget a machine, at once for readers; its lock must be held. Twice is fine."""
        folder = self.files(name).folder
        machines = folder.parent
        try:
            if folder.exists():
                folder.rename(machines / f".trash-{name}-{secrets.token_hex(4)}")
            for trash in machines.glob(f".trash-{name}-*"):  # also what a killed delete left
                shutil.rmtree(trash)
        except OSError as cause:
            raise StoreError(f"cannot remove {folder}", detail=cause.strerror or "") from cause

    @contextlib.contextmanager
    def lock(self, name: str, purpose: str, *, timeout: float = 10.0) -> Generator[None]:
        """Be the only one who changes the machine. Busy after `timeout` seconds, naming who works on it."""
        folder = self.files(name).folder
        with self._flock(name, purpose, f"machine {name!r}", timeout):
            for leftover in leftovers(folder):
                leftover.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def lock_shared(self, what: str, *, timeout: float = 60.0) -> Generator[None]:
        """Be the only one who works on something that all machines share: "certificates", "image"."""
        # No machine name begins with a dot, so the two kinds of locks cannot meet.
        with self._flock(f".{what}", what, f"the store's {what}", timeout):
            yield

    @contextlib.contextmanager
    def _flock(self, name: str, purpose: str, what: str, timeout: float) -> Generator[None]:
        make_private(self.root / "locks")
        path = self.root / "locks" / name
        deadline = time.monotonic() + timeout
        while True:
            descriptor = self._try_flock(path)
            if descriptor is not None:
                break
            if time.monotonic() >= deadline:
                raise Busy(
                    f"another pymachine works on {what}", detail=_holder(path), hint="wait for it to end"
                )
            time.sleep(_POLL)
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"pid {os.getpid()}, {purpose}\n".encode())
            yield
        finally:
            path.unlink(missing_ok=True)  # while held: who waits for it sees that the name moved on
            os.close(descriptor)

    @staticmethod
    def _try_flock(path: Path) -> int | None:
        """The locked descriptor, or None when somebody else has it or has just removed the file."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            raise StoreError(f"cannot open the lock {path}", detail=cause.strerror or "") from cause
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass  # held by another, or its holder removed the file between our open and our lock
        os.close(descriptor)
        return None


def _holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
