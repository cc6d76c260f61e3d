"""What a test could leave on the machine, as comparable values: of one daemon, or of everything.

Other engines may run on the same machine while the tests do; what belongs to a living one is not counted.
"""

import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longshore.cli.client import Client

CGROUPS = Path("/sys/fs/cgroup")
MARK = "LONGSHORE_TEST_RUN"  # in the environment of every program that a run of the tests started
DEPTH = 4  # below a data root: names of layers and blobs, not the files inside of layers
OWN_FILES = re.compile(r"longshore|ls\d+-|lst\d+|bench-|buildkit|overlay")
FOLDERS = ("/tmp", "/var/tmp", "/run", "/run/longshore", "/var/lib/longshore", "/etc/longshore", "/dev/shm")
ALIVE = re.compile(r"/test(?:runtime)?(\d+)|lst(\d+)x|/ls\d+-(\d+)-")  # pids inside of names that tests give

State = dict[str, set[str]]


@dataclass(frozen=True)
class Others:
    """The engines and test runs of others that are alive now."""

    roots: tuple[str, ...]
    bridges: frozenset[str]
    containers: frozenset[str]

    def own(self, name: str) -> bool:
        """Whether a path, mount line or cgroup belongs to one of them."""
        if any(root in name for root in self.roots) or any(id in name for id in self.containers):
            return True
        pids = [int(number) for found in ALIVE.findall(name) for number in found if number]
        return any(pid != os.getpid() and Path(f"/proc/{pid}").exists() for pid in pids)


def _processes() -> list[tuple[int, list[str], bytes]]:
    """(pid, command line, environment) of all that can be read."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            found.append((int(folder.name), words, (folder / "environ").read_bytes()))
        except OSError:
            continue  # it has just ended
    return found


def others(mark: str) -> Others:
    """All longshored that carry another mark than ours."""
    roots, bridges, containers = [], set(), set()
    for _, words, environment in _processes():
        if not any(word.endswith("longshored") for word in words[:2]) or _marked(environment, mark):
            continue
        flags = dict(itertools.pairwise(words))
        for flag in ("--data-root", "--exec-root"):
            roots.append(flags.get(flag, "/longshore/"))
        bridges.add(flags.get("--bridge", "longshore0"))
        data = Path(flags.get("--data-root", "/var/lib/longshore"), "containers")
        containers |= {path.name for path in data.glob("*")}
    return Others(tuple(roots), frozenset(bridges), frozenset(containers))


def _marked(environment: bytes, mark: str) -> bool:
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def mounts() -> list[str]:
    """Without the two ids in front, which are new for an equal mount.

    And without the folder that ip-netns(8) mounts on itself, and shares, at the first namespace with a name.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ", 2)[2] for line in lines if line.split(" ", 5)[4] != "/run/netns"]


def cgroups() -> list[str]:
    """All groups below longshore in all hierarchies, and the scopes of the systemd driver."""
    tops = [path for pattern in ("longshore", "*/longshore") for path in CGROUPS.glob(pattern)]
    scopes = [path for top in ("", "*/") for path in CGROUPS.glob(f"{top}system.slice/longshore-*.scope")]
    return [root for top in tops for root, _, _ in os.walk(top) if Path(root) != top] + list(map(str, scopes))


def links() -> dict[str, str]:
    """Name to the bridge that it is in, or ""."""
    listing: Any = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    return {link["ifname"]: link.get("master", "") for link in listing}


