"""One tree of errors for the whole engine.

Raised once, where the reason is known, and chained to the cause. The HTTP status and
the exit code are chosen in one table at the edge (`longshore.api.errors`), never here.
"""


class EngineError(Exception):
    """Something the user asked for cannot be done: what, why (detail), what to do (hint).

    `str()` gives one line: ``what: detail (hint)``, with the empty parts left out. That line is what
    clients see as the API's ``message``.
    """

    def __init__(self, what: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {self.detail}" if self.detail else self.what
        return f"{text} ({self.hint})" if self.hint else text


class InvalidArgument(EngineError):
    """The request itself is wrong: a bad name, size, port, path or field."""


class Unauthorized(EngineError):
    """A registry, or we, want other credentials."""


class Forbidden(EngineError):
    """Refused by policy."""


class NotFound(EngineError):
    """The named object does not exist."""


class NotModified(EngineError):
    """The object is in the wanted state already (start of a running container)."""


class Conflict(EngineError):
    """The object's state or another object stands in the way: a used name, a running container."""


class Unavailable(EngineError):
    """A peer (registry, zygote, plugin) does not answer now; trying again may help."""


class Unsupported(EngineError):
    """This machine, kernel or version cannot do it; `longshore doctor` shows why."""


class OutOfSpace(EngineError):
    """The disk is full. What was half written has been removed."""


class StartFailed(EngineError):
    """The container's process could not be started.

    `errno` is the cause from execve(2) or a mount, 0 when there is none; the docker CLI derives
    its exit codes 126 and 127 from the message, so the kernel's own words stay in it.
    """

    def __init__(self, what: str, *, errno: int = 0, detail: str = "", hint: str = "") -> None:
        super().__init__(what, detail=detail, hint=hint)
        self.errno = errno


class Internal(EngineError):
    """A defect of ours or a kernel call that must not fail did."""
