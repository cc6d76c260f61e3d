"""The zygote: a small, single-threaded, fully imported interpreter that forks the monitors.

The daemon must not fork (it has threads), and importing costs more than starting. The zygote imports once,
freezes the garbage collector so that forks share its pages, and then does nothing but take launches and fork, for
which it needs no Python (monitor/quiet.py). It knows nothing about the containers; it may die and be started again at
any time.

Its executable is a sealed copy in memory (`client.seal_interpreter`): a container's first process is for some
instants a fork of it, and /proc/<pid>/exe must not lead to the host's interpreter (CVE-2019-5736).
"""

import gc
import os
import signal
import sys
import traceback
from typing import NoReturn

import msgspec

from longshore.kernel.descriptors import close_range
from longshore.kernel.processes import set_name
from longshore.runtime import wire
from longshore.runtime.init import warm_up
from longshore.runtime.messages import Failed, FromMonitor
from longshore.runtime.monitor import quiet, run_monitor
from longshore.runtime.monitor.launcher import be_launcher
from longshore.runtime.monitor.quiet import CONTROL, NEW_BODY, NEW_WATCH, WATCH, Life, Quiet

READY = b"ready"
"""The only message that the daemon gets: imports are done, launches will be quick."""

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What a service manager or a terminal may send to the whole group, and what the monitors ignore from birth on.

The zygote ends when its socket closes, a monitor when its container ends.
"""


def main(control_fd: int, sealed_fd: int) -> None:
    """Serve launches until the daemon's end of the socket closes.

    `control_fd`: a SOCK_SEQPACKET socket. `sealed_fd`: the executable's memory, only closed here.
    """
    os.close(sealed_fd)
    os.dup2(control_fd, CONTROL, inheritable=False)
    close_range(CONTROL + 1)
    os.umask(0o022)
    os.chdir("/")
    set_name("longshore-zyg")
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the monitors, wait(2)
    warm_up()
    gc.collect()
    gc.disable()
    life = Life()
    gc.freeze()  # collections in the monitors leave these objects and their pages alone
    os.write(CONTROL, READY)
    serve(life)


def serve(life: Life) -> None:
    """Clone a monitor per launch, without coming back to Python for it. Returns when the daemon's end is closed."""
    while True:
        match life.live():
            case quiet.LAUNCHER:
                be_launcher()
            case quiet.MONITOR:
                become_monitor(life.quiet())
            case quiet.ZYGOTE_BARREN:
                code = life.cloning_error()
                _tell_failed(NEW_WATCH, Failed("cannot start a monitor", code, os.strerror(code)))
                os.close(NEW_WATCH)
                os.close(NEW_BODY)
            case _:
                return


def become_monitor(found: Quiet) -> NoReturn:
    """In a monitor, once there is something to do. Never returns."""
    code = 70
    try:
        code = 0 if run_monitor(found) else 70
    except msgspec.MsgspecError as error:
        _tell_failed(
            WATCH, Failed("the launch message is invalid", detail=str(error), kind="InvalidArgument")
        )
    except BaseException:
        # The process boundary: a defect of ours ends this one run, and the daemon learns why
        _tell_failed(WATCH, Failed("the monitor failed", detail=traceback.format_exc(limit=-3)))
    finally:
        os._exit(code)


def _tell_failed(watch: int, message: FromMonitor) -> None:
    try:
        os.set_blocking(watch, True)
        os.write(watch, wire.encode(message))
    except OSError:  # the daemon is gone
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
