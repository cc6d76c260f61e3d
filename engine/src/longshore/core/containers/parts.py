"""What the use cases of containers work with, put together once by the daemon."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from longshore.core import cdi
from longshore.core.containers.cgroup_parents import CgroupParents
from longshore.core.containers.paths import Paths
from longshore.core.containers.record import Record
from longshore.core.containers.store import ContainerStore
from longshore.core.events import EventBus
from longshore.core.model import LogConfig
from longshore.core.userns import Remap

if TYPE_CHECKING:
    from longshore.core.containers.container import Container
    from longshore.core.images.facade import Images
    from longshore.core.networks import Networks
    from longshore.core.volumes import Volumes
    from longshore.network.manager import NetworkManager
    from longshore.runtime.client import Zygote
    from longshore.storage.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class Defaults:
    """The daemon's settings that reach containers."""

    systemd_cgroup: bool = False  # the cgroup driver: systemd makes the groups
    apparmor: str = ""  # the profile of containers that name none
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    userns: Remap = field(default_factory=Remap)
    cdi_spec_dirs: tuple[str, ...] = cdi.SPEC_DIRS
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True, slots=True)
class Parts:
    store: ContainerStore
    images: "Images"
    volumes: "Volumes"
    networks: "Networks"
    network: "NetworkManager"
    snapshots: "Snapshots"
    layers_dir: Path
    zygote: "Zygote"
    events: EventBus
    paths: Paths
    defaults: Defaults
    cgroup_parents: CgroupParents

    def rootfs(self, record: Record) -> tuple[str, ...]:
        """Names of the layers below a container's own, newest first. Raises NotFound without its image."""
        if record.layers:
            return tuple(record.layers)
        return self.images.rootfs(self.images.get(record.image_id))

    def announce(self, container: "Container", action: str, **attributes: str) -> None:
        """Tell an event of a container, with Docker's attributes: image, name, its labels."""
        config = container.record.config
        self.events.publish(
            "container",
            action,
            container.id,
            {**(config.labels or {}), "image": config.image, "name": container.name, **attributes},
        )
