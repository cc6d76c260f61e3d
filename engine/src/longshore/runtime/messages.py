"""What daemon, zygote and monitor say to each other.

Every message is a msgspec struct, sent as a 4-byte big-endian length and JSON over a unix stream socket;
descriptors travel beside the first byte (SCM_RIGHTS). After the answer `Attached` or `ExecStarted` the
connection stops carrying messages and carries the bytes of the stream: from the monitor Docker's multiplexed
frames (raw bytes with a tty), to the monitor raw standard input, whose end is told by shutdown(SHUT_WR).
"""

import msgspec

from longshore.oci.runtime_spec import Process, Spec


class OverlayRoot(msgspec.Struct, frozen=True, tag="overlay"):
    """An overlay mounted inside the container's own mount namespace: the host sees no mount.

    `lowers` are names relative to `layers_dir`, newest first, so that many layers fit into the
    one page that mount(2) takes as data. `upper` and `work` are absolute. Empty `upper`: read-only.
    """

    layers_dir: str
    lowers: tuple[str, ...]
    upper: str = ""
    work: str = ""


class PlainRoot(msgspec.Struct, frozen=True, tag="plain"):
    """A root that exists as a folder (longshore-oci bundles)."""

    path: str


class LogSource(msgspec.Struct, frozen=True):
    """What a log driver may tell about its container. `tag` is worked out, `attributes` are the chosen ones."""

    id: str = ""
    name: str = ""
    image_id: str = ""
    image_name: str = ""
    tag: str = ""
    attributes: dict[str, str] = {}


class LogHelper(msgspec.Struct, frozen=True):
    """A process beside the monitor that passes the output on by a driver (`runtime/logdrivers`).

    `driver` names what to import, "package.module" or "package.module:attribute". `buffer`: bytes that wait for a slow
    target before output is dropped (Docker's mode non-blocking); 0: the container waits.
    """

    driver: str
    source: LogSource
    options: dict[str, str] = {}
    buffer: int = 0
    file: "LogTarget | None" = (
        None  # of a driver that writes a file, when that must not make the container wait
    )


class LogTarget(msgspec.Struct, frozen=True):
    """A log that the monitor writes. Sizes in bytes; `max_size` 0 never rotates. Empty `path`: no file.

    `format`: json or cri (`logentries.py`). `attributes` are in each entry of json.
    """

    path: str = ""
    max_size: int = 0
    max_files: int = 1
    compress: bool = False
    format: str = "json"
    attributes: dict[str, str] = {}
    helper: LogHelper | None = None


class Launch(msgspec.Struct, frozen=True, tag="launch"):
    """Daemon to zygote: fork a monitor for one run of one container.

    The message carries one descriptor, the monitor's end of the connection to the daemon ("watch").
    `state_dir` (on tmpfs) gets `control.sock` and `state.json`; `exit_path` (on disk) gets the exit record.
    """

    id: str
    spec: Spec
    rootfs: OverlayRoot | PlainRoot
    state_dir: str
    exit_path: str
    log: LogTarget | None = None
    stdin_open: bool = False
    stdin_once: bool = False
    bundle: str = (
        ""  # of longshore-oci: relative sources of bind mounts are meant from here, hooks are told it
    )
    systemd_cgroup: bool = False  # cgroupsPath is slice:prefix:name, and systemd makes the group


# Daemon to monitor, over the watch connection or a new connection to control.sock


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """First message of a reconnecting daemon: answered by State, then Exited and ExecExited as they come.

    Ends of execs that nobody was told about, because no daemon was there, follow the State.
    """


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The network is plugged in: let init execute its program.

    Answered by Started or Failed. When the last watcher leaves before this was sent, the run is undone.
    """


class Signal(msgspec.Struct, frozen=True, tag="signal"):
    number: int


class Resize(msgspec.Struct, frozen=True, tag="resize"):
    """Size of the tty of the container (`exec_id` empty) or of one exec."""

    height: int
    width: int
    exec_id: str = ""


class RotateLog(msgspec.Struct, frozen=True, tag="rotate-log"):
    """Begin a new log file, because all logs together have become too much. Not answered."""


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class Exec(msgspec.Struct, frozen=True, tag="exec"):
    """Run one more process inside. `attach` false: detached, its output is dropped."""

    id: str
    process: Process
    attach: bool = True
    stdin: bool = False


# Monitor to daemon


class Created(msgspec.Struct, frozen=True, tag="created"):
    """Namespaces and root exist; init waits for Start.

    Carries two descriptors when the container has a network namespace of its own: the namespace
    and a NETLINK_ROUTE socket opened inside it (a socket keeps the namespace it was born in, netlink(7)),
    so that the daemon configures addresses without ever calling setns(2).
    """

    pid: int


class Started(msgspec.Struct, frozen=True, tag="started"):
    """`warnings`: limits that this machine cannot give and that were lowered or left out."""

    at: str  # RFC 3339 with nanoseconds, UTC
    warnings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The step that was asked for failed and everything it had made is gone again.

    `kind` names the class in `longshore.errors`; unknown or empty is StartFailed.
    """

    what: str
    errno: int = 0
    detail: str = ""
    hint: str = ""
    kind: str = ""


class State(msgspec.Struct, frozen=True, tag="state"):
    pid: int
    started_at: str
    execs: tuple[str, ...] = ()


class Attached(msgspec.Struct, frozen=True, tag="attached"):
    pass


class ExecStarted(msgspec.Struct, frozen=True, tag="exec-started"):
    pid: int


class ExecExited(msgspec.Struct, frozen=True, tag="exec-exited"):
    id: str
    code: int


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The exit record, also the contents of `exit_path`. A death by signal n is code 128+n."""

    code: int
    finished_at: str
    oom_killed: bool = False
    error: str = ""


ToMonitor = Watch | Start | Signal | Resize | RotateLog | Attach | Exec
FromMonitor = Created | Started | Failed | State | Attached | ExecStarted | ExecExited | Exited
