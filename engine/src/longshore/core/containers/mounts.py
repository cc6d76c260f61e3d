"""What a create request mounts: Binds, Mounts, Tmpfs, the image's VOLUMEs and VolumesFrom, as one plan. Pure.

A planned mount has no source yet when it names a volume; `resolve` in volumes' use fills it in.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from longshore.core.containers.record import MountPoint
from longshore.core.fields import about
from longshore.core.model import (
    BindOptions,
    Empty,
    HostConfig,
    MountRequest,
    TmpfsOptions,
    VolumeOptions,
)
from longshore.core.validate import check_volume_driver
from longshore.errors import InvalidArgument

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PROPAGATIONS = frozenset({"shared", "rshared", "slave", "rslave", "private", "rprivate"})
_FLAGS = frozenset({"ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated", "bind", "rbind"})
_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev")  # Docker's for --tmpfs; for --mount as well
_CONSISTENCIES = frozenset({"", "default", "consistent", "cached", "delegated"})  # for macOS; nothing to us
_OPTIONS_OF = {
    "bind": "bind_options",
    "volume": "volume_options",
    "tmpfs": "tmpfs_options",
    "image": "image_options",
}
_OPPOSITES = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}


def clean_target(path: str, field: str) -> str:
    """An absolute path without "..": image volumes like /../../etc stay inside. Raises InvalidArgument."""
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{path}' mount path must be absolute", detail=field)
    if "\0" in path or len(path) > 4096:
        raise InvalidArgument("invalid mount path", detail=field)
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise InvalidArgument(f"invalid specification: destination can't be '/' in {field}")
    return clean


def parse_bind(text: str) -> MountPoint:
    """One entry of HostConfig.Binds: `/host:/container[:options]`, `name:/container[:options]` or `/container`."""
    parts = text.split(":")
    wrong = InvalidArgument(f"invalid volume specification: '{text}'")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise wrong
    if len(parts) == 1:
        return MountPoint("volume", "", clean_target(text, "HostConfig.Binds"), anonymous=True, copy_up=True)
    source, target, mode = (
        parts[0],
        clean_target(parts[1], "HostConfig.Binds"),
        (parts[2] if len(parts) == 3 else ""),
    )
    flags = [flag for flag in mode.split(",") if flag]
    if unknown := [flag for flag in flags if flag not in _FLAGS | _PROPAGATIONS]:
        raise InvalidArgument(f"invalid volume specification: '{text}': invalid mode: {unknown[0]}")
    if "ro" in flags and "rw" in flags:
        raise InvalidArgument(f"invalid volume specification: '{text}': invalid mode: {mode}")
    writable = "ro" not in flags
    propagation = next((flag for flag in flags if flag in _PROPAGATIONS), "")
    if source.startswith("/"):
        return MountPoint(
            "bind",
            posixpath.normpath(source),
            target,
            mode=mode,
            read_write=writable,
            propagation=propagation or "rprivate",
            recursive_read_only=not writable,
            create_source=True,
        )
    check_volume_name(source)
    if propagation:
        raise InvalidArgument(f"invalid volume specification: '{text}': propagation is for bind mounts only")
    return MountPoint(
        "volume",
        "",
        target,
        name=source,
        mode=mode or "z",
        read_write=writable,
        copy_up="nocopy" not in flags,
    )


def check_volume_name(name: str) -> None:
    """Raises InvalidArgument with Docker's words."""
    if not VOLUME_NAME.fullmatch(name) or len(name) > 255:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def parse_mount(request: MountRequest) -> MountPoint:
    """One entry of HostConfig.Mounts. Raises InvalidArgument in Docker's form."""
    parse = {"bind": _bind, "volume": _volume, "tmpfs": _tmpfs, "image": _image}.get(request.type)
    if parse is None:
        raise _wrong(request, "mount type unknown")
    if not request.target:
        raise _wrong(request, "field Target must not be empty")
    if request.consistency not in _CONSISTENCIES:
        raise _wrong(request, f"invalid Consistency {request.consistency!r}")
    for kind, name in _OPTIONS_OF.items():
        if kind != request.type and getattr(request, name) is not None:
            field = f"{kind.capitalize()}Options"
            raise _wrong(request, f"field {field} must not be specified")
    return parse(request, clean_target(request.target, "HostConfig.Mounts"))


