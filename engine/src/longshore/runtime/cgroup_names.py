"""Names of control groups: folders for the cgroupfs driver, scopes in slices for the systemd driver. Pure."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.kernel.paths import clean
from longshore.oci.runtime_spec import Spec

PARENT = "/longshore"
SLICE = "system.slice"
PREFIX = "longshore"

_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+")
_LONGEST = 255  # UNIT_NAME_MAX of systemd


@dataclass(frozen=True, slots=True)
class Scope:
    """A transient unit of systemd that is the group of one container."""

    unit: str  # longshore-<id>.scope
    slice: str

    @property
    def path(self) -> str:
        """The group below each hierarchy's mount."""
        return f"{expand_slice(self.slice).rstrip('/')}/{self.unit}"


def cgroup_path(spec: Spec, container_id: str, *, systemd: bool = False) -> str:
    """The group below each hierarchy's mount. Raises InvalidArgument, also for the root itself.

    `systemd`: the specification's cgroupsPath is "slice:prefix:name", as with `runc --systemd-cgroup`.
    """
    if systemd:
        return parse_scope(spec.linux.cgroups_path, container_id).path
    path = spec.linux.cgroups_path
    if not path:
        return f"{PARENT}/{container_id}"
    path = clean(path)
    if path == "/" or "\0" in path or "\n" in path:
        raise InvalidArgument(f'invalid cgroup path "{spec.linux.cgroups_path}"')
    return path


def cgroups_path_of(parent: str, container_id: str, *, systemd: bool) -> str:
    """What to write into a specification for a container below `parent` ("" for the driver's own default).

    Raises InvalidArgument when the parent is not of the driver's kind, in dockerd's words.
    """
    if not systemd:
        return posixpath.join(parent or PARENT, container_id)
    if parent:
        _check_slice(parent)
    return f"{parent or SLICE}:{PREFIX}:{container_id}"


def _check_slice(name: str) -> None:
    try:
        expand_slice(name)
    except InvalidArgument as cause:
        raise InvalidArgument(
            'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"', detail=cause.what
        ) from cause


def parse_scope(text: str, container_id: str) -> Scope:
    """ "slice:prefix:name", where an empty slice is system.slice; all empty: a name of our own.

    Raises InvalidArgument.
    """
    if not text:
        return Scope(f"{PREFIX}-{container_id}.scope", SLICE)
    parts = text.split(":")
    if len(parts) != 3:
        raise InvalidArgument(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{text}" instead'
        )
    slice_, prefix, name = parts
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if not name or not _UNIT_NAME.fullmatch(unit) or len(unit) > _LONGEST:
        raise InvalidArgument(f'invalid name of a systemd scope "{unit}"')
    scope = Scope(unit, slice_ or SLICE)
    expand_slice(scope.slice)
    return scope


def expand_slice(name: str) -> str:
    """The folder of a slice: a-b.slice lies in a.slice, -.slice is the root, systemd.slice(5).

    Raises InvalidArgument.
    """
    stem = name.removesuffix(".slice")
    if stem == "-" and name != stem:
        return "/"
    words = stem.split("-")
    if stem == name or not all(words) or not _UNIT_NAME.fullmatch(stem) or len(name) > _LONGEST:
        raise InvalidArgument(f"invalid slice name: {name}")
    return "".join(f"/{'-'.join(words[: depth + 1])}.slice" for depth in range(len(words)))
