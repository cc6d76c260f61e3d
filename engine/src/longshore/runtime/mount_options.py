"""The words of mount options, as mount(8) and the runtime specification name them. Pure."""

from dataclasses import dataclass

from longshore.errors import InvalidArgument, Unsupported
from longshore.kernel import mounts as kernel
from longshore.kernel.paths import clean
from longshore.oci.runtime_spec import IdMapping, Mount

# word: (attributes to set, attributes to clear), mount_setattr(2)
_ATTRIBUTES = {
    "ro": (kernel.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, kernel.MOUNT_ATTR_RDONLY),
    "nosuid": (kernel.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, kernel.MOUNT_ATTR_NOSUID),
    "nodev": (kernel.MOUNT_ATTR_NODEV, 0),
    "dev": (0, kernel.MOUNT_ATTR_NODEV),
    "noexec": (kernel.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, kernel.MOUNT_ATTR_NOEXEC),
    "nodiratime": (kernel.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, kernel.MOUNT_ATTR_NODIRATIME),
    "relatime": (kernel.MOUNT_ATTR_RELATIME, kernel.MOUNT_ATTR__ATIME),
    "norelatime": (0, 0),  # without another atime word relatime stays the kernel's default
    "noatime": (kernel.MOUNT_ATTR_NOATIME, kernel.MOUNT_ATTR__ATIME),
    "atime": (kernel.MOUNT_ATTR_RELATIME, kernel.MOUNT_ATTR__ATIME),
    "strictatime": (kernel.MOUNT_ATTR_STRICTATIME, kernel.MOUNT_ATTR__ATIME),
    "nostrictatime": (kernel.MOUNT_ATTR_RELATIME, kernel.MOUNT_ATTR__ATIME),
    "nosymfollow": (kernel.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, kernel.MOUNT_ATTR_NOSYMFOLLOW),
}
_RECURSIVE = {f"r{word}": value for word, value in _ATTRIBUTES.items()}

_PROPAGATION = {
    "private": (kernel.MS_PRIVATE, False),
    "rprivate": (kernel.MS_PRIVATE, True),
    "slave": (kernel.MS_SLAVE, False),
    "rslave": (kernel.MS_SLAVE, True),
    "shared": (kernel.MS_SHARED, False),
    "rshared": (kernel.MS_SHARED, True),
    "unbindable": (kernel.MS_UNBINDABLE, False),
    "runbindable": (kernel.MS_UNBINDABLE, True),
}

# Words that say nothing to us: "defaults" and what only mount(8) itself reads.
_NO_MEANING = frozenset(
    {"defaults", "bind", "rbind", "auto", "noauto", "nofail", "_netdev", "user", "nouser"}
)
_IDMAP = {"idmap": False, "ridmap": True}


# Ours, for sources whose path a container can change: looked up by descriptor when the mount is made, without links.
SUBPATH = "longshore.subpath="  # a path below the source
LOWERS = "longshore.lowers="  # the source is the folder of the layers; these make an image, newest first, with colons
SCRATCH = "longshore.scratch="  # with LOWERS: a folder with upper and work, which takes what is written
OF_PROCESS = "longshore.of="  # PID:START-TIME, in whose mount namespace the source is looked up


@dataclass(frozen=True, slots=True)
class MountPlan:
    """One mount, ready to be made. `kind` is "bind", "cgroup" or the name of a filesystem."""

    destination: str
    kind: str
    source: str = ""
    recursive: bool = False  # rbind
    parameters: tuple[tuple[str, str | None], ...] = ()  # of the filesystem itself, in order
    attr_set: int = 0
    attr_clr: int = 0
    tree_set: int = 0  # the r-words: for the whole tree
    tree_clr: int = 0
    propagation: int = 0
    propagation_recursive: bool = False
    subpath: str = ""  # below the source
    lowers: tuple[str, ...] = ()  # layers below the source
    scratch: str = ""  # takes what is written to the layers
    owner: tuple[int, int] | None = None  # (pid, start time) of a process whose mounts the source means
    idmap: tuple[str, str] | str = ""  # texts of a uid_map and a gid_map, or the path of a user namespace
    idmap_recursive: bool = False
    copy_up: bool = False  # what was below a tmpfs is copied into it

    def describe(self) -> str:
        return f"{self.kind} {self.source or self.kind} on {self.destination}"


def parse_propagation(word: str) -> tuple[int, bool]:
    """The flag and whether it is for the whole tree. Raises InvalidArgument."""
    try:
        return _PROPAGATION[word]
    except KeyError:
        raise InvalidArgument(f'linux.rootfsPropagation: unknown mount propagation "{word}"') from None


def map_text(mappings: tuple[IdMapping, ...], where: str) -> str:
    """The lines of a uid_map or gid_map. Raises InvalidArgument for an empty range or one that is too large."""
    for index, mapping in enumerate(mappings):
        if mapping.size < 1 or max(mapping.container_id, mapping.host_id) + mapping.size > 1 << 32:
            raise InvalidArgument(f"{where}[{index}]: not a range of ids: size {mapping.size}")
    return "".join(f"{mapping.container_id} {mapping.host_id} {mapping.size}\n" for mapping in mappings)


