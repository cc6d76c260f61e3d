"""Device nodes of the host that a container asks for: from names to numbers."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from longshore.core import model
from longshore.core.model import DeviceMapping
from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import BlockIo, Device, ThrottleDevice, WeightDevice

Granted = tuple[Device, str]  # a node and the letters of rwm that the device cgroup allows

# Every container gets its own of these; of the host's /dev only the rest is given to privileged ones.
_OWN = frozenset(
    [
        "pts",
        "shm",
        "mqueue",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "console",
        "ptmx",
        "core",
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        ".longshore",
    ]
)
_DEEPEST = 8


def requested_devices(mappings: Sequence[DeviceMapping]) -> list[Granted]:
    """The nodes of HostConfig.Devices; a directory gives all nodes in it. Raises InvalidArgument."""
    found: list[Granted] = []
    for mapping in mappings:
        source = Path(os.path.realpath(mapping.path_on_host))
        target = mapping.path_in_container or mapping.path_on_host
        access = mapping.cgroup_permissions or "rwm"
        try:
            nodes = list(_nodes(source, target, 0)) if source.is_dir() else [_node(source, target)]
        except OSError as cause:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{mapping.path_on_host}"',
                detail=cause.strerror or str(cause),
            ) from cause
        if not nodes or None in nodes:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{mapping.path_on_host}": '
                "not a device node"
            )
        found += [(node, access) for node in nodes if node is not None]
    return found


def block_io(limits: model.Resources) -> BlockIo | None:
    """The limits on single disks, None when there are none. Raises InvalidArgument for what is not a disk."""
    if not any(
        (
            limits.blkio_weight_device,
            limits.blkio_device_read_bps,
            limits.blkio_device_write_bps,
            limits.blkio_device_read_iops,
            limits.blkio_device_write_iops,
        )
    ):
        return None

    def throttles(requests: Sequence[model.ThrottleDevice] | None) -> tuple[ThrottleDevice, ...]:
        return tuple(ThrottleDevice(*_disk(request.path), request.rate) for request in requests or ())

    return BlockIo(
        weight_device=tuple(
            WeightDevice(*_disk(request.path), request.weight) for request in limits.blkio_weight_device or ()
        ),
        throttle_read_bps_device=throttles(limits.blkio_device_read_bps),
        throttle_write_bps_device=throttles(limits.blkio_device_write_bps),
        throttle_read_iops_device=throttles(limits.blkio_device_read_iops),
        throttle_write_iops_device=throttles(limits.blkio_device_write_iops),
    )


def _disk(path: str) -> tuple[int, int]:
    """The numbers of a whole disk: the kernel limits no partitions."""
    try:
        status = Path(path).stat()
    except OSError as cause:
        raise InvalidArgument(f"invalid device {path!r}", detail=cause.strerror or str(cause)) from cause
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"invalid device {path!r}", detail="not a block device")
    numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
    if Path(f"/sys/dev/block/{numbers[0]}:{numbers[1]}/partition").exists():
        raise InvalidArgument(f"invalid device {path!r}", detail="a partition", hint="name the whole disk")
    return numbers


def host_devices(root: Path = Path("/dev")) -> list[Granted]:
    """Everything below /dev that a privileged container sees."""
    return [(node, "rwm") for node in _nodes(root, "/dev", 0)]


def _nodes(folder: Path, target: str, depth: int) -> Iterator[Device]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in _OWN or entry.is_symlink():
            continue
        name = f"{target.rstrip('/')}/{entry.name}"
        try:
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEEPEST:
                    yield from _nodes(Path(entry.path), name, depth + 1)
            elif node := _node(Path(entry.path), name):
                yield node
        except FileNotFoundError:
            continue  # unplugged meanwhile


def _node(path: Path, target: str) -> Device | None:
    status = path.lstat()
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        return None
    return Device(
        path=target,
        type=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )
