"""Starting the zygote, keeping it alive, sending it launches."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import longshore
from longshore.errors import Internal, OutOfSpace, Unavailable
from longshore.runtime import wire
from longshore.runtime.async_wire import send_packet
from longshore.runtime.cgroup_names import cgroup_path
from longshore.runtime.messages import Launch
from longshore.runtime.monitor_client import Monitor
from longshore.runtime.sealed import seal_interpreter
from longshore.runtime.zygote import READY

STARTUP_SECONDS = 30.0
"""For the zygote's imports on a slow machine (emulated: about 12 times slower), 0.1 s here."""

UNDO_SECONDS = 10.0
"""How long a cancelled launch waits for its monitor to undo everything."""


def zygote_command(control_fd: int, sealed_fd: int) -> list[str]:
    """The argument list of a zygote that finds the modules this process has found.

    `-I -S`: no environment, no site; the search path is handed over as it is (a venv, or the folder
    of a bundle), so nothing has to be guessed. argv[0] must be the interpreter's real path: Python
    derives its prefix, and with that the standard library, from it.
    """
    package_parent = str(Path(longshore.__file__).parent.parent)
    search = [str(Path(entry).absolute()) for entry in sys.path if entry]
    if package_parent not in search:  # an editable install may work by an import hook instead of a path
        search.append(package_parent)
    code = (
        f"import sys; sys.path[:] = {search!r}; "
        f"from longshore.runtime.zygote import main; main({control_fd}, {sealed_fd})"
    )
    return [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", code]


def spawn_zygote() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a zygote; the socket is the control connection, its first message is READY. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            sealed = seal_interpreter()
            try:
                process = subprocess.Popen(
                    zygote_command(theirs.fileno(), sealed),
                    executable=f"/proc/self/fd/{sealed}",
                    pass_fds=(theirs.fileno(), sealed),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                    cwd="/",
                )
            finally:
                os.close(sealed)
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return process, ours


def _file_of(data: bytes) -> BinaryIO:
    """In memory: what a monitor reads when it needs it, and nobody has to take apart before."""
    file = os.fdopen(os.memfd_create("launch", os.MFD_CLOEXEC), "w+b", buffering=0)
    try:
        if file.write(data) != len(data):
            raise OutOfSpace("no memory for the launch message")
    except BaseException:
        file.close()
        raise
    return file


class Zygote:
    """The handle of the zygote process, which is started again when it has died."""

    def __init__(self) -> None:
        """Use `Zygote.start()`."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()  # one writer: messages must not mix

    @classmethod
    async def start(cls) -> "Zygote":
        """Start the process and wait until it is warm. Raises Unavailable."""
        zygote = cls()
        async with zygote._lock:
            await zygote._ensure()
        return zygote

    @property
    def pid(self) -> int:
        """Process id of the zygote now; 0 when there is none."""
        return self._process.pid if self._process else 0

    async def close(self) -> None:
        """End the zygote; the monitors live on. Twice is fine."""
        async with self._lock:
            await self._discard()

    async def launch(self, launch: Launch) -> "Monitor":
        """Fork a monitor that creates the container; returns when init waits for `Monitor.start()`.

        Raises StartFailed, InvalidArgument or Unsupported when the container cannot be created, and Unavailable
        when zygote or monitor died; then nothing is left. Cancelled: the monitor undoes everything first.
        """
        for attempt in (1, 2):
            monitor = await self._send(launch)
            try:
                await monitor.created()
            except Unavailable:
                await monitor.close()
                # Dead before it forked: then nobody else has seen the message and it can be sent again
                if attempt == 2 or await self._alive():
                    raise
            except asyncio.CancelledError:
                # Whoever cancels may start the same container again at once
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(UNDO_SECONDS):
                        await monitor.abandon()
                raise
            except BaseException:
                await monitor.close()
                raise
            else:
                return monitor
        raise Internal("unreachable")

    async def _send(self, launch: Launch) -> "Monitor":
        cgroup = cgroup_path(launch.spec, launch.id, systemd=launch.systemd_cgroup)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setblocking(False)
            with theirs, _file_of(wire.encode_body(launch)) as body:
                async with self._lock:
                    await self._pass_on((theirs.fileno(), body.fileno()))
        except BaseException:
            ours.close()
            raise
        return Monitor(launch.id, launch.state_dir, launch.exit_path, ours, cgroup)

    async def _pass_on(self, descriptors: tuple[int, int]) -> None:
        """To a zygote that lives; one that has died is started again, once."""
        loop = asyncio.get_running_loop()
        for _ in range(2):
            control = await self._ensure()
            try:
                await send_packet(loop, control, b"L", descriptors)
                return
            except (BrokenPipeError, ConnectionResetError):
                await self._discard()
        raise Unavailable("the zygote died twice in a row")

    async def _alive(self) -> bool:
        async with self._lock:
            return self._process is not None and self._process.poll() is None

    async def _ensure(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        await self._discard()
        try:
            self._process, self._socket = spawn_zygote()
            async with asyncio.timeout(STARTUP_SECONDS):
                body = await asyncio.get_running_loop().sock_recv(self._socket, 64)
        except (OSError, TimeoutError) as error:
            await self._discard()
            raise Unavailable(
                "the zygote does not start", detail=str(error), hint="the daemon's standard error shows why"
            ) from error
        if body != READY:
            await self._discard()
            raise Unavailable("the zygote does not start", hint="the daemon's standard error shows why")
        return self._socket

    async def _discard(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            process, self._process = self._process, None
            # It ends by itself when its socket is closed; killed when it is stuck
            for _ in range(100):
                if process.poll() is not None:
                    return
                await asyncio.sleep(0.01)
            process.kill()
            await asyncio.to_thread(process.wait)
