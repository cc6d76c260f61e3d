"""`wire.py` for asyncio: what the daemon needs beyond single sends and receives."""

import asyncio
import os
import socket
from collections.abc import Sequence

from longshore.errors import Internal
from longshore.runtime import records, wire


async def connect_control(state_dir: str) -> socket.socket:
    """A connection to the monitor's control socket. Raises OSError when no monitor listens."""
    # Through the folder's descriptor: sun_path holds only 107 bytes (unix(7))
    folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        path = f"/proc/self/fd/{folder}/{records.SOCKET_NAME}"
        await asyncio.get_running_loop().sock_connect(connection, path)
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


async def send_packet(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, data: bytes, descriptors: Sequence[int]
) -> None:
    """One message of a SOCK_SEQPACKET socket: whole or not at all."""
    while True:
        try:
            wire.send(connection, data, descriptors)
            return
        except BlockingIOError:  # the zygote is forking; wait until it reads again
            writable = asyncio.Event()
            loop.add_writer(connection.fileno(), writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(connection.fileno())


async def receive_body(connection: socket.socket) -> bytes:
    """Exactly one message, and not one byte of what follows it. Raises EOFError."""
    (length,) = wire.HEADER.unpack(await _receive_exactly(connection, wire.HEADER.size))
    if length > wire.MAX_MESSAGE:
        raise Internal(f"message of {length} bytes is refused")
    return await _receive_exactly(connection, length)


async def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < length:
        part = await loop.sock_recv(connection, length - len(data))
        if not part:
            raise EOFError("the connection ended within a message")
        data += part
    return data
