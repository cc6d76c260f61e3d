"""`make demo`: two hosts, one app, two versions; with `--clean`, everything of it removed again.

Uses only what a user has: the commands longshore, pymachine and ansible-playbook, and HTTP to look at the result.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BIN = ROOT / ".venv/bin"
WORK = ROOT / "build/demo"
STATE = WORK / "state.json"
SOCKET = Path("/run/longshore/longshore.sock")
# What the engine and pymachine make outside of this checkout. `--clean` removes those that the demo found missing.
STORE = Path(os.environ.get("PYMACHINE_STORAGE_PATH") or Path.home() / ".pymachine")
PLACES = (Path("/var/lib/longshore"), SOCKET.parent, Path("/var/cache/longshore"), STORE)
HOSTS = ("web1", "web2")
BASE = "debian:bookworm"
IMAGE = "hello:latest"
MACHINE_IMAGE = "longshore-machine"
PORT = 8080
TERMINAL = sys.stdout.isatty()


@dataclass
class Times:
    """Seconds per step, for the table at the end."""

    rows: list[tuple[str, float, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, title: str) -> Generator[list[str], None, None]:
        """Show a step while it runs; what is appended to the yielded list becomes its note."""
        print(f"\033[1m==> {title}\033[0m" if TERMINAL else f"==> {title}", flush=True)
        notes: list[str] = []
        started = time.monotonic()
        yield notes
        self.rows.append((title, time.monotonic() - started, " ".join(notes)))
        print(f"    {self.rows[-1][1]:.1f} s {self.rows[-1][2]}", flush=True)


def run(*argv: str | Path, **extra: str) -> None:
    """Run a command with its output visible; a failure ends the demo with its name."""
    print("    $ " + " ".join(str(word).removeprefix(f"{BIN}/") for word in argv), flush=True)
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | extra
    done = subprocess.run([str(word) for word in argv], check=False, cwd=ROOT, env=environment)
    if done.returncode != 0:
        sys.exit(
            f"demo: {Path(str(argv[0])).name} failed with code {done.returncode}; fix it and run `make demo` again"
        )


def read_state() -> dict[str, Any]:
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def write_state(**values: object) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    STATE.write_text(json.dumps(read_state() | values, indent=1))


def answers() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(SOCKET))
        except OSError:
            return False
        return True


def start_engine() -> str:
    """The engine that serves the default socket: the running one, or one started from this checkout."""
    if answers():
        return "already running"
    log = (WORK / "longshored.log").open("ab")
    process = subprocess.Popen(
        [BIN / "longshored"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        cwd="/",
    )
    write_state(engine=process.pid)
    deadline = time.monotonic() + 30
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"demo: longshored does not start; see {WORK / 'longshored.log'}")
        time.sleep(0.05)
    return f"pid {process.pid}"


def has_image(name: str) -> bool:
    found = subprocess.run(
        [BIN / "longshore", "inspect", "--type", "image", name], check=False, capture_output=True
    )
    return found.returncode == 0


def make_base_image() -> str:
    if has_image(BASE):
        return "already there"
    archive = WORK / "debian.tar"
    if not archive.exists():
        scratch = archive.with_suffix(".part")
        run("mmdebstrap", "--variant=minbase", "--format=tar", "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*", "bookworm", scratch)  # fmt: skip
        scratch.rename(archive)
    run(BIN / "longshore", "import", "--change", 'CMD ["bash"]', archive, BASE)
    return f"{archive.stat().st_size / 1e6:.0f} MB"


def machine_ip(name: str) -> str:
    done = subprocess.run([BIN / "pymachine", "ip", name], check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def make_hosts() -> str:
    """Create what is missing, go on with a create that was interrupted, start what is stopped."""
    made = 0
    for name in HOSTS:
        status = subprocess.run(
            [BIN / "pymachine", "status", name], check=False, capture_output=True, text=True
        )
        if status.returncode != 0 or (STORE / "machines" / name / "create.journal").exists():
            write_state(hosts=sorted({*read_state().get("hosts", []), name}))
            run(BIN / "pymachine", "create", "--driver", "local", name)
            made += 1
        elif status.stdout.strip() != "Running":
            run(BIN / "pymachine", "start", name)
    return f"{made} created, {len(HOSTS) - made} reused"


def build_app(version: int) -> None:
    """The app with one line changed; the tag stays, so that deploying is what moves it."""
    source = WORK / "app"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE / "app", source)
    program = source / "app.py"
    program.write_text(program.read_text().replace("VERSION = 1\n", f"VERSION = {version}\n"))
    run(BIN / "longshore", "build", "--tag", IMAGE, source)


def deploy(title: str, times: Times, *options: str) -> dict[str, dict[str, Any]]:
    """Run the playbook; returns Ansible's per-host counters and what was shipped."""
    report = WORK / "deploy.json"
    report.unlink(missing_ok=True)
    with times.step(title) as notes:
        run(BIN / "ansible-playbook", "-i", "inventories/local", "playbooks/deploy.yml", *options,
            "-e", f"app_report={report}")  # fmt: skip
        result = json.loads(report.read_text()) if report.exists() else {}
        changed = sum(1 for host in result.values() if host.get("changed"))
        notes.append(f"changed={changed}")
    return result