def plan_mount(
    mount: Mount, *, where: str = "mounts", bundle: str = "", owners: tuple[str, str] | str = ""
) -> MountPlan:
    """Translate one mount of the specification. Raises InvalidArgument or Unsupported.

    `where` is the mount's place in the configuration, `bundle` the folder from which a relative source of a bind
    mount is meant, `owners` the mappings of the container's own user namespace (see MountPlan.idmap).
    """
    destination = clean(mount.destination)
    if not mount.destination or destination == "/" or "\0" in mount.destination + mount.source:
        raise InvalidArgument(f'{where}.destination: invalid mount destination "{mount.destination}"')
    words = set(mount.options)
    bind = mount.type == "bind" or "bind" in words or "rbind" in words
    attr_set = attr_clr = tree_set = tree_clr = propagation = 0
    propagation_recursive = copy_up = False
    subpath, scratch, owner = "", "", None
    lowers: tuple[str, ...] = ()
    parameters: list[tuple[str, str | None]] = []
    for word in mount.options:
        if word in _ATTRIBUTES:
            put, drop = _ATTRIBUTES[word]
            attr_set, attr_clr = attr_set & ~drop | put, attr_clr & ~put | drop
        elif word in _RECURSIVE:
            put, drop = _RECURSIVE[word]
            tree_set, tree_clr = tree_set & ~drop | put, tree_clr & ~put | drop
        elif word in _PROPAGATION:
            propagation, propagation_recursive = _PROPAGATION[word]
        elif word == "tmpcopyup":
            if mount.type != "tmpfs":
                raise InvalidArgument(f'{where}.options: "tmpcopyup" on "{destination}" needs a tmpfs')
            copy_up = True
        elif word == "remount" or word.startswith(("idmap=", "ridmap=")):
            raise Unsupported(f'{where}.options: mount option "{word}" on "{destination}" is not supported')
        elif bind and word.startswith(SUBPATH):
            subpath = word.removeprefix(SUBPATH)
        elif bind and word.startswith(LOWERS):
            lowers = tuple(word.removeprefix(LOWERS).split(":"))
        elif bind and word.startswith(SCRATCH):
            scratch = word.removeprefix(SCRATCH)
        elif bind and word.startswith(OF_PROCESS):
            pid, _colon, start = word.removeprefix(OF_PROCESS).partition(":")
            if not (pid.isdigit() and start.isdigit()):
                raise InvalidArgument(
                    f'{where}.options: invalid option "{word}" of the bind mount on "{destination}"'
                )
            owner = int(pid), int(start)
        elif word not in _NO_MEANING and word not in _IDMAP and word:
            key, equals, value = word.partition("=")
            if bind:
                raise InvalidArgument(
                    f'{where}.options: unknown option "{word}" of the bind mount on "{destination}"'
                )
            parameters.append((key, value if equals else None))
    if bind and not mount.source:
        raise InvalidArgument(f'{where}.source: bind mount on "{destination}" has no source')
    if not bind and not mount.type:
        raise InvalidArgument(f'{where}.type: mount on "{destination}" has no type')
    source = mount.source
    if bind and bundle and not source.startswith("/"):
        source = f"{bundle}/{source}"
    return MountPlan(
        destination=destination,
        kind="bind" if bind else mount.type,
        source=source,
        recursive="rbind" in words or (bind and "bind" not in words),
        parameters=tuple(parameters),
        attr_set=attr_set,
        attr_clr=attr_clr,
        tree_set=tree_set,
        tree_clr=tree_clr,
        propagation=propagation,
        propagation_recursive=propagation_recursive,
        subpath=subpath,
        lowers=lowers,
        scratch=scratch,
        owner=owner,
        idmap=_plan_idmap(mount, words, where, owners, bind=bind),
        idmap_recursive="ridmap" in words,
        copy_up=copy_up,
    )


def _plan_idmap(
    mount: Mount, words: set[str], where: str, owners: tuple[str, str] | str, *, bind: bool
) -> tuple[str, str] | str:
    """The mappings of the mount; those of the container when only the word is given (runtime-spec 1.2, config.md)."""
    if not (mount.uid_mappings or mount.gid_mappings or words & _IDMAP.keys()):
        return ""
    if not bind:
        raise Unsupported(f'{where}: only bind mounts can be id-mapped, and "{mount.destination}" is none')
    if not (mount.uid_mappings or mount.gid_mappings):
        if not owners:
            raise InvalidArgument(
                f'{where}.options: "idmap" on "{mount.destination}" needs mappings, and the container has none'
            )
        return owners
    if not (mount.uid_mappings and mount.gid_mappings):
        raise InvalidArgument(f"{where}: uidMappings and gidMappings go together")
    return (
        map_text(mount.uid_mappings, f"{where}.uidMappings"),
        map_text(mount.gid_mappings, f"{where}.gidMappings"),
    )


def known_words() -> list[str]:
    """All words that mean something, for `features`."""
    return sorted(
        {*_ATTRIBUTES, *_RECURSIVE, *_PROPAGATION, *_IDMAP, "bind", "rbind", "defaults", "tmpcopyup"}
    )
