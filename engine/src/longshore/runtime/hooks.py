"""Hooks of the runtime specification: programs that are told the container's state on standard input.

Works in the runtime's process and in the forked child alike: it imports nothing late and asks for no name.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from longshore.errors import InvalidArgument, StartFailed
from longshore.oci.runtime_spec import Hook, Hooks, Spec
from longshore.runtime.steps import words

_MOST_OUTPUT = 4096
FIELDS = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}
"""The six points as the specification names them, and as `Hooks` does."""
POINTS = tuple(FIELDS)


def hooks_of(spec: Spec, point: str) -> tuple[Hook, ...]:
    return () if spec.hooks is None else getattr(spec.hooks, FIELDS[point])


def check_hooks(hooks: Hooks | None) -> None:
    """Raises InvalidArgument, naming the place."""
    for point, field in FIELDS.items() if hooks is not None else ():
        for index, hook in enumerate(getattr(hooks, field)):
            where = f"hooks.{point}[{index}]"
            if not hook.path.startswith("/"):
                raise InvalidArgument(f'{where}.path: "{hook.path}" is not absolute')
            if hook.timeout is not None and hook.timeout <= 0:
                raise InvalidArgument(f"{where}.timeout: {hook.timeout} is not above 0")
            if any("\\0" in text for text in (hook.path, *hook.args, *hook.env)):
                raise InvalidArgument(f"{where}: a NUL byte in path, args or env")


def state(spec: Spec, container_id: str, bundle: str, status: str, pid: int) -> dict[str, Any]:
    """The container's state as hooks and `state` tell it (runtime-spec, runtime.md); pid 0 is left out."""
    told: dict[str, Any] = {"ociVersion": spec.oci_version, "id": container_id, "status": status}
    if pid:
        told["pid"] = pid
    told["bundle"] = bundle
    if spec.annotations:
        told["annotations"] = spec.annotations
    return told


def run_hooks(
    point: str, hooks: Iterable[Hook], told: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> None:
    """One after the other. Raises StartFailed for the first that does not end with 0 in its time.

    `environment` is for those that have none of their own: startContainer has the process's, as with runc.
    """
    text = msgspec.json.encode(told)
    for index, hook in enumerate(hooks):
        # As runc says it up to 1.1, and since
        _run(f"error running hook: error running {point} hook #{index}", hook, text, environment or {})


def _run(what: str, hook: Hook, text: bytes, environment: Mapping[str, str]) -> None:
    theirs, given = os.pipe()
    output, said = os.pipe()
    child = os.fork()
    if not child:
        _become(hook, theirs, said, environment)
    os.close(theirs)
    os.close(said)
    pidfd = os.pidfd_open(child)
    try:
        said_text = _converse(pidfd, given, output, text, hook.timeout)
    finally:
        os.close(output)
        os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said_text is None:
        raise StartFailed(f"{what}: {hook.path} did not end within {hook.timeout} s")
    if status:
        # strsignal(3)'s words, "bad system call": what runc's callers look for
        how = (signal.strsignal(-status) or "").lower() if status < 0 else f"exit status {status}"
        raise StartFailed(f"{what}: {hook.path}: {how}", detail=said_text.decode(errors="replace").strip())


def _become(hook: Hook, stdin: int, output: int, environment: Mapping[str, str]) -> None:
    try:
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 1024)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        pairs = (item.partition("=") for item in hook.env)
        own = {name: value for name, _equals, value in pairs}
        os.execve(hook.path, hook.args or (hook.path,), own or environment)
    except OSError as error:
        os.write(2, words(error).encode())
    finally:
        os._exit(127)


def _converse(pidfd: int, given: int, output: int, text: bytes, timeout: int | None) -> bytes | None:
    """Write the state, read what is said until the end; None when it was killed for its time."""
    until = None if timeout is None else time.monotonic() + timeout
    os.set_blocking(given, False)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(output, select.POLLIN)
    poll.register(given, select.POLLOUT)
    said = b""
    late = False
    while True:
        left = None if until is None else max(0.0, (until - time.monotonic()) * 1000)
        events = dict(poll.poll(left))
        if not events:
            late = True
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            until = None
            continue
        if given in events:
            try:
                text = text[os.write(given, text) :]
            except BrokenPipeError:
                text = b""  # it does not want to know
            if not text:
                poll.unregister(given)
                os.close(given)
                given = -1
        if output in events:
            data = os.read(output, 4096)
            said = (said + data)[-_MOST_OUTPUT:]
            if not data:
                poll.unregister(output)
        elif pidfd in events:
            # Ended, and all that it said is read; what its own children hold open is not waited for.
            if given >= 0:
                os.close(given)
            return None if late else said
