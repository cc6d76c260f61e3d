"""Starting the layer workers and understanding what they say."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from longshore.errors import Internal, InvalidArgument, OutOfSpace

# -I and -S: no site, no user directories, no environment; the path is ours, so that the worker finds exactly
# the modules this process has
_BOOT = "import sys; sys.path[:] = {path!r}; from longshore.storage.worker import main; main()"


class Result(msgspec.Struct, frozen=True):
    """A worker's answer; `error` empty means success."""

    error: str = ""
    kind: str = ""
    entries: int = 0
    size: int = 0
    diff_id: str = ""


def run_worker(directory: Path, blob: int, task: str, **parameters: object) -> Result:
    """Run one worker to its end. Blocks; raises InvalidArgument, OutOfSpace or Internal."""
    job = {"task": task, "directory": str(directory), "blob": blob, **parameters}
    command = [sys.executable, "-I", "-S", "-c", _BOOT.format(path=_import_path()), msgspec.json.encode(job)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(blob,), env={}, check=False
    )
    try:
        result = msgspec.json.decode(done.stdout, type=Result)
    except msgspec.MsgspecError as cause:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Internal(
            "the layer worker died",
            detail=f"exit status {done.returncode}: {last[:300] or 'it said nothing'}",
        ) from cause
    match result.kind:
        case "":
            return result
        case "invalid":
            raise InvalidArgument("invalid layer", detail=result.error)
        case "space":
            raise OutOfSpace(
                "no space left on device", detail=str(directory.parent), hint="free space or prune images"
            )
        case _:
            raise Internal(f"cannot {task} the layer", detail=result.error)


def _import_path() -> Sequence[str]:
    return [entry for entry in sys.path if entry and os.path.isabs(entry)]  # noqa: PTH117  # strings, not paths
