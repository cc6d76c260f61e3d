"""Being woken when a log's files change. One inotify instance per event loop serves all readers.

There are only fs.inotify.max_user_instances of them per user (128 on many machines), shared with everything else that
root runs; where none is to be had, readers look by themselves from time to time.
"""

import asyncio
import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from longshore.kernel import inotify

NEW_NAMES = inotify.IN_MOVED_TO | inotify.IN_CREATE
MODIFIED = inotify.IN_MODIFY


class _Hub:
    """Sets events when files change."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = inotify.inotify_init()
        self._events: dict[int, list[asyncio.Event]] = {}
        loop.add_reader(self._fd, self._on_readable)

    def subscribe(self, path: str, mask: int, event: asyncio.Event) -> int:
        # The same inode gives the same number (inotify_add_watch(2)), the masks are joined
        watch = inotify.inotify_add_watch(self._fd, path, mask | inotify.IN_MASK_ADD)
        self._events.setdefault(watch, []).append(event)
        return watch

    def unsubscribe(self, watch: int, event: asyncio.Event) -> None:
        events = self._events.get(watch, [])
        if event in events:
            events.remove(event)
            if not events:
                del self._events[watch]
                inotify.inotify_rm_watch(self._fd, watch)

    def close_if_unused(self) -> bool:
        if self._events:
            return False
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        return True

    def _on_readable(self) -> None:
        for watch, mask, _ in inotify.read_events(self._fd):
            # IN_Q_OVERFLOW has no watch: everybody looks
            told = self._events.values() if mask & inotify.IN_Q_OVERFLOW else [self._events.get(watch, [])]
            for event in (event for events in told for event in events):
                event.set()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = WeakKeyDictionary()


@contextmanager
def subscribed(path: str, mask: int, event: asyncio.Event) -> Generator[bool]:
    """Set the event whenever the file or folder changes. A missing one never does.

    Gives false when this machine has no more watches to give: then the event must not be relied on.
    """
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    watch = -1
    try:
        if hub is None:
            hub = _hubs[loop] = _Hub(loop)
        watch = hub.subscribe(path, mask, event)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM):
            raise
        yield False
        return
    try:
        yield True
    finally:
        assert hub is not None
        hub.unsubscribe(watch, event)
        if hub.close_if_unused():
            _hubs.pop(loop, None)
