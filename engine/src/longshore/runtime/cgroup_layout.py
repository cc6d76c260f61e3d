"""Which cgroup hierarchies this machine has and where: v1, v2 or both. Read from /proc once per process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from longshore.kernel import cgroups as files

_WORTH_JOINING = frozenset({"cpuset", "cpu", "io", "memory", "pids"})


@dataclass(frozen=True, slots=True)
class Hierarchy:
    mount: str
    controllers: tuple[str, ...]  # ("cpu", "cpuacct"), ("name=systemd",); of v2: those that it offers
    version: int
    used: bool = True  # we make groups in it

    @property
    def name(self) -> str:
        return self.mount.rsplit("/", 1)[-1]

    def path(self, cgroup: str) -> str:
        return self.mount + cgroup


@dataclass(frozen=True, slots=True)
class Layout:
    hierarchies: tuple[Hierarchy, ...]

    @property
    def pure_v2(self) -> bool:
        return len(self.hierarchies) == 1 and self.hierarchies[0].version == 2

    @property
    def version(self) -> str:
        """As `docker info` prints it: "2" only when everything is v2."""
        return "2" if self.pure_v2 else "1"

    def used(self) -> Iterator[Hierarchy]:
        return (hierarchy for hierarchy in self.hierarchies if hierarchy.used)

    def find(self, controller: str) -> Hierarchy | None:
        for hierarchy in self.hierarchies:
            if hierarchy.used and controller in hierarchy.controllers:
                return hierarchy
        return None

    @property
    def controllers(self) -> frozenset[str]:
        return frozenset(name for hierarchy in self.hierarchies for name in hierarchy.controllers)


_V1_NAMES = frozenset(
    {
        *("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"),
        *("net_cls", "net_prio", "hugetlb", "perf_event", "rdma", "misc"),
    }
)


def parse_layout(
    mountinfo: str, v2_controllers: dict[str, tuple[str, ...]], *, whole: bool = False
) -> Layout:
    """From the text of /proc/self/mountinfo; `v2_controllers` maps a cgroup2 mount to what it offers. Pure.

    `whole`: use also a v2 beside v1 that has nothing to set.
    """
    found: dict[str, Hierarchy] = {}
    seen: set[tuple[str, ...]] = set()
    for line in mountinfo.splitlines():
        before, _dash, after = line.partition(" - ")
        kind, _source, options = [*after.split(" ", 2), "", ""][:3]
        fields = before.split(" ")
        mount = fields[4] if len(fields) > 4 else ""
        if kind == "cgroup":
            words_ = options.split(",")
            controllers = tuple(word for word in words_ if word in _V1_NAMES or word.startswith("name="))
            if controllers and controllers not in seen:  # the same hierarchy may be mounted again elsewhere
                seen.add(controllers)
                found[mount] = Hierarchy(mount, controllers, 1)
        elif kind == "cgroup2" and ("2",) not in seen:
            seen.add(("2",))
            found[mount] = Hierarchy(mount, v2_controllers.get(mount, ()), 2)
    hierarchies = tuple(found.values())
    if len(hierarchies) > 1:
        # A v2 beside v1 without a controller that we set serves systemd's bookkeeping; joining it costs a
        # migration under the global lock for nothing.
        hierarchies = tuple(
            Hierarchy(
                each.mount,
                each.controllers,
                each.version,
                whole or each.version == 1 or not _WORTH_JOINING.isdisjoint(each.controllers),
            )
            for each in hierarchies
        )
    return Layout(hierarchies)


@cache
def layout() -> Layout:
    """This machine's hierarchies, read once per process."""
    text = files.read("/proc/self/mountinfo")
    offered: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if " - cgroup2 " in line:
            mount = line.split(" ")[4]
            try:
                offered[mount] = tuple(files.read(f"{mount}/cgroup.controllers").split())
            except OSError:
                offered[mount] = ()
    return parse_layout(text, offered, whole=_whole)


_whole = False


def use_whole_layout() -> None:
    """For the rest of this process: make groups in every hierarchy, as callers of an OCI runtime expect it."""
    global _whole
    _whole = True
    layout.cache_clear()
