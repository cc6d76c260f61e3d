"""`longshored`: the composition root and its life from the first flag to the last signal."""

import asyncio
import gc
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from longshore import __version__
from longshore.api.server import Api, Server, collect_routes
from longshore.daemon import claims, logs
from longshore.daemon.settings import Settings, parse_settings, reloaded
from longshore.errors import EngineError, Unsupported
from longshore.runtime.client import Zygote

if TYPE_CHECKING:
    from longshore.daemon.wiring import Parts

log = logging.getLogger("longshore.daemon")

_BORN = time.monotonic()


class Daemon:
    """One run. Containers are none of its business: they run on when it ends, whatever ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._parts: Parts | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises EngineError when it cannot start."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with AsyncExitStack() as stack:
            claims.prepare_folders(settings)
            lock = claims.RootLock(Path(settings.data_root))
            stack.callback(lock.release)
            claims.write_pidfile(settings.pid_path)
            stack.callback(claims.remove_own, settings.pid_path, None)
            # Its interpreter starts on another core while this one imports the rest of the engine.
            zygote = asyncio.create_task(Zygote.start())
            stack.push_async_callback(_settle, zygote)
            await asyncio.sleep(0)
            from longshore.daemon.wiring import compose

            routes = collect_routes()
            parts = self._parts = await stack.enter_async_context(compose(settings, zygote))
            server = Server(Api(parts.engine, routes, experimental=settings.experimental))
            stack.push_async_callback(server.close)
            for host in settings.hosts:
                await self._listen(server, host, stack)
            # What exists now lives as long as we do: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            claims.notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=listening on {', '.join(settings.hosts)}")
            born = time.monotonic() - _BORN
            log.info("longshored %s listens on %s after %.3f s", __version__, ", ".join(settings.hosts), born)
            await self._stop.wait()
            claims.notify("STOPPING=1")
        log.info("longshored has ended; containers keep running")

    async def _listen(self, server: Server, host: str, stack: AsyncExitStack) -> None:
        settings = self._settings
        if host.startswith("unix://"):
            path = Path(host.removeprefix("unix://"))
            await server.listen_unix(claims.open_unix(str(path), settings.group))
            status = path.lstat()
            stack.callback(claims.remove_own, path, (status.st_dev, status.st_ino))
        elif host.startswith("fd://"):
            for sock in claims.passed_sockets():
                await server.listen_unix(sock)
        else:
            sock = claims.open_tcp(host)
            try:
                await server.listen_tls(sock, settings.tlscacert, settings.tlscert, settings.tlskey)
            except OSError as cause:  # ssl.SSLError too
                sock.close()
                raise Unsupported(
                    f"cannot use the certificates for {host}",
                    detail=str(cause),
                    hint="check --tlscacert, --tlscert and --tlskey",
                ) from cause

    def _end(self, number: int) -> None:
        log.info("%s: ending", signal.Signals(number).name)
        self._stop.set()

    def _reload(self) -> None:
        """SIGHUP: what may change at run time changes; a wrong file changes nothing."""
        try:
            settings, stuck = reloaded(self._settings)
        except EngineError as error:
            log.error("reload refused: %s", error)
            return
        self._settings = settings
        logs.setup(settings.level)
        if self._parts is not None:
            self._parts.reload(settings)
        log.info("settings reloaded%s", f"; a restart is needed for: {', '.join(stuck)}" if stuck else "")


async def _settle(zygote: "asyncio.Task[Zygote]") -> None:
    """A start that failed half-way leaves no zygote behind. Closing twice is fine."""
    try:
        await (await zygote).close()
    except EngineError:
        pass  # it did not start, which was told


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 0 after a signal, 1 when it cannot start."""
    os.umask(0o022)
    try:
        settings = parse_settings(sys.argv[1:] if arguments is None else arguments)
        logs.setup(settings.level)
        if os.geteuid() != 0:
            raise Unsupported("longshored must run as root", hint="use sudo")
        _sane_descriptors()
        asyncio.run(Daemon(settings).run())
    except EngineError as error:
        print(f"longshored: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _sane_descriptors() -> None:
    """Started with 0, 1 or 2 closed, the next socket would become somebody's standard output."""
    for fd in range(3):
        try:
            stat.S_IFMT(os.fstat(fd).st_mode)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
