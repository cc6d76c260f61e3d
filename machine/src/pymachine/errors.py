"""One tree of errors for the whole tool.

Raised once, where the reason is known, chained to the cause. `pymachine.main` turns them into one line and
an exit code; nothing else prints them, except tables that have a column for errors.
"""


class MachineError(Exception):
    """Something the user asked for cannot be done: what, why (detail), what to do (hint).

    `str()` is one line, ``what: detail (hint)``, with the empty parts left out.
    """

    def __init__(self, what: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {one_line(self.detail)}" if self.detail else self.what
        return f"{text} ({self.hint})" if self.hint else text


class InvalidInput(MachineError):
    """A name, flag or template is wrong; nothing was touched."""


class NotFound(MachineError):
    """There is no such machine."""


class Conflict(MachineError):
    """The name is taken, the machine is half made, or its state stands in the way."""


class Busy(MachineError):
    """Another pymachine works on the same machine or store."""


class StoreError(MachineError):
    """The store cannot be read or written, or holds something unreadable."""


class Unsupported(MachineError):
    """The driver cannot do this by its nature."""


class DriverError(MachineError):
    """The driver's provider (our engine, a cloud) refuses or does not answer."""


class Unreachable(MachineError):
    """No SSH server answers at the address."""


class HostKeyRefused(MachineError):
    """The host showed a key that is not pinned. `fingerprint` is what it showed."""

    def __init__(self, what: str, *, detail: str = "", hint: str = "", fingerprint: str = "") -> None:
        super().__init__(what, detail=detail, hint=hint)
        self.fingerprint = fingerprint


class AuthenticationFailed(MachineError):
    """The host refuses the user or the key."""


class RemoteFailed(MachineError):
    """A command on the host ended with an error."""


class ProvisionError(MachineError):
    """The host cannot carry the engine, or the installer failed."""


class EngineUnreachable(MachineError):
    """The engine on the machine does not answer over TLS."""


def one_line(text: str) -> str:
    """Fold a message of several lines; error lines of this tool are one line each."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
