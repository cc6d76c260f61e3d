"""The receiving end of --pidfd-socket: pidfd-kill [--signal S] [--pid-file F] SOCKET; a SIGTERM lets it send S."""

import argparse
import os
import signal
import socket
from pathlib import Path

parser = argparse.ArgumentParser("pidfd-kill")
parser.add_argument("--signal", default="SIGKILL")
parser.add_argument("--pid-file")
parser.add_argument("socket")
arguments = parser.parse_args()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if arguments.pid_file:
    Path(arguments.pid_file).write_text(f"{os.getpid()}\n")
try:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(arguments.socket)
        listener.listen()
        peer, _address = listener.accept()
        with peer:
            (pidfd,) = socket.recv_fds(peer, 4096, 1)[1]
    signal.sigwait({signal.SIGTERM})
    signal.pidfd_send_signal(pidfd, signal.Signals[arguments.signal])
finally:
    if arguments.pid_file:
        Path(arguments.pid_file).unlink(missing_ok=True)
