"""What the database keeps about a container, and nothing that the kernel knows better."""

from typing import Any

import msgspec

from longshore.core.model import Config, HostConfig, NetworkingConfig
from longshore.core.userns import Owners
from longshore.network.model import Endpoint

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which clients test for


class HealthResult(msgspec.Struct, frozen=True):
    start: str
    end: str
    exit_code: int
    output: str


class Health(msgspec.Struct):
    status: str = "starting"  # starting, healthy, unhealthy
    failing_streak: int = 0
    log: list[HealthResult] = []


class State(msgspec.Struct):
    """`status` is one of created, running, paused, restarting, removing, exited, dead."""

    status: str = "created"
    pid: int = 0
    pid_start: int = 0  # its start time: a pid alone may be another process's by now
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: str = NEVER
    finished_at: str = NEVER
    restart_count: int = 0
    stopped_by_user: bool = False  # keeps `unless-stopped` down and stops the restart policy
    starting: bool = False  # written before the program runs: the start is not acknowledged yet
    ever_started: bool = False
    health: Health | None = None


class MountPoint(msgspec.Struct, frozen=True):
    """One mount that the user asked for, resolved: `source` is a host path, empty for tmpfs."""

    type: str  # bind, volume, tmpfs
    source: str
    target: str
    name: str = ""  # volume
    driver: str = ""
    mode: str = ""  # as written, "ro,z"
    read_write: bool = True
    propagation: str = ""
    options: tuple[str, ...] = ()  # tmpfs data
    copy_up: bool = False
    anonymous: bool = False  # removed with the container
    subpath: str = ""
    recursive_read_only: bool = False
    non_recursive: bool = False
    create_source: bool = False  # make the host's folder
    layers: tuple[str, ...] = ()  # of a mount of type image that no image stands for: names, newest first
    scratch: str = ""  # of such a mount: a folder with upper and work for what is written to it
    labels: dict[str, str] | None = None  # of the volume, when it is made for this mount


class Record(msgspec.Struct):
    id: str
    name: str
    created: str
    image_id: str  # "sha256:…", also when the tag has moved on
    config: Config  # image defaults merged in
    host_config: HostConfig
    networking: NetworkingConfig
    state: State
    mounts: list[MountPoint] = []
    endpoints: dict[str, Endpoint] = {}  # by network name
    platform: str = "linux"
    path: str = ""  # entrypoint and command, as inspect shows them
    args: list[str] = []
    graph: dict[str, str] = {}  # the overlay's directories, for inspect
    default_apparmor: str = ""  # the profile of the engine, when it last started
    successor_of: str = ""  # the container whose host ports this one waits for
    owners: Owners = Owners()  # of a user namespace of its own
    layers: list[str] = []  # of a build's step, which no image stands for: its root, names newest first
    desired: Any = None  # the normalised request of `apply`; opaque to core
