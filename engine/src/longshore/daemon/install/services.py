"""Who starts the daemon: systemd, or an init script."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import places
from .files import write_if_changed
from .outcome import SetupError

UNIT_TEXT = """\
[Unit]
Description=Longshore container engine
After=network-online.target nss-lookup.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=/opt/longshore/current/bin/longshored
ExecReload=/bin/kill -s HUP $MAINPID
# The monitors of running containers live in this unit's cgroup and outlive the daemon.
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
TimeoutStartSec=180
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""

SYSV_TEXT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          longshored
# Required-Start:    $local_fs $network $remote_fs
# Required-Stop:     $local_fs $network $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: Longshore container engine
### END INIT INFO
# Stopping the daemon leaves the containers running; they are found again at the next start.
exec /opt/longshore/current/bin/longshore-setup service "$1"
"""


class Systemd:
    name = "systemd"

    def write(self) -> bool:
        changed = write_if_changed(places.UNIT, UNIT_TEXT.encode(), 0o644)
        if changed:
            run("systemctl", "daemon-reload")
        if subprocess.run(["systemctl", "is-enabled", "-q", places.UNIT.name], check=False).returncode != 0:
            run("systemctl", "enable", "-q", places.UNIT.name)
            changed = True
        return changed

    def running(self) -> bool:
        return subprocess.run(["systemctl", "is-active", "-q", places.UNIT.name], check=False).returncode == 0

    def start(self) -> None:
        run("systemctl", "start", places.UNIT.name)

    def stop(self) -> None:
        run("systemctl", "stop", places.UNIT.name)

    def restart(self) -> None:
        run("systemctl", "restart", places.UNIT.name)

    def remove(self) -> None:
        subprocess.run(["systemctl", "disable", "-q", "--now", places.UNIT.name], check=False)
        places.UNIT.unlink(missing_ok=True)
        run("systemctl", "daemon-reload")

    def last_words(self) -> str:
        found = subprocess.run(
            ["journalctl", "-u", places.UNIT.name, "-n", "5", "-o", "cat", "--no-pager"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        return found.stdout.strip()


class SysV:
    """Hosts without systemd: an LSB script for the boot, the daemon started from here."""

    name = "sysv"

    def write(self) -> bool:
        changed = write_if_changed(places.SYSV, SYSV_TEXT.encode(), 0o755)
        if changed and shutil.which("update-rc.d"):
            subprocess.run(["update-rc.d", places.SYSV.name, "defaults"], check=False, capture_output=True)
        return changed

    def pid(self) -> int:
        """The daemon's process id, 0 when it does not run. A recycled id is not mistaken for it."""
        try:
            pid = int(places.PIDFILE.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]  # python, its flag, the script
        except (OSError, ValueError):
            return 0
        return pid if any(word.rpartition(b"/")[2] == b"longshored" for word in words) else 0

    def running(self) -> bool:
        return self.pid() != 0

    def start(self) -> None:
        if self.running():
            return
        with places.LOG.open("ab") as log:
            subprocess.Popen(
                [str(places.PREFIX / "current/bin/longshored"), "--pidfile", str(places.PIDFILE)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            )  # fmt: skip

    def stop(self) -> None:
        pid = self.pid()
        if not pid:
            return
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: self.pid() != pid, 30, f"longshored (pid {pid}) does not end; see {places.LOG}")

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        self.stop()
        places.SYSV.unlink(missing_ok=True)
        if shutil.which("update-rc.d"):
            subprocess.run(["update-rc.d", places.SYSV.name, "remove"], check=False, capture_output=True)

    def last_words(self) -> str:
        return (
            "\n".join(places.LOG.read_text(errors="replace").splitlines()[-5:]) if places.LOG.exists() else ""
        )


def service() -> Systemd | SysV:
    return Systemd() if Path("/run/systemd/system").is_dir() else SysV()


def run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"{' '.join(argv)} failed: {(done.stderr or done.stdout).strip()}")


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SetupError(otherwise)
        time.sleep(0.05)
