"""--mount, --volume and --tmpfs as the API wants them. Pure but for ~ and the working directory."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longshore.cli.flags import FlagError, invalid
from longshore.errors import InvalidArgument
from longshore.oci.units import parse_size

_TRUE, _FALSE = ("1", "true"), ("0", "false")
_RECURSION = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}


def fields(text: str, flag: str) -> list[tuple[str, str, bool]]:
    """(key, value, whether a value was given) of comma-separated fields, quoted as in CSV. Raises FlagError."""
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as cause:
        raise invalid(flag, text, f"{cause}") from cause
    parts = (part.partition("=") for part in row)
    return [(key.strip().lower(), value, bool(given)) for key, given, value in parts]


def parse_mount(text: str) -> dict[str, Any]:
    """`type=bind,source=/a,target=/b,readonly` as an entry of HostConfig.Mounts. Raises FlagError."""
    reader = _MountReader(text)
    for key, value, given in fields(text, "--mount"):
        reader.take(key, value, given)
    return reader.mount()


class _MountReader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._mount: dict[str, Any] = {"Type": "volume"}
        self._bind: dict[str, Any] = {}
        self._volume: dict[str, Any] = {}
        self._tmpfs: dict[str, Any] = {}
        self._image: dict[str, Any] = {}

    def _error(self, why: str) -> FlagError:
        return invalid("--mount", self._text, why)

    def _truth(self, key: str, value: str, given: bool) -> bool:
        if not given or value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise self._error(f"invalid value for {key}: {value}")

    def take(self, key: str, value: str, given: bool) -> None:
        if not given and key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
            raise self._error(f"invalid field {key!r} must be a key=value pair")
        match key:
            case "type":
                self._mount["Type"] = value.lower()
            case "source" | "src":
                relative = value in (".", "..") or value.startswith(("./", "../"))
                self._mount["Source"] = str(Path(value).absolute()) if relative else value
            case "target" | "dst" | "destination":
                self._mount["Target"] = value
            case "readonly" | "ro":
                self._mount["ReadOnly"] = self._truth(key, value, given)
            case "consistency":
                self._mount["Consistency"] = value.lower()
            case "bind-propagation":
                self._bind["Propagation"] = value.lower()
            case "bind-nonrecursive":
                self._bind["NonRecursive"] = self._truth(key, value, given)
            case "bind-recursive":
                if value not in _RECURSION:
                    raise self._error(f"bind-recursive is one of {', '.join(_RECURSION)}")
                self._bind |= _RECURSION[value]
            case "image-subpath":
                self._image["Subpath"] = value
            case _ if key.startswith("volume-"):
                self._take_volume(key, value, given)
            case "tmpfs-size":
                self._tmpfs["SizeBytes"] = self._size(value)
            case "tmpfs-mode":
                try:
                    self._tmpfs["Mode"] = int(value, 8)
                except ValueError:
                    raise self._error(f"invalid value for {key}: {value}") from None
            case _:
                raise self._error(f"unknown option {key!r}")

    def _take_volume(self, key: str, value: str, given: bool) -> None:
        match key:
            case "volume-nocopy":
                self._volume["NoCopy"] = self._truth(key, value, given)
            case "volume-subpath":
                self._volume["Subpath"] = value
            case "volume-label":
                name, _, text = value.partition("=")
                self._volume.setdefault("Labels", {})[name] = text
            case "volume-driver":
                self._volume.setdefault("DriverConfig", {})["Name"] = value
            case "volume-opt":
                name, _, text = value.partition("=")
                self._volume.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = text
            case _:
                raise self._error(f"unknown option {key!r}")

    def _size(self, value: str) -> int:
        try:
            return parse_size(value)
        except InvalidArgument as cause:
            raise self._error(str(cause)) from cause

    def mount(self) -> dict[str, Any]:
        kind = self._mount["Type"]
        if not self._mount.get("Target"):
            raise self._error("target is required")
        options = {"bind": self._bind, "volume": self._volume, "tmpfs": self._tmpfs, "image": self._image}
        for name, found in options.items():
            if found and name != kind:
                raise self._error(f"cannot mix {name}-* options with mount type {kind!r}")
        if options.get(kind):
            self._mount[f"{kind.capitalize()}Options"] = options[kind]
        return self._mount


def split_volumes(values: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """-v flags: (binds, anonymous volumes). A relative source becomes absolute. Raises FlagError."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, Any]] = {}
    for value in values:
        source, colon, rest = value.partition(":")
        if not colon:
            anonymous[value] = {}
            continue
        if not source or not rest or value.count(":") > 2:
            raise invalid("--volume", value, "write [source:]target[:options]")
        if source in (".", "..", "~") or source.startswith(("./", "../", "~/")):
            source = os.path.normpath(Path(source).expanduser().absolute())
        elif source.startswith("/"):
            source = os.path.normpath(source)
        binds.append(f"{source}:{rest}")
    return binds, anonymous


def tmpfs_mounts(values: Sequence[str]) -> dict[str, str]:
    """`path[:options]` as HostConfig.Tmpfs."""
    return {path: rest for path, _, rest in (text.partition(":") for text in values)}
