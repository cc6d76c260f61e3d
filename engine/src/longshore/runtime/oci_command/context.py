"""What every command is given."""

from __future__ import annotations

from dataclasses import dataclass

from longshore.runtime.cgroup_layout import use_whole_layout
from longshore.runtime.oci_command.arguments import Given
from longshore.runtime.oci_command.log import Log
from longshore.runtime.oci_command.store import State, Store


@dataclass(slots=True)
class Context:
    store: Store
    log: Log
    given: Given
    command: str

    def __post_init__(self) -> None:
        use_whole_layout()

    @property
    def id(self) -> str:
        return self.given.words[0]

    def load(self) -> State:
        """The state of the container that the command names. Raises NotFound."""
        return self.store.load(self.id)

    def warn(self, warnings: list[str]) -> None:
        for warning in warnings:
            self.log.warning(warning)
