"""Containers: the use cases (`Containers`) and the live object (`Container`)."""

from longshore.core.containers.attach import Attachment
from longshore.core.containers.cgroup_parents import CgroupParents
from longshore.core.containers.container import Container, ExitStatus
from longshore.core.containers.facade import Containers
from longshore.core.containers.parts import Defaults, Parts
from longshore.core.containers.paths import Paths
from longshore.core.containers.store import ContainerStore
from longshore.core.containers.streams import LogOptions

__all__ = [
    "Attachment",
    "CgroupParents",
    "Container",
    "ContainerStore",
    "Containers",
    "Defaults",
    "ExitStatus",
    "LogOptions",
    "Parts",
    "Paths",
]