def _wrong(request: MountRequest, reason: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "{request.type}": {reason}')


def _bind(request: MountRequest, target: str) -> MountPoint:
    if not request.source:
        raise _wrong(request, "field Source must not be empty")
    if not request.source.startswith("/") or "\0" in request.source:
        raise _wrong(request, f"invalid mount path: '{request.source}' mount path must be absolute")
    options = request.bind_options or BindOptions()
    if options.propagation and options.propagation not in _PROPAGATIONS:
        raise _wrong(request, f"invalid propagation mode: {options.propagation}")
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise _wrong(request, "ReadOnlyNonRecursive and ReadOnlyForceRecursive contradict each other")
    if options.read_only_force_recursive and options.propagation not in ("", "rprivate"):
        raise _wrong(request, "ReadOnlyForceRecursive needs the propagation rprivate")
    return MountPoint(
        "bind",
        posixpath.normpath(request.source),
        target,
        read_write=not request.read_only,
        propagation=options.propagation or "rprivate",
        non_recursive=options.non_recursive,
        recursive_read_only=request.read_only and not options.read_only_non_recursive,
        create_source=options.create_mountpoint,
    )


def _volume(request: MountRequest, target: str) -> MountPoint:
    options = request.volume_options or VolumeOptions()
    if request.source:
        check_volume_name(request.source)
    check_subpath(request, options.subpath)
    if options.driver_config is not None:
        check_volume_driver(options.driver_config.name)
        if options.driver_config.options:
            raise _wrong(
                request, f"invalid volume options: {', '.join(sorted(options.driver_config.options))}"
            )
    return MountPoint(
        "volume",
        "",
        target,
        name=request.source,
        mode="z",
        read_write=not request.read_only,
        copy_up=not (options.no_copy or options.subpath),
        anonymous=not request.source,
        subpath=options.subpath,
        labels=options.labels,
    )


def check_subpath(request: MountRequest, subpath: str) -> None:
    """Raises InvalidArgument for one that leads out."""
    if subpath.startswith("/") or ".." in subpath.split("/") or "\0" in subpath:
        raise _wrong(request, "subpath must be a relative path within the volume")


def _image(request: MountRequest, target: str) -> MountPoint:
    """Read-only: the layers belong to every container that uses them."""
    if not request.source:
        raise _wrong(request, "field Source must not be empty")
    subpath = request.image_options.subpath if request.image_options else ""
    check_subpath(request, subpath)
    return MountPoint("image", request.source, target, read_write=False, subpath=subpath)


def _tmpfs(request: MountRequest, target: str) -> MountPoint:
    if request.source:
        raise _wrong(request, "field Source must not be specified")
    options = request.tmpfs_options or TmpfsOptions()
    if options.size_bytes < 0 or not 0 <= options.mode <= 0o7777:
        raise _wrong(request, "invalid TmpfsOptions")
    words = [word for pair in options.options or () for word in ["=".join(pair)]]
    given = parse_tmpfs(target, ",".join(words)).options if words else _TMPFS_DEFAULTS
    data = [*given]
    data += [f"size={options.size_bytes}"] if options.size_bytes else []
    data += [f"mode={options.mode:o}"] if options.mode else []
    data += ["ro"] if request.read_only else []
    return MountPoint("tmpfs", "", target, read_write=not request.read_only, options=tuple(data))


def parse_tmpfs(target: str, options: str) -> MountPoint:
    """One entry of HostConfig.Tmpfs: `/run: rw,size=64m,mode=1777`."""
    flags = [flag for flag in options.split(",") if flag]
    for flag in flags:
        name, _, value = flag.partition("=")
        known = name in ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks") and value
        plain = name in (
            "ro",
            "rw",
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "sync",
            "async",
            "dirsync",
        )
        times = name in (
            "noatime",
            "atime",
            "relatime",
            "norelatime",
            "strictatime",
            "nodiratime",
            "diratime",
        )
        if not (known or ((plain or times) and not value)) or not re.fullmatch(r"[\w=%.]+", flag):
            raise InvalidArgument(f'invalid tmpfs option "{flag}" in HostConfig.Tmpfs')
    defaults = [flag for flag in _TMPFS_DEFAULTS if _OPPOSITES[flag] not in flags and flag not in flags]
    return MountPoint(
        "tmpfs",
        "",
        clean_target(target, "HostConfig.Tmpfs"),
        mode=options,
        read_write="ro" not in flags,
        options=(*defaults, *flags),
    )


def inherit(text: str, mounts_of: Mapping[str, Sequence[MountPoint]]) -> list[MountPoint]:
    """VolumesFrom: `container[:ro|rw]`; `mounts_of` has the named containers' mounts by the name as written."""
    name, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid mode for volumes-from: {mode}")
    return [
        msgspec.structs.replace(
            mount, read_write=mount.read_write and mode != "ro", anonymous=False, copy_up=False, mode=mode
        )
        for mount in mounts_of[name]
        if mount.type != "tmpfs"
    ]


def plan_mounts(
    host: HostConfig, image_volumes: Iterable[str] | None, mounts_of: Mapping[str, Sequence[MountPoint]]
) -> list[MountPoint]:
    """All mounts of a new container, parents before children; what the user wrote wins over the image's VOLUMEs.

    Raises InvalidArgument, also when two of the user's have the same target.
    """
    with about("HostConfig.Binds"):
        written = [parse_bind(text) for text in host.binds or ()]
    with about("HostConfig.Mounts"):
        written += [parse_mount(request) for request in host.mounts or ()]
    with about("HostConfig.Tmpfs"):
        written += [parse_tmpfs(target, options) for target, options in (host.tmpfs or {}).items()]
    chosen: dict[str, MountPoint] = {}
    with about("HostConfig.VolumesFrom"):
        for text in host.volumes_from or ():
            chosen |= {mount.target: mount for mount in inherit(text, mounts_of)}
    own: set[str] = set()
    for mount in written:
        if mount.target in own:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}")
        own.add(mount.target)
        chosen[mount.target] = mount
    for path in image_volumes or ():
        target = clean_target(path, "Config.Volumes")
        chosen.setdefault(target, MountPoint("volume", "", target, anonymous=True, copy_up=True))
    return sorted(chosen.values(), key=lambda mount: mount.target.count("/"))


def image_volume_paths(volumes: Mapping[str, Empty] | None) -> list[str]:
    """Config.Volumes may also hold binds from old clients ("/a:/b"): those are refused, as Docker does."""
    for path in volumes or ():
        if ":" in path:
            raise InvalidArgument(f"invalid Config.Volumes entry {path!r}: use HostConfig.Binds")
    return list(volumes or ())
