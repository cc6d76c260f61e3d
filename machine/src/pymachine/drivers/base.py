"""What a driver is: the part of pymachine that knows one kind of machine."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from pymachine.errors import Unsupported
from pymachine.journal import Step
from pymachine.keys import pinned
from pymachine.progress import Progress
from pymachine.record import MachineFiles, number, text
from pymachine.ssh import Target


class State(StrEnum):
    """docker-machine's words."""

    NONE = ""
    RUNNING = "Running"
    PAUSED = "Paused"
    SAVED = "Saved"
    STOPPED = "Stopped"
    STOPPING = "Stopping"
    STARTING = "Starting"
    ERROR = "Error"
    TIMEOUT = "Timeout"


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of `create` that a driver brings. `kind` is str, int or bool by its default."""

    name: str  # without dashes: "local-memory"
    help: str
    default: str | int | bool = ""
    env: str = ""
    metavar: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a driver may use besides its own settings."""

    name: str
    files: MachineFiles
    store: Path
    progress: Progress


class Driver(ABC):
    """One machine of one kind.

    `settings` is the driver's part of config.json, a JSON object with at least docker-machine's common keys
    (IPAddress, SSHUser, SSHPort, SSHKeyPath). The driver changes it; the caller saves it after each step.
    """

    name: ClassVar[str]
    flags: ClassVar[Sequence[Flag]] = ()
    has_ssh: ClassVar[bool] = True

    def __init__(self, context: Context, settings: dict[str, Any]) -> None:
        self.context = context
        self.settings = settings

    @classmethod
    @abstractmethod
    def configure(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Settings from the values of `flags`. Pure; raises InvalidInput for bad ones."""

    @abstractmethod
    def check(self) -> None:
        """Find out before anything is made whether the create can work; raises with what to do."""

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """The steps of the create, each safe to run again."""

    @abstractmethod
    def state(self, *, timeout: float = 10.0) -> State:
        """What the machine does now. Raises when it cannot be found out."""

    @abstractmethod
    def remove(self) -> None:
        """Remove what `steps` made outside of the store, half-made things included. Twice is fine."""

    def address(self) -> str:
        """The IP address or host name now; asks the provider when it may have changed."""
        return text(self.settings, "IPAddress", "")

    def engine_url(self, port: int) -> str:
        """Where the engine listens."""
        address = self.address()
        if not address:
            return ""
        return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"

    def start(self) -> None:
        raise self.unsupported("start")

    def stop(self) -> None:
        raise self.unsupported("stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        raise self.unsupported("kill")

    def unsupported(self, what: str) -> Unsupported:
        return Unsupported(f"the driver {self.name!r} cannot {what} machine {self.context.name!r}")

    def target(self) -> Target:
        """Where and how to log in."""
        key = text(self.settings, "SSHKeyPath", "")
        return Target(
            host=self.address(),
            port=number(self.settings, "SSHPort", 22),
            user=text(self.settings, "SSHUser", "root"),
            # The folder decides, not the stored path: a store that was moved still works.
            key=self.context.files.folder / Path(key).name if key else None,
            host_keys=pinned(self.context.files.known_hosts),
        )
