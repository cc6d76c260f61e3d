"""Hear when other programs change our rules: a reloaded firewall must not leave containers open or unreachable."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from longshore.errors import EngineError
from longshore.kernel.nft import NftSocket
from longshore.network import beside

SETTLE = 0.05  # seconds: a reload comes as many changes, one repair is enough
PAUSE = 0.5  # seconds between repairs: another program may fight for the same rules

_log = logging.getLogger(__name__)


class RuleWatch:
    """Calls `repair` with the names of tables that somebody else has changed, ours or the one of DOCKER-USER."""

    def __init__(self, table: str, repair: Callable[[set[str]], Awaitable[None]], own_port: int) -> None:
        self._table = table
        self._repair = repair
        self._own_port = own_port
        self._changed: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._socket: NftSocket | None = None

    def start(self) -> None:
        self._socket = NftSocket()
        self._socket.listen()
        asyncio.get_running_loop().add_reader(self._socket.socket.fileno(), self._read)

    def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.socket.fileno())
            self._socket.close()
            self._socket = None
        if self._task is not None:
            self._task.cancel()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            notices = self._socket.notices()
        except OSError:  # ENOBUFS: more was told than the socket holds; assume the worst
            self._changed |= {self._table, beside.TABLE}
        else:
            for notice in notices:
                if notice.port != self._own_port and notice.table in (self._table, beside.TABLE):
                    self._changed.add(notice.table)
        if self._changed and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        try:
            while self._changed:
                await asyncio.sleep(SETTLE)
                changed, self._changed = self._changed, set()
                try:
                    await self._repair(changed)
                except EngineError as cause:
                    _log.warning("cannot put the firewall rules back: %s", cause)
                    self._changed |= changed
                await asyncio.sleep(PAUSE)
        finally:
            self._task = None
