"""Devices by the Container Device Interface, `--device vendor.com/class=name` and `--gpus`.

Vendors put files into /etc/cdi and /var/run/cdi that say what a container needs for a device: nodes, mounts,
variables, hooks (CDI specification 0.6 to 1.0, https://github.com/cncf-tags/container-device-interface).
Files are read at each use, as the specification asks: a driver may write them at any time.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from longshore.core.model import DeviceRequest
from longshore.errors import InvalidArgument
from longshore.oci import runtime_spec as oci
from longshore.runtime.hooks import FIELDS as HOOK_FIELDS

log = logging.getLogger(__name__)

SPEC_DIRS = ("/etc/cdi", "/var/run/cdi")  # the later one wins
_VERSION = re.compile(r"v?(0\.[3-9]|1\.0)\.\d+")  # 1.1 adds network devices, which are refused below anyway
_KIND = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_LARGEST_FILE = 8 << 20
_GPU_KINDS = ("nvidia.com/gpu", "amd.com/gpu")  # of --gpus without a driver's name; then any other */gpu


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    pass


class _Node(_Wire, frozen=True):
    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class _Mount(_Wire, frozen=True):
    host_path: str
    container_path: str
    type: str = ""
    options: list[str] = []


class _Hook(_Wire, frozen=True):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class _Edits(_Wire, frozen=True):
    env: list[str] = []
    device_nodes: list[_Node] = []
    mounts: list[_Mount] = []
    hooks: list[_Hook] = []
    additional_gids: list[int] = []
    intel_rdt: dict[str, Any] | None = None
    net_devices: list[Any] = []


class _Device(_Wire, frozen=True):
    name: str
    container_edits: _Edits = _Edits()


class _File(_Wire, frozen=True):
    cdi_version: str
    kind: str
    devices: list[_Device]
    container_edits: _Edits = _Edits()


@dataclass(slots=True)
class Edits:
    """What the chosen devices add to a container."""

    env: list[str] = field(default_factory=list[str])
    devices: list[tuple[oci.Device, str]] = field(default_factory=list[tuple[oci.Device, str]])
    mounts: list[oci.Mount] = field(default_factory=list[oci.Mount])
    hooks: dict[str, list[oci.Hook]] = field(default_factory=dict[str, list[oci.Hook]])
    gids: list[int] = field(default_factory=list[int])

    def hooks_value(self) -> oci.Hooks | None:
        return (
            oci.Hooks(**{point: tuple(hooks) for point, hooks in self.hooks.items()}) if self.hooks else None
        )


class Registry:
    """The devices that the files of some folders describe."""

    def __init__(self, folders: Sequence[str] = SPEC_DIRS) -> None:
        self.devices: dict[str, tuple[_File, _Device]] = {}  # by "vendor.com/class=name"
        self.problems: list[str] = []
        for folder in folders:
            self._read_folder(Path(folder))

    def _read_folder(self, folder: Path) -> None:
        found: dict[str, tuple[_File, _Device]] = {}
        double: set[str] = set()
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".yml"))
        except OSError:
            return  # there need not be one
        for path in paths:
            try:
                file = parse_file(_read(path), yaml=path.suffix != ".json")
            except (InvalidArgument, OSError) as error:
                self.problems.append(f"{path}: {error}")
                log.warning("CDI file %s is left out: %s", path, error)
                continue
            for device in file.devices:
                name = f"{file.kind}={device.name}"
                if name in found:
                    double.add(name)
                    self.problems.append(f"{name} is described twice in {folder}")
                found[name] = (file, device)
        for name in double:
            del found[name]
        self.devices |= found

    def of_kind(self, kind: str) -> list[str]:
        """The devices of one kind but for the one that stands for all, in the order of their names."""
        names = [name for name in self.devices if name.startswith(f"{kind}=") and not name.endswith("=all")]
        return sorted(names, key=lambda name: (len(name), name))

    def select(self, requests: Iterable[DeviceRequest]) -> list[str]:
        """Names of the devices that the requests mean. Raises InvalidArgument in dockerd's words."""
        chosen: list[str] = []
        for request in requests:
            if request.driver == "cdi":
                chosen += request.device_ids or ()
            else:
                chosen += self._gpus(request)
        unknown = [name for name in chosen if name not in self.devices]
        if unknown:
            raise InvalidArgument(
                f"CDI device injection failed: unresolvable CDI devices {', '.join(unknown)}",
                detail="; ".join(self.problems),
                hint=f"known: {', '.join(sorted(self.devices))}" if self.devices else "no CDI file was found",
            )
        return list(dict.fromkeys(chosen))

    def _gpus(self, request: DeviceRequest) -> list[str]:
        wants_gpu = any("gpu" in group for group in request.capabilities or ()) or request.driver in (
            "nvidia",
            "amd",
        )
        kinds = list(_GPU_KINDS) if not request.driver else [f"{request.driver}.com/gpu"]
        if not request.driver:
            kinds += sorted(
                kind for kind in {name.partition("=")[0] for name in self.devices} if kind.endswith("/gpu")
            )
        kind = next((kind for kind in kinds if self.of_kind(kind) or f"{kind}=all" in self.devices), "")
        if not wants_gpu or not kind:
            raise InvalidArgument(
                f'could not select device driver "{request.driver}" with capabilities: '
                f"[{' '.join('[' + ' '.join(group) + ']' for group in request.capabilities or ())}]",
                hint="GPUs are found by CDI files in /etc/cdi or /var/run/cdi (nvidia-ctk cdi generate)",
            )
        if request.device_ids:
            return [f"{kind}={name}" for name in request.device_ids]
        if request.count == -1:
            return [f"{kind}=all"] if f"{kind}=all" in self.devices else self.of_kind(kind)
        names = self.of_kind(kind)
        count = request.count or 1
        if count > len(names):
            raise InvalidArgument(f"{count} devices of {kind} were asked for, {len(names)} are there")
        return names[:count]

    def edits(self, names: Iterable[str]) -> Edits:
        """All that these devices add, each file's common part once. Raises InvalidArgument for a missing node."""
        result, common = Edits(), list[_File]()
        for name in names:
            file, device = self.devices[name]
            if file not in common:
                common.append(file)
            _apply(result, device.container_edits)
        for file in common:
            _apply(result, file.container_edits)
        return result


