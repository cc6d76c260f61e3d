"""Runs files of the suite under bats with one runtime and reads the results."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"(not ok|ok) \d+ (.*)")


@dataclass(frozen=True, slots=True)
class Result:
    """One test: `verdict` is passed, failed, skipped or missing (the file ended before it)."""

    verdict: str
    reason: str = ""


def parse_tap(text: str) -> dict[str, Result]:
    """Results by test name, in order, from TAP output; the lines after a failure are its reason. Pure."""
    results: dict[str, Result] = {}
    name = ""
    for line in text.replace("\r", "").splitlines():
        if match := _LINE.fullmatch(line):
            name, _hash, skip = match[2].partition(" # skip")
            verdict = "failed" if match[1] == "not ok" else "skipped" if _hash else "passed"
            name = re.sub(r" # timeout after .*", "", name)
            results[name] = Result(verdict, skip.strip())
        elif line.startswith("# ") and name and results[name].verdict == "failed":
            results[name] = Result("failed", f"{results[name].reason}\n{line[2:]}".strip())
    return results


def run_file(file: Path, runtime: Path, commands: Path, *, deadline: int, only: str = "") -> str:
    """The TAP text of one bats file. It has a terminal of its own, as the suite wants; criu is hidden.

    The deadline, in seconds, is for the whole file: bats counts that of a test down in a child of the test, for which
    tests that say `wait` would wait.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RUNC", "BATS"))}
    environment |= {
        "PATH": f"{commands}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "RUNC": str(runtime),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }
    command = ["bats", "--tap", *(["--filter", only] if only else []), file.name]
    if criu := shutil.which("criu", path=environment["PATH"]):
        hide = f'mount --bind /dev/null "{criu}" && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", hide, "sh", *command]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(file.parent)
        os.execvpe(command[0], command, environment)
    return _collect(pid, terminal, deadline)


def _collect(pid: int, terminal: int, deadline: int) -> str:
    """Read until the program has ended: what its leftovers still write is not waited for."""
    chunks: list[bytes] = []
    pidfd = os.pidfd_open(pid)
    until = time.monotonic() + deadline
    ended = False
    while True:
        ready, _, _ = select.select(
            [terminal, pidfd], [], [], 0 if ended else max(0, until - time.monotonic())
        )
        if terminal in ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                data = b""
            if data:
                chunks.append(data)
                continue
        if ended:
            break
        if not ready:
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ended = True
    os.close(terminal)
    os.close(pidfd)
    return b"".join(chunks).decode(errors="replace")


def names(file: Path) -> list[str]:
    """The tests that a file declares, in order."""
    return re.findall(r'^@test "((?:[^"\\]|\\.)*)"', file.read_text(), re.MULTILINE)


def version(runtime: Path) -> str:
    ran = subprocess.run([runtime, "--version"], capture_output=True, text=True, check=False)
    return (ran.stdout or ran.stderr).partition("\n")[0]
