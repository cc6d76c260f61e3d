"""What is remembered of a container between two commands, and what its processes say about its state now."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from longshore.errors import InvalidArgument, NotFound
from longshore.oci.runtime_spec import Spec

_ID = re.compile(r"[A-Za-z0-9_+.-]+")


class State(msgspec.Struct):
    """`started` is the start time of the pid, which tells it from a later process of the same number.

    `spec` stays text until somebody needs it: most commands do not.
    """

    id: str
    bundle: str
    rootfs: str
    pid: int
    started: int
    created: str
    cgroup: str
    oci_version: str
    annotations: dict[str, str]
    spec: msgspec.Raw
    own_pids: bool = True  # a pid namespace of its own: all end with the first process
    owner: str = "root"

    def decode_spec(self) -> Spec:
        return msgspec.json.decode(self.spec, type=Spec)


class Store:
    """The folder of --root. `systemd`: the cgroup driver that new containers get."""

    def __init__(self, root: str, *, systemd: bool) -> None:
        self.root, self.systemd = Path(root), systemd

    def folder(self, container_id: str) -> Path:
        if not _ID.fullmatch(container_id) or container_id in (".", ".."):
            raise InvalidArgument(f'invalid id format: "{container_id}"')
        return self.root / container_id

    def load(self, container_id: str) -> State:
        try:
            data = (self.folder(container_id) / "state.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(f'container "{container_id}" does not exist') from None
        return msgspec.json.decode(data, type=State)

    def save(self, state: State) -> None:
        path = self.folder(state.id) / "state.json"
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(state))
        temporary.rename(path)

    def all(self) -> list[State]:
        """In the order of their names; a container that is deleted meanwhile is left out."""
        found: list[State] = []
        for path in sorted(self.root.glob("*/state.json")):
            try:
                found.append(self.load(path.parent.name))
            except NotFound:
                continue
        return found

    def forget(self, container_id: str) -> None:
        import shutil  # not for the commands that only look

        shutil.rmtree(self.folder(container_id), ignore_errors=True)

    def gate(self, container_id: str) -> Path:
        """The socket at which a created container waits; `start` removes it."""
        return self.folder(container_id) / "start.sock"

    def status(self, state: State) -> str:
        """created, running, paused or stopped."""
        if not is_alive(state):
            return "stopped"
        if is_frozen(state.cgroup):
            return "paused"
        return "created" if self.gate(state.id).exists() else "running"


def start_time(pid: int) -> int:
    """Field 22 of /proc/pid/stat; 0 for a process that is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def is_alive(state: State) -> bool:
    return start_time(state.pid) == state.started


def open_process(state: State) -> int | None:
    """A pidfd of the container's first process; None when it has ended."""
    try:
        pidfd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return None
    if is_alive(state):
        return pidfd
    os.close(pidfd)
    return None


def is_frozen(cgroup: str) -> bool:
    from longshore.runtime.cgroup_layout import layout

    where = layout()
    try:
        if where.pure_v2:
            path = f"{where.hierarchies[0].path(cgroup)}/cgroup.freeze"
        else:
            hierarchy = where.find("freezer")
            if hierarchy is None:
                return False
            path = f"{hierarchy.path(cgroup)}/freezer.state"
        with open(path) as file:
            return file.read().strip() in ("1", "FROZEN", "FREEZING")
    except OSError:
        return False  # the group is gone
