"""What the engine says about itself and its machine: info, version, df."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """What the daemon knows and core does not."""

    data_root: Path
    insecure_registries: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    debug: bool = False
    warnings: tuple[str, ...] = field(default=())


class System:
    def info(self) -> dict[str, Any]: ...
    def version(self) -> dict[str, Any]: ...
    async def disk_usage(self, types: tuple[str, ...] = ()) -> dict[str, Any]: ...
