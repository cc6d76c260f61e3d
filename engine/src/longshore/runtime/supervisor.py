"""Handing the listener of a seccomp filter to the supervisor behind linux.seccomp.listenerPath.

The descriptor is fetched from the process that loads the filter, seccomp_unotify(2), pidfd_getfd(2), and sent with the
state of the container, as runtime-spec, config-linux.md ("containerProcessState") says.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

import msgspec

from longshore.errors import StartFailed
from longshore.kernel.descriptors import close_quietly, send
from longshore.kernel.processes import pidfd_getfd
from longshore.runtime.steps import words

_PAUSE = 1  # milliseconds


def hand_over(path: str, metadata: str, number: int, told: dict[str, Any], pid: int, pidfd: int) -> None:
    """Send descriptor `number` of a process that is about to load its filter to the supervisor's socket.

    `told` is the container's state; without a pid in it the process is its first one. Raises StartFailed without a
    supervisor. A process that has died tells its reason by other ways.
    """
    told.setdefault("pid", pid)
    process = {
        "ociVersion": told["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": told,
    }
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(path)
        except OSError as error:
            raise StartFailed(
                "failed to connect with seccomp agent specified in the seccomp profile",
                errno=error.errno or 0,
                detail=f"{path}: {words(error)}",
            ) from error
        listener = _fetch(pidfd, number)
        if listener is None:
            return
        try:
            send(peer, msgspec.json.encode(process), (listener,))
        except OSError as error:
            raise StartFailed(f"error sending the seccomp listener: {words(error)}") from error
        finally:
            close_quietly(listener)


def _fetch(pidfd: int, number: int) -> int | None:
    """The process has said that it is about to load the filter; the descriptor is there a moment later. None: it has
    died.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while True:
        try:
            return pidfd_getfd(pidfd, number)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ESRCH):
                raise StartFailed(f"error fetching the seccomp listener: {words(error)}") from error
        if poll.poll(_PAUSE):
            return None
