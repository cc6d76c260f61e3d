"""What is shared by all doers of the runtime: naming the step that failed."""

from __future__ import annotations

import os

from longshore.errors import StartFailed


def words(error: OSError) -> str:
    """The kernel's words as Docker and runc print them: "no such file or directory"."""
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]


class Doing:
    """`with Doing("setting the hostname"):` turns an OSError into a StartFailed that names the step."""

    __slots__ = ("hint", "step")

    def __init__(self, step: str, *, hint: str = "") -> None:
        self.step, self.hint = step, hint

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            call = f"{error.filename}: " if isinstance(error.filename, str) else ""
            raise StartFailed(
                f"error {self.step}: {call}{words(error)}", errno=error.errno or 0, hint=self.hint
            ) from error
