"""`longshore system dial-stdio`: the far end of an ssh:// host."""

from __future__ import annotations

import os
import selectors
import socket
import sys

from longshore.cli.context import client
from longshore.cli.flags import command
from longshore.cli.terminal import write_all


@command("dial-stdio")
def dial_stdio_command() -> None:
    """Join standard input and output with the daemon's socket (what ssh:// hosts run)."""
    sock = client().connect()
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "in")
        selector.register(sock, selectors.EVENT_READ, "out")
        while True:
            for key, _ in selector.select():
                if key.data == "in":
                    data = os.read(sys.stdin.fileno(), 1 << 16)
                    if data:
                        sock.sendall(data)
                    else:
                        selector.unregister(sys.stdin.fileno())
                        sock.shutdown(socket.SHUT_WR)
                else:
                    data = sock.recv(1 << 16)
                    if not data:
                        return
                    write_all(sys.stdout.fileno(), data)
