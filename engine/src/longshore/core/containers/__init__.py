"""Containers: the use cases (`Containers`) and the live object (`Container`)."""

from longshore.core.containers.container import Container, ExitStatus
from longshore.core.containers.facade import Attachment, Containers, LogOptions, Paths

__all__ = ["Attachment", "Container", "Containers", "ExitStatus", "LogOptions", "Paths"]
