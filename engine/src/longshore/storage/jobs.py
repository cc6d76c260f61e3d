"""Starting the layer workers and understanding what they say."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from longshore.errors import Internal, InvalidArgument, OutOfSpace, Unavailable

# -I and -S: no site, no user directories, no environment; the path is ours, so that the worker finds exactly
# the modules this process has
_BOOT = "import sys; sys.path[:] = {path!r}; from longshore.storage.worker import main; main()"


def run_worker(
    directory: Path, blob: int, task: str, *parameters: object, pulse: int | None = None
) -> list[str]:
    """Run one worker to its end; returns what the task results in.

    `pulse`: the blob still grows, see blob_writer.Follower. Blocks. Raises InvalidArgument, OutOfSpace, Internal,
    and Unavailable when the rest of a growing blob never came.
    """
    boot = _BOOT.format(path=_import_path())
    command = [sys.executable, "-I", "-S", "-c", boot, task, str(directory), str(blob), *map(str, parameters)]
    fds = (blob,) if pulse is None else (blob, pulse)
    command += map(str, fds[1:])
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=fds, env={}, check=False
    )
    kind, *result = done.stdout.decode("utf-8", "replace").split("\0")
    match kind:
        case "ok":
            return result
        case "invalid":
            raise InvalidArgument("invalid layer", detail="".join(result))
        case "space":
            raise OutOfSpace(
                "no space left on device", detail=str(directory.parent), hint="free space or prune images"
            )
        case "abandoned":
            raise Unavailable("the rest of the layer did not come")
        case "system":
            raise Internal(f"cannot {task} the layer", detail="".join(result))
        case _:
            last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise Internal(
                "the layer worker died",
                detail=f"exit status {done.returncode}: {last[:300] or 'it said nothing'}",
            )


def _import_path() -> Sequence[str]:
    return [entry for entry in sys.path if entry and os.path.isabs(entry)]  # noqa: PTH117  # strings, not paths
