"""SSH to a machine: a small contract, and paramiko behind it.

Nothing connects without a pinned host key, from the first connection on. Errors are of `pymachine.errors`:
Unreachable, HostKeyRefused, AuthenticationFailed.
"""

import contextlib
import io
import logging
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import IncompatiblePeer

from pymachine.errors import AuthenticationFailed, HostKeyRefused, MachineError, RemoteFailed, Unreachable
from pymachine.keys import HostKey

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 600.0  # without a byte from the other side
_BLOCK = 1 << 16

# paramiko writes its own tracebacks of refused connections to the log; we report them ourselves.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

# A host key's kind and the signature algorithms that prove it (RFC 8332 renamed RSA's).
_ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to log in, as whom, and which host keys are right. No key file: the agent and the user's own keys."""

    host: str
    port: int
    user: str
    key: Path | None
    host_keys: tuple[HostKey, ...]

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a remote command left behind."""

    code: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """A logged-in connection to one host."""

    def run(
        self,
        command: Sequence[str] | str,
        *,
        stdin: bytes | IO[bytes] = b"",
        check: bool = True,
        timeout: float = COMMAND_SECONDS,
    ) -> Result:
        """Run an argv, or a text for the login shell. RemoteFailed on a bad exit code when `check`."""
        ...

    def put(self, local: Path | bytes, remote: str, mode: int) -> None:
        """Write a file, whole or not at all."""
        ...

    def shell(self, command: str = "") -> int:
        """Hand the user's terminal over to a shell, or to `command`; returns its exit code."""
        ...

    def close(self) -> None:
        """End the connection. Twice is fine."""
        ...


class ParamikoTransport:
    """The contract over paramiko. `sudo` makes everything but `shell` run as root without asking."""

    def __init__(self, target: Target, transport: paramiko.Transport) -> None:
        self.target = target
        self.sudo = False
        self._transport = transport

    def run(
        self,
        command: Sequence[str] | str,
        *,
        stdin: bytes | IO[bytes] = b"",
        check: bool = True,
        timeout: float = COMMAND_SECONDS,
    ) -> Result:
        line = remote_line(command, sudo=self.sudo)
        with self._errors(f"cannot run a command on {self.target}"), contextlib.ExitStack() as undo:
            channel = self._transport.open_session(timeout=CONNECT_SECONDS)
            undo.callback(channel.close)
            channel.settimeout(timeout)
            channel.exec_command(line)
            source = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
            errors: list[bytes] = []
            helpers = [
                threading.Thread(target=_feed, args=(channel, source), daemon=True),
                threading.Thread(target=_drain, args=(channel.recv_stderr, errors), daemon=True),
            ]
            for helper in helpers:
                helper.start()
            output: list[bytes] = []
            while data := channel.recv(_BLOCK):
                output.append(data)
            for helper in helpers:
                helper.join(timeout)
            code = channel.recv_exit_status()
            result = Result(
                code, b"".join(output).decode(errors="replace"), b"".join(errors).decode(errors="replace")
            )
        if check and code != 0:
            shown = command if isinstance(command, str) else shlex.join(command)
            shown = shown.strip().splitlines()[0][:100]
            raise RemoteFailed(
                f"{shown!r} ended with code {code} on {self.target}",
                detail=(result.stderr or result.stdout).strip()[-1000:],
            )
        return result

    def put(self, local: Path | bytes, remote: str, mode: int) -> None:
        # Through the shell and not SFTP: works without the subsystem and through sudo.
        fresh = shlex.quote(f"{remote}.new")
        script = (
            f"umask 077 && cat > {fresh} && chmod {mode:o} {fresh} && mv -f {fresh} {shlex.quote(remote)}"
            f" || {{ rm -f {fresh}; exit 1; }}"
        )
        if isinstance(local, bytes):
            self.run(["sh", "-c", script], stdin=local)
            return
        with local.open("rb") as stream:
            self.run(["sh", "-c", script], stdin=stream)

    def shell(self, command: str = "") -> int:
        with self._errors(f"the session with {self.target} broke"), contextlib.ExitStack() as undo:
            channel = self._transport.open_session(timeout=CONNECT_SECONDS)
            undo.callback(channel.close)
            interactive = sys.stdin.isatty() and not command
            if interactive:
                size = shutil.get_terminal_size()
                channel.get_pty(os.environ.get("TERM", "vt100"), size.columns, size.lines)
            if command:
                channel.exec_command(command)
            else:
                channel.invoke_shell()
            if interactive:
                undo.enter_context(_raw_terminal(channel))
            _relay(channel)
            return channel.recv_exit_status()

    def close(self) -> None:
        self._transport.close()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Generator[None]:
        """Translate what paramiko and the socket raise after login."""
        try:
            yield
        except TimeoutError as cause:
            raise Unreachable(what, detail="no answer in time") from cause
        except (paramiko.SSHException, EOFError, OSError) as cause:
            raise Unreachable(what, detail=str(cause) or "the connection was closed") from cause