def parse_file(data: bytes, *, yaml: bool = False) -> _File:
    """One CDI file. Raises InvalidArgument that names the field."""
    try:
        value: Any = _load_yaml(data) if yaml else json.loads(data)
        file = msgspec.convert(value, _File)
    except (ValueError, RecursionError) as cause:  # msgspec's and both parsers' errors are ValueErrors
        raise InvalidArgument("not a CDI file", detail=str(cause)[:500]) from cause
    if not _VERSION.fullmatch(file.cdi_version):
        raise InvalidArgument(f"CDI version {file.cdi_version!r} is not supported", hint="0.3.0 to 1.0.0")
    if not _KIND.fullmatch(file.kind):
        raise InvalidArgument(f"invalid kind {file.kind!r}", hint="write vendor.com/class")
    for device in file.devices:
        if not _NAME.fullmatch(device.name):
            raise InvalidArgument(f"invalid device name {device.name!r}")
    for edits in (file.container_edits, *(device.container_edits for device in file.devices)):
        _check(edits)
    return file


def _check(edits: _Edits) -> None:
    if edits.intel_rdt:
        raise InvalidArgument("intelRdt is not supported")
    if edits.net_devices:
        raise InvalidArgument("netDevices is not supported")
    for text in edits.env:
        if not text.partition("=")[0] or "=" not in text or "\0" in text:
            raise InvalidArgument(f"invalid env {text!r}")
    for node in edits.device_nodes:
        if not node.path.startswith("/") or node.type not in ("", "b", "c", "u", "p"):
            raise InvalidArgument(f"invalid device node {node.path!r} of type {node.type!r}")
        if not set(node.permissions) <= set("rwm"):
            raise InvalidArgument(f"invalid permissions {node.permissions!r} of device node {node.path!r}")
    for mount in edits.mounts:
        if not mount.host_path or not mount.container_path.startswith("/"):
            raise InvalidArgument(f"invalid mount of {mount.host_path!r} on {mount.container_path!r}")
    for hook in edits.hooks:
        if hook.hook_name not in HOOK_FIELDS or not hook.path.startswith("/"):
            raise InvalidArgument(f"invalid hook {hook.hook_name!r} with path {hook.path!r}")


def _apply(result: Edits, edits: _Edits) -> None:
    result.env += edits.env
    result.devices += [_granted(node) for node in edits.device_nodes]
    result.mounts += [
        oci.Mount(
            mount.container_path,
            mount.type or "bind",
            mount.host_path,
            tuple(mount.options) or ("rbind", "rprivate", "ro", "nosuid", "nodev"),
        )
        for mount in edits.mounts
    ]
    for hook in edits.hooks:
        result.hooks.setdefault(HOOK_FIELDS[hook.hook_name], []).append(
            oci.Hook(hook.path, tuple(hook.args), tuple(hook.env), hook.timeout)
        )
    result.gids += [gid for gid in edits.additional_gids if gid > 0 and gid not in result.gids]


def _granted(node: _Node) -> tuple[oci.Device, str]:
    """The node with what the file leaves out taken from the host's own."""
    path = node.host_path or node.path
    kind, numbers = node.type, (node.major, node.minor)
    mode = node.file_mode
    uid, gid = node.uid or 0, node.gid or 0
    if not kind or (kind != "p" and not any(numbers)):
        try:
            status = Path(path).stat()
        except OSError as cause:
            raise InvalidArgument(
                f"CDI device injection failed: {path}", detail=cause.strerror or str(cause)
            ) from cause
        kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
        if not kind:
            raise InvalidArgument(f"CDI device injection failed: {path} is not a device node")
        numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
        mode = stat.S_IMODE(status.st_mode) if mode is None else mode
        uid = status.st_uid if node.uid is None else uid
        gid = status.st_gid if node.gid is None else gid
    device = oci.Device(node.path, kind, *numbers, file_mode=mode, uid=uid, gid=gid)
    return device, node.permissions or "rwm"


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise InvalidArgument("the file is too large")
    return data


def _load_yaml(data: bytes) -> Any:
    import yaml  # only here: few machines have such files

    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as cause:
        raise ValueError(str(cause)) from cause


def requested(requests: Sequence[DeviceRequest] | None, folders: Sequence[str]) -> Edits:
    """What the requests add to a container; nothing asked for reads no file. Raises InvalidArgument."""
    if not requests:
        return Edits()
    registry = Registry(folders)
    return registry.edits(registry.select(requests))
