"""User namespaces of containers: which ids of the host stand behind theirs. Pure, but for the readers of /etc/subuid.

`--userns` (HostConfig.UsernsMode) is one of

- `host`: the host's own ids, also where the daemon maps by default;
- `auto` or `auto:size=N`: a range of its own, which no other container has, user_namespaces(7);
- `map:CONTAINER:HOST:SIZE[,CONTAINER:HOST:SIZE…]`: these ranges, for users and groups alike;
- empty: what the daemon's --userns-remap says, which is the host's ids unless it was given.

Nothing on disk is shifted: layers, volumes and the container's own files are mounted with the mapping
(mount_setattr(2), MOUNT_ATTR_IDMAP), so a container may get another range at each start.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longshore.errors import Conflict, InvalidArgument
from longshore.oci.runtime_spec import IdMapping

DEFAULT_SIZE = 65536
# systemd's table of ids (https://systemd.io/UIDS-GIDS/) leaves 0x70000000-0x7FFFFFFF to nobody.
DEFAULT_POOL = (0x70000000, 0x10000000)
_LARGEST = (1 << 32) - 2  # (uid_t) -1 means "no change"
_MOST_RANGES = 340  # user_namespaces(7)
Range = tuple[int, int]  # first id of the host, length


@dataclass(frozen=True, slots=True)
class Owners:
    """The mappings of one container; empty: the host's own ids."""

    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.uids)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids of somebody inside. Raises InvalidArgument for who has none."""
        return _outside(self.uids, uid, "user"), _outside(self.gids, gid, "group")


HOSTS_OWN = Owners()


def _outside(ranges: Sequence[IdMapping], number: int, what: str) -> int:
    if not ranges:
        return number
    for ids in ranges:
        if ids.container_id <= number < ids.container_id + ids.size:
            return ids.host_id + number - ids.container_id
    raise InvalidArgument(f"{what} {number} does not exist in the container's user namespace")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a mode asks for: nothing of its own (`kind` "host"), a free range, or these."""

    kind: str  # host, auto, map
    size: int = DEFAULT_SIZE
    ranges: tuple[IdMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Remap:
    """The daemon's setting: the mode of containers that name none, the range they share if they do, and the pool."""

    mode: str = "host"
    owners: Owners = Owners()
    pool: tuple[Range, ...] = (DEFAULT_POOL,)


def plan_remap(setting: str, ranges: str, subuid: str, subgid: str) -> Remap:
    """--userns-remap: empty or "host", "auto", "default" or USER[:GROUP] with ranges in /etc/subuid and /etc/subgid.

    `ranges` is --userns-range, else those of the user `longshore` in /etc/subuid, else a range nobody uses.
    Raises InvalidArgument.
    """
    own = tuple(parse_subordinate(subuid, "longshore"))
    pool = (parse_range(ranges),) if ranges else own or (DEFAULT_POOL,)
    if setting in ("", "host"):
        return Remap(pool=pool)
    if setting == "auto":
        return Remap("auto", pool=pool)
    if setting == "default":
        first, size = choose(DEFAULT_SIZE, pool, ())
        ids = (IdMapping(0, first, size),)
        return Remap("map", Owners(ids, ids), pool)
    user, _, group = setting.partition(":")
    uids, gids = parse_subordinate(subuid, user), parse_subordinate(subgid, group or user)
    if not uids or not gids:
        raise InvalidArgument(
            f"--userns-remap {setting}: no ranges of {user} in /etc/subuid or {group or user} in /etc/subgid",
            hint="write default, auto, or a user with subordinate ids",
        )
    return Remap("map", Owners(_joined(uids), _joined(gids)), pool)


def _joined(ranges: Sequence[Range]) -> tuple[IdMapping, ...]:
    """The ranges one after the other, from 0 on."""
    found: list[IdMapping] = []
    start = 0
    for first, length in ranges:
        found.append(IdMapping(start, first, length))
        start += length
    return tuple(found)


def parse_mode(text: str) -> Wanted:
    """Raises InvalidArgument."""
    if text in ("", "host"):
        return Wanted("host")
    kind, _, rest = text.partition(":")
    if kind == "auto":
        size = re.fullmatch(r"size=(\d{1,10})", rest)
        if rest and not (size and 1 <= int(size[1]) <= 1 << 24):
            raise InvalidArgument(f"invalid UsernsMode: {text!r}", hint="write auto or auto:size=65536")
        return Wanted("auto", int(size[1]) if size else DEFAULT_SIZE)
    if kind == "map":
        return Wanted("map", ranges=_parse_ranges(rest, text))
    raise InvalidArgument(
        f"invalid UsernsMode: {text!r}", hint="host, auto, auto:size=N or map:CONTAINER:HOST:SIZE"
    )


def _parse_ranges(text: str, mode: str) -> tuple[IdMapping, ...]:
    found: list[IdMapping] = []
    for part in text.split(","):
        numbers = re.fullmatch(r"(\d{1,10}):(\d{1,10}):(\d{1,10})", part)
        inside, outside, size = map(int, numbers.groups()) if numbers else (0, 0, 0)
        if not size or max(inside, outside) + size - 1 > _LARGEST:
            raise InvalidArgument(f"invalid UsernsMode: {mode!r}", hint="write map:0:100000:65536")
        found.append(IdMapping(inside, outside, size))
    if len(found) > _MOST_RANGES:
        raise InvalidArgument(f"invalid UsernsMode: more than {_MOST_RANGES} ranges")
    for one in found:
        for other in found:
            if one is not other and (
                _overlap((one.container_id, one.size), (other.container_id, other.size))
                or _overlap((one.host_id, one.size), (other.host_id, other.size))
            ):
                raise InvalidArgument(f"invalid UsernsMode: {mode!r}", detail="the ranges overlap")
    if not any(one.container_id == 0 for one in found):
        raise InvalidArgument(f"invalid UsernsMode: {mode!r}", detail="root of the container has no id")
    return tuple(found)


def _overlap(one: Range, other: Range) -> bool:
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


def parse_subordinate(text: str, *names: str) -> list[Range]:
    """The ranges of a user in /etc/subuid or /etc/subgid, subuid(5); `names` are its name and number."""
    found: list[Range] = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
            found.append((int(fields[1]), int(fields[2])))
    return found


def parse_range(text: str) -> Range:
    """ "FIRST:LENGTH" of the daemon's setting. Raises InvalidArgument."""
    numbers = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    first, length = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if first < 1 or not length or first + length - 1 > _LARGEST:
        raise InvalidArgument(
            f"invalid range of ids {text!r}", hint="write FIRST:LENGTH, 1879048192:268435456"
        )
    return first, length


def choose(size: int, pool: Sequence[Range], taken: Iterable[Range]) -> Range:
    """The first free range of this size. Raises Conflict when the pool has none."""
    used = sorted(taken)
    for first, length in pool:
        start = first
        for other in used:
            if _overlap((start, size), other):
                start = other[0] + other[1]
        if start + size <= first + length:
            return start, size
    raise Conflict(
        f"no {size} free ids for a user namespace",
        hint="remove containers, ask for a smaller auto:size=N, or give the daemon a larger --userns-range",
    )


def owners_of(text: str, pool: Sequence[Range], taken: Iterable[Range]) -> Owners:
    """The mappings for a mode. Raises InvalidArgument, Conflict."""
    wanted = parse_mode(text)
    if wanted.kind == "host":
        return Owners()
    if wanted.kind == "map":
        return Owners(wanted.ranges, wanted.ranges)
    first, size = choose(wanted.size, pool, taken)
    ranges = (IdMapping(0, first, size),)
    return Owners(ranges, ranges)


def check_conflicts(mode: str, *, privileged: bool, pid: str, network: str, ipc: str, uts: str) -> None:
    """What a user namespace of its own cannot be combined with, in dockerd's words. Raises InvalidArgument.

    The host's namespaces belong to the host's ids: nothing in them may be changed from inside.
    """
    if mode in ("", "host"):
        return
    if privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces.",
            hint="You must run the container in the host namespace when running privileged mode: --userns=host",
        )
    for name, value in (("pid", pid), ("network", network), ("ipc", ipc), ("uts", uts)):
        if value == "host" or value.startswith("container:"):
            raise InvalidArgument(
                f"cannot share the {'host' if value == 'host' else 'other container'}'s {name} namespace "
                "when user namespaces are enabled",
                hint="--userns=host",
            )