def connect(target: Target, *, timeout: float = CONNECT_SECONDS) -> ParamikoTransport:
    """Log in. Raises Unreachable, HostKeyRefused or AuthenticationFailed; the caller closes what is returned."""
    if not target.host_keys:
        raise HostKeyRefused(f"no host key of {target.host} is pinned", hint="create the machine again")
    kinds = tuple(dict.fromkeys(key.kind for key in target.host_keys))
    transport = _negotiate(target.host, target.port, kinds, timeout)
    try:
        shown = _shown_key(transport)
        if shown not in target.host_keys:
            raise _refused(target, shown)
        _authenticate(transport, target)
        transport.set_keepalive(15)
    except BaseException:
        transport.close()
        raise
    return ParamikoTransport(target, transport)


def scan(host: str, port: int, *, timeout: float = CONNECT_SECONDS) -> Iterator[HostKey]:
    """The host keys a server shows, the preferred one first. Trust none of them: compare with something known."""
    seen: set[str] = set()
    for kinds in (tuple(_ALGORITHMS), *((kind,) for kind in _ALGORITHMS)):
        if len(kinds) == 1 and kinds[0] in seen:
            continue
        try:
            transport = _negotiate(host, port, kinds, timeout)
        except HostKeyRefused:
            continue  # the server has no key of that kind
        key = _shown_key(transport)
        transport.close()
        seen.add(key.kind)
        yield key


def remote_line(command: Sequence[str] | str, *, sudo: bool = False) -> str:
    """The one text that sshd hands to the login shell. Pure."""
    if isinstance(command, str):
        line = command
        return f"sudo -n -- sh -c {shlex.quote(line)}" if sudo else line
    line = shlex.join(command)
    return f"sudo -n -- {line}" if sudo else line


def _negotiate(host: str, port: int, kinds: Sequence[str], timeout: float) -> paramiko.Transport:
    """A connection whose server proved to own a host key of one of `kinds`."""
    where = f"{host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout=timeout)
    except socket.gaierror as cause:
        raise Unreachable(f"cannot find the host {host!r}", detail=cause.strerror or "") from cause
    except TimeoutError as cause:
        raise Unreachable(
            f"no answer from {where} within {timeout:.0f} s",
            hint="check the address, the firewall and that it runs",
        ) from cause
    except ConnectionRefusedError as cause:
        raise Unreachable(
            f"{where} refuses connections", hint="does an SSH server listen on that port?"
        ) from cause
    except (OSError, OverflowError) as cause:
        raise Unreachable(f"cannot reach {where}", detail=str(cause)) from cause
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    try:
        transport.banner_timeout = timeout
        transport.get_security_options().key_types = [name for kind in kinds for name in _ALGORITHMS[kind]]
        transport.start_client(timeout=timeout)
        transport.get_remote_server_key()  # start_client returns without a word when its time is up
    except IncompatiblePeer as cause:
        transport.close()
        raise HostKeyRefused(
            f"{where} has no host key of kind {' or '.join(kinds)}", detail=str(cause)
        ) from cause
    except (paramiko.SSHException, EOFError, OSError) as cause:
        transport.close()
        raise Unreachable(f"no SSH server answers on {where}", detail=str(cause)) from cause
    return transport


def _shown_key(transport: paramiko.Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.get_base64())


def _refused(target: Target, shown: HostKey) -> HostKeyRefused:
    return HostKeyRefused(
        f"the host key of {target.host}:{target.port} is not the pinned one",
        detail=f"it shows {shown.kind} {shown.fingerprint}, pinned is "
        + ", ".join(f"{key.kind} {key.fingerprint}" for key in target.host_keys),
        hint="somebody may be listening in; if the host was made anew, remove and create the machine again",
        fingerprint=shown.fingerprint,
    )


