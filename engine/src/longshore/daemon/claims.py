"""What one daemon has for itself: its data root, its pidfile, its sockets."""

import errno
import fcntl
import grp
import os
import socket
from pathlib import Path

from longshore.api.server import bind_unix
from longshore.daemon.settings import Settings
from longshore.errors import Conflict, InvalidArgument, Unavailable

FIRST_PASSED_FD = 3  # sd_listen_fds(3)


class RootLock:
    """Held while the daemon lives; the kernel lets go of it however the daemon ends.

    The pid inside is for the message only. The descriptor closes on exec, so neither zygote nor containers hold it.
    """

    def __init__(self, data_root: Path) -> None:
        """Raises Conflict when another daemon uses this data root."""
        data_root.mkdir(parents=True, exist_ok=True, mode=0o711)
        path = data_root / "longshored.lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            owner = os.read(self._fd, 32).decode().strip()
            os.close(self._fd)
            raise Conflict(
                f"another longshored uses {data_root}",
                detail=f"process {owner}" if owner else "",
                hint="stop it, or give this one a --data-root, --exec-root, --host and --bridge of its own",
            ) from cause
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def write_pidfile(path: Path) -> None:
    """Raises Conflict when the process in it lives and is a longshored of another data root."""
    try:
        pid = int(path.read_text())
        if pid != os.getpid() and is_longshored(pid):
            raise Conflict(f"the pidfile {path} belongs to a running longshored", detail=f"process {pid}")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        pass  # none, a dead one, or rubbish
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n")
    temporary.rename(path)


def is_longshored(pid: int) -> bool:
    """Whether that process is a daemon, and not one that merely talks of it. Raises OSError when it is gone."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]  # python, its flag, the script
    return any(word.rpartition(b"/")[2] == b"longshored" for word in words)


def remove_own(path: Path, identity: tuple[int, int] | None) -> None:
    """Remove a file unless somebody else has put another one in its place."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if identity is None or (status.st_dev, status.st_ino) == identity:
        path.unlink(missing_ok=True)


def socket_group(name: str) -> int | None:
    """Group id for the unix socket. Raises InvalidArgument for an unknown name that was asked for."""
    for candidate in [name] if name else ["longshore", "docker"]:
        try:
            return grp.getgrnam(candidate).gr_gid
        except KeyError:
            continue
    if name:
        raise InvalidArgument(f"group {name!r} of --group does not exist")
    return None


def open_unix(path: str, group: str) -> socket.socket:
    """Raises Unavailable with the reason."""
    try:
        return bind_unix(path, socket_group(group))
    except OSError as cause:
        raise Unavailable(f"cannot listen on unix://{path}", detail=cause.strerror or str(cause)) from cause


def open_tcp(host: str) -> socket.socket:
    """A bound TCP socket of `tcp://address:port`. Raises Unavailable."""
    address, _, port = host.removeprefix("tcp://").rpartition(":")
    address = address.strip("[]")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # what accept(2) gives inherits it
        sock.bind((address, int(port)))
    except OSError as cause:
        sock.close()
        hint = "another program has this port" if cause.errno == errno.EADDRINUSE else ""
        raise Unavailable(
            f"cannot listen on {host}", detail=cause.strerror or str(cause), hint=hint
        ) from cause
    sock.setblocking(False)
    return sock


def passed_sockets() -> list[socket.socket]:
    """The sockets that systemd opened for us (`fd://`). Raises InvalidArgument when there are none."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        raise InvalidArgument(
            "no sockets were passed to fd://", hint="use fd:// only in a systemd socket unit"
        )
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    sockets: list[socket.socket] = []
    for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + count):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            raise InvalidArgument("fd:// takes unix sockets only", detail=f"descriptor {fd} is another kind")
        sockets.append(sock)
    return sockets


def notify(state: str) -> None:
    """sd_notify(3); nothing without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            pass  # whoever wanted to know has gone


def prepare_folders(settings: Settings) -> None:
    """Raises Unavailable when a root cannot be made."""
    for path in (Path(settings.data_root), Path(settings.exec_root)):
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o711)
        except OSError as cause:
            raise Unavailable(f"cannot create {path}", detail=cause.strerror or str(cause)) from cause
