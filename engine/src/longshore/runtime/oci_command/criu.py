"""checkpoint and restore, which are CRIU's work."""

from __future__ import annotations

import shutil

from longshore.errors import Unsupported
from longshore.runtime.oci_command.context import Context


def refuse(context: Context) -> None:
    """Raises Unsupported; the container goes on as it is."""
    if shutil.which("criu") is None:
        raise Unsupported(
            f"{context.command} needs CRIU, and this machine has no criu", hint="https://criu.org"
        )
    raise Unsupported(f"{context.command} is not supported yet, although criu is installed")