def _authenticate(transport: paramiko.Transport, target: Target) -> None:
    tried = 0
    try:
        for key in _login_keys(target):
            tried += 1
            try:
                transport.auth_publickey(target.user, key)
            except paramiko.BadAuthenticationType as cause:
                raise AuthenticationFailed(
                    f"{target} does not allow login by key", detail=str(cause)
                ) from cause
            except paramiko.AuthenticationException:
                continue
            if transport.is_authenticated():
                return
    except (paramiko.SSHException, EOFError, OSError) as cause:
        raise AuthenticationFailed(f"{target} broke off the login", detail=str(cause)) from cause
    if target.key is not None:
        raise AuthenticationFailed(
            f"{target} refuses the key {target.key}",
            hint="is its public half in the user's authorized_keys, and is the user right?",
        )
    raise AuthenticationFailed(
        f"{target} refuses all of {tried} keys" if tried else f"there is no key to log in to {target}",
        hint="name one with --generic-ssh-key, or load it into the SSH agent",
    )


def _login_keys(target: Target) -> Iterator[paramiko.PKey]:
    if target.key is not None:
        yield load_key(target.key)
        return
    yield from paramiko.Agent().get_keys()
    for name in ("id_ed25519", "id_ecdsa", "id_rsa"):
        path = Path.home() / ".ssh" / name
        if path.exists():
            try:
                yield load_key(path)
            except AuthenticationFailed:
                continue  # with a passphrase: the agent is the way to use it


def load_key(path: Path) -> paramiko.PKey:
    """A private key file of any kind. AuthenticationFailed when it cannot be used."""
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError as cause:
        raise AuthenticationFailed(f"the key file {path} does not exist") from cause
    except (paramiko.PasswordRequiredException, TypeError) as cause:
        raise AuthenticationFailed(
            f"the key {path} has a passphrase", hint="load it with ssh-add and leave the key flag out"
        ) from cause
    except (paramiko.SSHException, UnknownKeyType, ValueError, OSError) as cause:
        raise AuthenticationFailed(f"cannot read the key {path}", detail=str(cause)) from cause


def _feed(channel: paramiko.Channel, source: IO[bytes]) -> None:
    try:
        while data := source.read(_BLOCK):
            channel.sendall(data)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        return  # the command ended without reading its input; its exit code tells the story


def _drain(receive: Callable[[int], bytes], into: list[bytes]) -> None:
    try:
        while data := receive(_BLOCK):
            into.append(data)
    except (OSError, EOFError):
        return  # a timeout shows in the main loop as well


@contextlib.contextmanager
def _raw_terminal(channel: paramiko.Channel) -> Generator[None]:
    """Give the terminal to the far side, window size included, and take it back at the end."""

    def resize(_signal: int, _frame: object) -> None:
        size = shutil.get_terminal_size()
        channel.resize_pty(size.columns, size.lines)

    saved = termios.tcgetattr(sys.stdin.fileno())
    previous = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(sys.stdin.fileno())
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, saved)
        signal.signal(signal.SIGWINCH, previous)


def _relay(channel: paramiko.Channel) -> None:
    """Copy between our standard streams and the channel until the far side ends."""
    incoming, typed = channel.fileno(), sys.stdin.fileno()
    sources = [incoming, typed]
    while True:
        ready = select.select(sources, [], [])[0]
        if typed in ready:
            data = os.read(typed, _BLOCK)
            if data:
                channel.sendall(data)
            else:
                channel.shutdown_write()
                sources.remove(typed)
        if incoming in ready:
            while channel.recv_stderr_ready():
                _write_all(2, channel.recv_stderr(_BLOCK))
            if channel.recv_ready() or channel.closed or channel.eof_received:
                data = channel.recv(_BLOCK)
                if not data:
                    break
                _write_all(1, data)
    while data := channel.recv_stderr(_BLOCK):
        _write_all(2, data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def wait_for_login(
    target: Callable[[], Target],
    *,
    seconds: float,
    still_running: Callable[[], None],
    tick: Callable[[], None],
) -> ParamikoTransport:
    """Connect as soon as the host lets us in. Only Unreachable is waited out; a wrong key never gets right.

    `still_running` raises when waiting is pointless; `tick` shows progress.
    """
    deadline = time.monotonic() + seconds
    while True:
        still_running()
        try:
            return connect(target(), timeout=5)
        except Unreachable as cause:
            if time.monotonic() > deadline:
                raise Unreachable(f"no SSH login within {seconds:.0f} s", detail=str(cause)) from cause
        except MachineError:
            raise
        tick()
        time.sleep(0.2)
