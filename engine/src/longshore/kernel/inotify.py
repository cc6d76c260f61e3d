"""inotify(7): being told about changes of files without polling."""

import ctypes
import os
import struct
from collections.abc import Iterator

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_Q_OVERFLOW = 0x4000
IN_MASK_ADD = 0x20000000

_EVENT = struct.Struct("iIII")  # wd, mask, cookie, length of the name

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


def inotify_init() -> int:
    """A new instance: non-blocking, close-on-exec. EMFILE: fs.inotify.max_user_instances is reached."""
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"inotify_init1: {os.strerror(code)}")
    return fd


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch the file or folder that `path` names now; returns the watch descriptor."""
    watch = _libc.inotify_add_watch(fd, os.fsencode(path), mask)
    if watch < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"inotify_add_watch {path}: {os.strerror(code)}", path)
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Stop watching. A watch that ended with its file is gone already; that is fine."""
    _libc.inotify_rm_watch(fd, watch)


def read_events(fd: int) -> Iterator[tuple[int, int, bytes]]:
    """The events that wait now, as (watch descriptor, mask, name in the folder)."""
    try:
        data = os.read(fd, 1 << 16)
    except BlockingIOError:
        return
    offset = 0
    while offset < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size
        yield watch, mask, data[offset : offset + length].rstrip(b"\0")
        offset += length
