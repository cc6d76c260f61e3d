"""What a command did, or why it could not."""

from dataclasses import dataclass, field


class SetupError(Exception):
    """One line for the operator: what failed, and what to do."""


@dataclass(slots=True)
class Outcome:
    """What `install` did; printed as one JSON line."""

    changed: bool = False
    version: str = ""
    release: str = ""
    previous: str = ""
    service: str = ""
    changes: list[str] = field(default_factory=list[str])

    def note(self, change: str) -> None:
        self.changed = True
        self.changes.append(change)
