"""The commands, one file each, named as the command is. `command` in each file is the click command."""

from dataclasses import dataclass

from pymachine.progress import Progress
from pymachine.store import Store


@dataclass(frozen=True, slots=True)
class Session:
    """What every command gets."""

    store: Store
    progress: Progress
    storage_flag: str = ""  # as given, for hints that repeat the command line