def check(version: int) -> list[tuple[str, str, str]]:
    """Ask both hosts over HTTP; returns host, address and container. Ends the demo when one says otherwise."""
    seen: list[tuple[str, str, str]] = []
    for name in HOSTS:
        address = f"http://{machine_ip(name)}:{PORT}/"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                found = json.load(answer)
        except OSError as error:
            sys.exit(f"demo: {name} does not answer on {address}: {error}")
        if found["version"] != version:
            sys.exit(f"demo: {name} answers version {found['version']}, not {version}")
        print(f"    {address} -> version {found['version']} from {found['container']}", flush=True)
        seen.append((name, address, found["container"]))
    return seen


class Poller(threading.Thread):
    """One request after the other to every host while version 2 takes over; a new connection each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.addresses = [f"http://{machine_ip(name)}:{PORT}/" for name in HOSTS]
        self.requests, self.failures = 0, list[str]()
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            for address in self.addresses:
                self.requests += 1
                try:
                    with urllib.request.urlopen(address, timeout=10) as answer:
                        answer.read()
                except OSError as error:
                    self.failures.append(f"{address}: {error}")
            self._ended.wait(0.02)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def table(times: Times, reports: list[dict[str, dict[str, Any]]], hosts: list[tuple[str, str, str]]) -> None:
    print(
        f"\n{'host':<6} {'address':<28} {'image':<14} {'port':<5} {'version':<8} {'container':<13} bytes shipped (v1, v2, again)"
    )
    for name, address, container in hosts:
        shipped = ", ".join(f"{report.get(name, {}).get('bytes_shipped', 0):,}" for report in reports)
        print(f"{name:<6} {address:<28} {IMAGE:<14} {PORT:<5} {2:<8} {container:<13} {shipped}")
    print()
    for title, seconds, note in times.rows:
        print(f"{seconds:7.1f} s  {title}  {note}")
    print(f"{sum(row[1] for row in times.rows):7.1f} s  in total")


def demo() -> None:
    times = Times()
    if "made" not in read_state():
        write_state(made=[str(place) for place in PLACES if not place.exists()])
    with times.step("engine on this machine") as notes:
        notes.append(start_engine())
    with times.step(f"base image {BASE}") as notes:
        notes.append(make_base_image())
    with times.step("bundle of the engine"):
        run(BIN / "python", ROOT / "engine/bundle.py")
    with times.step("hosts web1 and web2") as notes:
        notes.append(make_hosts())
    with times.step("image of the app, version 1"):
        build_app(1)
    reports = [deploy("deploy version 1", times)]
    check(1)
    with times.step("image of the app, version 2"):
        build_app(2)
    deploy("what version 2 would change (--check --diff)", times, "--check", "--diff")
    check(1)
    poller = Poller()
    poller.start()
    reports.append(deploy("deploy version 2", times))
    poller.stop()
    hosts = check(2)
    reports.append(deploy("deploy again, nothing to do", times))
    changed = [name for name, host in reports[-1].items() if host.get("changed")]
    table(times, reports, hosts)
    print(f"\n{poller.requests} requests while version 2 took over, {len(poller.failures)} failed")
    if changed or poller.failures:
        sys.exit(f"demo: changed again: {changed}; failed requests: {poller.failures[:3]}")


def clean() -> None:
    """Remove the hosts, the images, the engine and its data, as far as the demo made them and nobody else uses them."""
    state = read_state()
    others = ""
    if answers():
        for name in state.get("hosts", []):
            run(BIN / "pymachine", "rm", "-f", "-y", name)
        for image in (IMAGE, MACHINE_IMAGE + ":debian-12", BASE):
            subprocess.run([BIN / "longshore", "rmi", "-f", image], check=False, capture_output=True)
        others = subprocess.run(
            [BIN / "longshore", "ps", "-aq"], check=False, capture_output=True, text=True
        ).stdout.strip()
    if others:
        print(f"demo: the engine and its data stay: {len(others.split())} containers are not the demo's")
    else:
        stop_engine(state.get("engine", 0))
        for place in map(Path, state.get("made", [])):
            if place != STORE or not any((STORE / "machines").glob("*")):
                shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(WORK, ignore_errors=True)
    print("demo: removed")


def stop_engine(pid: int) -> None:
    if not pid or "longshored" not in command_of(pid):
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while command_of(pid) and time.monotonic() < deadline:
        time.sleep(0.05)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clean", action="store_true", help="remove everything that the demo made")
    clean() if options.parse_args().clean else demo()
