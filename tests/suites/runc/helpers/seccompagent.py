"""A seccomp agent, as the suite expects one: it makes folders for the container with the listener's metadata as
suffix, answers chmod with ENOMEDIUM, and lets everything else go on. seccomp_unotify(2)

seccompagent -socketfile=PATH [-pid-file PATH]. The suite does not wait for it, so it listens before it imports the rest.
"""
# ruff: noqa: E402

import _socket
import os
import sys


def listen(words: list[str]) -> _socket.socket:
    values: dict[str, str] = {}
    while words:
        name, equals, value = words.pop(0).lstrip("-").partition("=")
        values[name] = value if equals else words.pop(0)
    if path := values.get("pid-file"):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
    path = values.get("socketfile", "/run/seccomp-agent.socket")
    if os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108 (no pathlib yet)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    return listener


LISTENER = listen(sys.argv[1:])

import site

site.main()  # we were started without

import errno
import fcntl
import json
import socket
import struct
import threading

import pyseccomp

from longshore.kernel.paths import openat2

_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_CHMOD = ("chmod", "fchmod", "fchmodat")


def answer(fd: int, metadata: str) -> None:
    request = bytearray(80)
    fcntl.ioctl(fd, _RECEIVE, request)
    ident, pid, _flags, number, _arch, _ip, path, mode = struct.unpack_from("=QIIiIQQQ", request)
    fcntl.ioctl(fd, _IS_VALID, struct.pack("=Q", ident))
    name = pyseccomp.resolve_syscall(pyseccomp.system_arch(), number).decode()
    failed, flags = 0, _CONTINUE
    if name == "mkdir":
        failed, flags = make_folder(pid, path, mode, metadata), 0
    elif name in _CHMOD:
        failed, flags = errno.ENOMEDIUM, 0
    fcntl.ioctl(fd, _SEND, struct.pack("=QqiI", ident, -1 if failed else 0, -failed, flags))


def make_folder(pid: int, address: int, mode: int, metadata: str) -> int:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            name = memory.read(4096).split(b"\0")[0].decode() + f"-{metadata}"
        root = os.open(f"/proc/{pid}/{'root' if name.startswith('/') else 'cwd'}/", os.O_PATH)
        folder, _slash, last = name.rpartition("/")
        parent = openat2(root, folder or ".", os.O_PATH)
        os.mkdir(last, mode, dir_fd=parent)
        os.close(parent)
        os.close(root)
        return 0
    except OSError as error:
        print(f"mkdir: {error}", file=sys.stderr)
        return errno.ENOSYS


def serve(fd: int, metadata: str) -> None:
    while True:
        try:
            answer(fd, metadata)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINTR):  # the caller is gone
                raise


def main() -> None:
    listener = socket.socket(fileno=LISTENER.detach())
    while True:
        peer, _address = listener.accept()
        with peer:
            text, fds, _flags, _from = socket.recv_fds(peer, 4096, 8)
        state = json.loads(text)
        names = state["fds"]
        if names.count("seccompFd") != 1 or len(names) != len(fds):
            print(f"bad list of descriptors: {names} for {len(fds)}", file=sys.stderr)
            continue
        chosen = fds[names.index("seccompFd")]
        metadata = os.path.basename(state.get("metadata", ""))  # noqa: PTH119
        threading.Thread(target=serve, args=(chosen, metadata), daemon=True).start()


if __name__ == "__main__":
    main()
