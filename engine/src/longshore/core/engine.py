"""The engine as its users above see it: one object with the use cases, put together by the daemon."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longshore.core.containers import Containers
    from longshore.core.database import Database
    from longshore.core.doctor import Doctor
    from longshore.core.events import EventBus
    from longshore.core.execs import Execs
    from longshore.core.images.facade import Images
    from longshore.core.networks import Networks
    from longshore.core.registries import Registries
    from longshore.core.storage_repair import Upkeep
    from longshore.core.system import System
    from longshore.core.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Engine:
    database: "Database"
    events: "EventBus"
    images: "Images"
    networks: "Networks"
    volumes: "Volumes"
    containers: "Containers"
    execs: "Execs"
    system: "System"
    doctor: "Doctor"
    upkeep: "Upkeep"
    registries: "Registries"
    kept: dict[type, Any] = field(default_factory=dict[type, Any])
    """What layers above keep for the life of the daemon, by its class: the builder."""
