"""The main job as a user types it: `make demo` from nothing, then again, then `make demo-clean`."""

import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv/bin"
PLACES = [
    Path("/run/longshore"),
    Path("/var/lib/longshore"),
    Path("/var/cache/longshore"),
    Path.home() / ".pymachine",
]


def make(target: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", target],
        check=False, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"make {target}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def made_by_the_demo() -> list[str]:
    """What the demo leaves on the machine while it stands: mounts, links, processes, folders."""
    found = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if "longshore" in line]
    found += [path.name for path in Path("/sys/class/net").iterdir() if path.name == "longshore0"]
    found += [str(path) for path in (*PLACES, ROOT / "build/demo") if path.exists()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if bytes(BIN / "longshored") in words[:2] and b"--data-root" not in words:
            found.append(b" ".join(words).decode())
    return found


@pytest.mark.timeout(1200)
def test_the_main_job() -> None:
    if Path("/run/longshore/longshore.sock").exists():
        pytest.fail("an engine runs on this machine already; `make demo-clean` or stop it first")
    before = made_by_the_demo()
    try:
        first = make("demo")
        assert "failed=0" in first
        assert "version 1 from" in first and "version 2 from" in first
        started = time.monotonic()
        second = make("demo")
        assert time.monotonic() - started < 60, "a second demo reuses what is there"
        assert "2 reused" in second
    finally:
        make("demo-clean")
    assert set(made_by_the_demo()) <= set(before)
