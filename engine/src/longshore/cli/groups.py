"""The groups: `longshore container …`, `image`, `network`, `volume`, `system`, `registry`."""

from __future__ import annotations

from longshore.cli import commands
from longshore.cli.flags import lazy_group

container = lazy_group("container", "Manage containers.", commands.CONTAINER, commands.CONTAINER_ALIASES)
image = lazy_group("image", "Manage images.", commands.IMAGE, commands.IMAGE_ALIASES)
network = lazy_group("network", "Manage networks.", commands.NETWORK, commands.LIST_ALIASES)
volume = lazy_group("volume", "Manage volumes.", commands.VOLUME, commands.LIST_ALIASES)
system = lazy_group("system", "Manage the engine.", commands.SYSTEM)
registry = lazy_group("registry", "Serve a registry of images.", commands.REGISTRY, {"list": "ls"})
