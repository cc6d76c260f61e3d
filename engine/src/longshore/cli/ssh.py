"""ssh:// hosts: the API through `ssh HOST longshore system dial-stdio`."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from urllib.parse import urlsplit

from longshore.errors import InvalidArgument


def ssh_command(host: str) -> list[str]:
    """The argv for `ssh://[user@]host[:port][/path/of/socket]`. Pure. Raises InvalidArgument."""
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as cause:
        raise InvalidArgument(f"cannot use the host {host!r}", detail=str(cause)) from cause
    if (
        not parts.hostname
        or parts.hostname.startswith("-")
        or parts.password
        or parts.query
        or parts.fragment
    ):
        raise InvalidArgument(f"cannot use the host {host!r}", hint="write ssh://[user@]host[:port]")
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if parts.username:
        argv += ["-l", parts.username]
    if port:
        argv += ["-p", str(port)]
    remote = [
        "longshore",
        *(["-H", f"unix://{parts.path}"] if parts.path.strip("/") else []),
        "system",
        "dial-stdio",
    ]
    return [*argv, "--", parts.hostname, *remote]


def connect_ssh(host: str, environment: Mapping[str, str] | None = None) -> socket.socket:
    """A socket whose other end are ssh's input and output; ssh says on standard error what it lacks.

    Raises InvalidArgument and OSError (no ssh on this machine).
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            # A group of its own: ctrl-c in `longshore run` is for the container, not for the connection.
            subprocess.Popen(
                ssh_command(host),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env=environment or os.environ,
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    return ours
