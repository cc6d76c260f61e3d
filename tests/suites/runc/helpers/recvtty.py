"""The receiving end of --console-socket, as the suite's recvtty: recvtty [--mode single|null] [--pid-file F] SOCKET.

null: takes any number of terminals and throws away what they say. single: connects one to its own input and output.
The suite does not wait for it, so it starts in a few milliseconds: no module that is not built in or small.
"""

import _socket
import os
import select
import sys
import termios


def receive(listener: _socket.socket) -> int:
    number, _address = listener._accept()
    peer = _socket.socket(fileno=number)
    _name, ancillary, _flags, _from = peer.recvmsg(4096, _socket.CMSG_SPACE(4))
    peer.close()
    return int.from_bytes(ancillary[0][2][:4], sys.byteorder)


def copy(source: int, target: int) -> bool:
    """False at the end. Throws away for target -1."""
    try:
        data = os.read(source, 65536)
    except OSError:
        return False  # EIO: nobody has the other end open
    more = bool(data)
    while target >= 0 and data:
        data = data[os.write(target, data) :]
    return more


def null(listener: _socket.socket) -> None:
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == listener.fileno():
                poll.register(receive(listener), select.POLLIN)
            elif not copy(fd, -1):
                poll.unregister(fd)
                os.close(fd)


def single(listener: _socket.socket, *, with_input: bool) -> None:
    master = receive(listener)
    listener.close()
    settings = termios.tcgetattr(master)
    settings[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, settings)
    poll = select.poll()
    poll.register(master, select.POLLIN)
    if with_input:
        poll.register(0, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if 0 in ready and not copy(0, master):
            poll.unregister(0)
        if master in ready and not copy(master, 1):
            return


def main(words: list[str]) -> None:
    mode, pid_file, with_input = "single", "", True
    while words[0].startswith("-"):
        word = words.pop(0)
        if word in ("-m", "--mode"):
            mode = words.pop(0)
        elif word == "--pid-file":
            pid_file = words.pop(0)
        elif word == "--no-stdin":
            with_input = False
    if pid_file:
        with open(pid_file, "w") as file:
            file.write(f"{os.getpid()}\n")
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    listener.bind(words[0])
    listener.listen()
    if mode == "null":
        null(listener)
    else:
        single(listener, with_input=with_input)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"[recvtty] fatal error: {error}")