def _nft(*arguments: str) -> str:
    """Empty without the program or the table."""
    try:
        done = subprocess.run(["nft", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout


def tables(hidden: frozenset[str] = frozenset()) -> set[str]:
    """Every line of every table, without counters; not of the tables whose name holds a hidden word."""
    found: set[str] = set()
    for table in _nft("list", "tables").splitlines():
        if not any(word in table for word in hidden):
            found |= {f"{table}: {line.strip()}" for line in _nft("-s", "list", *table.split()).splitlines()}
    return found


def files(root: Path, depth: int = DEPTH) -> set[str]:
    """Paths below `root`, not deeper than `depth`; without what SQLite makes and removes as it likes."""
    found: set[str] = set()
    for folder, names, plain in os.walk(root):
        level = len(Path(folder).relative_to(root).parts)
        if level + 1 >= depth:
            names.clear()
        found |= {str(Path(folder, name).relative_to(root)) for name in (*names, *plain)}
    return {name for name in found if not name.startswith("longshore.db")}


def of_daemon(daemon: Any) -> State:
    """What this daemon has made: equal before and after a request that failed."""
    inside = str(daemon.folder)
    known = {each["Id"] for each in daemon.request("GET", "/containers/json?all=1")[1]}
    events = Client(daemon.host).request("GET", f"/events?since=1&until={int(time.time())}").read()
    told = [json.loads(line) for line in events.splitlines()]
    daemon.seen |= {event["Actor"]["ID"] for event in told if event["Type"] == "container"}
    daemon.seen |= known
    table = _nft("list", "table", "ip", f"longshore-{daemon.bridge}")
    return {
        "containers": known,
        "mounts": {line for line in mounts() if inside in line},
        "cgroups": {path for path in cgroups() if any(id in path for id in daemon.seen)},
        "links": {name for name, master in links().items() if master == daemon.bridge},
        "nft": set(table.splitlines()),
        "data": files(daemon.data),
        "run": files(daemon.run),
        "volumes": {each["Name"] for each in daemon.request("GET", "/volumes")[1]["Volumes"] or ()},
        "images": {each["Id"] for each in daemon.request("GET", "/images/json?all=1")[1]},
        "monitors": _children(daemon.process.pid),
    }


def _children(pid: int) -> set[str]:
    """Processes below the daemon, workers that end by themselves included."""
    found: set[str] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            found |= {child} | _children(int(child))
    return found


def of_machine(mark: str) -> State:
    """Everything that an engine could have made anywhere here, without what belongs to others."""
    foreign = others(mark)

    def mine(names: list[str]) -> set[str]:
        return {name for name in names if not foreign.own(name)}

    return {
        "mounts": mine(mounts()),
        "cgroups": mine(cgroups()),
        "links": mine([name for name, master in links().items() if not {name, master} & foreign.bridges]),
        "nft": mine(sorted(tables(foreign.bridges))),
        "processes": {
            f"{pid} {' '.join(words)[:200]}"
            for pid, words, environment in _processes()
            if _marked(environment, mark) and pid != os.getpid()
        },
        "files": mine(
            [
                str(path)
                for folder in FOLDERS
                if Path(folder).is_dir()
                for path in Path(folder).iterdir()
                if OWN_FILES.match(path.name) or "longshore" in folder
            ]
        ),
        "loop devices": {path.name for path in Path("/sys/block").glob("loop*/loop")},
    }


def difference(before: State, after: State) -> dict[str, list[str]]:
    """What is more or less, by kind; empty when equal. Groups that go may be those of others, which end too."""
    found: dict[str, list[str]] = {}
    for kind in before:
        gone = [f"- {name}" for name in sorted(before[kind] - after[kind]) if kind != "cgroups"]
        new = [f"+ {name}" for name in sorted(after[kind] - before[kind])]
        if gone or new:
            found[kind] = gone + new
    return found


def of_nobody(state: State) -> State:
    """Without what an engine made: whose owner may clean it up at any time when it is older than we are."""
    return {
        kind: {name for name in names if not re.search(r"longshore|^veth|^ls|/var/tmp|/tmp", name)}
        for kind, names in state.items()
    }


def changes(before: State, after: State) -> dict[str, list[str]]:
    """What is new on the machine, and what is missing of that which no engine made."""
    found = difference(of_nobody(before), of_nobody(after))
    for kind in before:
        new = {f"+ {name}" for name in after[kind] - before[kind]}
        if new:
            found[kind] = sorted(new | set(found.get(kind, ())))
    return found


def settle(compare: Callable[[], dict[str, list[str]]], seconds: float = 8.0) -> dict[str, list[str]]:
    """The difference once it is empty or the time is over: the kernel takes links and namespaces down later."""
    deadline = time.monotonic() + seconds
    while (found := compare()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def lasting(compare: Callable[[], dict[str, list[str]]], seconds: float = 8.0) -> dict[str, list[str]]:
    """What differs all the time: others, who work on this machine too, make things that come and go."""
    left, deadline = compare(), time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        now = compare()
        kept = {kind: [name for name in names if name in now.get(kind, ())] for kind, names in left.items()}
        left = {kind: names for kind, names in kept.items() if names}
    return left
