"""`make suites-chaos`: pulls, builds, loads, deletes and prunes while the daemon is killed with SIGKILL at random moments.

    python -m tests.suites.chaos [--operations 200] [--seed N] [--kill 0.5]      as root

A private daemon with a local docker-registry. Two workers run one operation after the other; with the probability
`--kill` an operation is hit by kill -9 of the daemon at a random moment, and the daemon is started again. In the end
`longshore doctor --deep` must find nothing, no layer worker, half blob of a build or unpacked rubble may be left, and
each image that is still there must run. The seed is printed: the same seed makes the same choices, not the same timing.
"""

import argparse
import collections
import importlib.util
import json
import random
import re
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"app{number}" for number in range(8)]
# What an operation may say that no kill has hit: another worker or operation was faster
EXPECTED = (
    "No such image",
    "reference does not exist",
    "is being used",
    "is using its referenced image",
    "has dependent child images",
    "a prune operation is already running",
    "not found",
    "No such container: c0",
)


def helper(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Tally:
    done: collections.Counter[str] = field(default_factory=collections.Counter[str])
    failed: collections.Counter[str] = field(default_factory=collections.Counter[str])
    hit: collections.Counter[str] = field(default_factory=collections.Counter[str])
    kills: int = 0
    wrong: list[str] = field(default_factory=list[str])


class Chaos:
    def __init__(self, daemon: Any, registry: str, seed: int, kill: float) -> None:
        self.daemon, self.registry, self.kill_rate = daemon, registry, kill
        self.random = random.Random(seed)
        self.tally = Tally()
        self.lock = threading.Lock()  # of the choices and the tally
        self.restarting = threading.Lock()
        self.deaths = 0
        self.left = 0
        self.usual: dict[str, float] = collections.defaultdict(lambda: 0.5)  # seconds of each kind

    # The operations

    def choose(self) -> tuple[str, list[str], bytes]:
        """Name, words for the docker command, standard input."""
        kind = self.random.choices(
            ["pull", "build", "load", "delete", "prune", "commit"], [40, 25, 8, 17, 7, 3]
        )[0]
        name = self.random.choice(NAMES)
        image = f"{self.registry}/{name}:1"
        if kind == "pull":
            return kind, ["pull", "-q", image], b""
        if kind == "build":
            return kind, ["build", "-q", "-t", f"built-{name}", "-"], self.dockerfile(image)
        if kind == "load":
            layer = self.daemon.images.docker_archive(
                [self.daemon.images.busybox_layer()],
                f"loaded-{name}:1",
                {"Cmd": ["true"], "Env": [f"N={name}"]},
            )
            return kind, ["load"], layer
        if kind == "delete":
            prefix = self.random.choice([f"{self.registry}/{name}:1", f"built-{name}", f"loaded-{name}:1"])
            return kind, ["rmi", "-f", prefix], b""
        if kind == "commit":
            return kind, ["run", "--name", f"c{self.random.random()}", "--rm", image, "true"], b""
        return (
            kind,
            self.random.choice(
                [
                    ["image", "prune", "-f"],
                    ["image", "prune", "-af"],
                    ["builder", "prune", "-af"],
                    ["system", "prune", "-f"],
                ]
            ),
            b"",
        )

    def dockerfile(self, image: str) -> bytes:
        number = self.random.randrange(4)
        return f"FROM {image}\nENV N={number}\nRUN echo {number} > /made && echo {self.random.random()} > /mine\n".encode()

    def run(self, operations: int) -> None:
        self.left = operations
        workers = [threading.Thread(target=self.work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def work(self) -> None:
        while True:
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
                number = self.left
                kind, words, data = self.choose()
                hit = self.random.random() < self.kill_rate
                killed_after = self.random.uniform(0, self.usual[kind]) if hit else None
            timer = threading.Timer(killed_after, self.kill) if killed_after is not None else None
            deaths = self.deaths
            with self.restarting:  # not while nobody listens
                pass
            if timer:
                timer.start()
            started = time.monotonic()
            done = self.daemon.docker(*words, input=data, check=False, timeout=300)
            if deaths == self.deaths:
                self.usual[kind] = (self.usual[kind] + time.monotonic() - started) / 2
            if timer:
                timer.cancel()
                timer.join()
            self.judge(kind, words, done, hit=deaths != self.deaths)
            if number % 25 == 0:
                print(f"{number} operations to go, {self.tally.kills} kills", flush=True)

    def kill(self) -> None:
        with self.restarting:
            self.deaths += 1
            self.daemon.stop(signal.SIGKILL)
            self.daemon.start()
            self.tally.kills += 1

    def judge(self, kind: str, words: list[str], done: Any, *, hit: bool) -> None:
        with self.lock:
            if hit:
                self.tally.hit[kind] += 1
            elif done.code == 0:
                self.tally.done[kind] += 1
            else:
                self.tally.failed[kind] += 1
                if not any(text in done.err + done.out for text in EXPECTED):
                    self.tally.wrong.append(f"{' '.join(words)}: {done.err.strip()[-300:]}")

    # The end

    def settle(self) -> list[str]:
        """What is wrong now that nothing runs."""
        wrong = list(self.tally.wrong)
        data = self.daemon.data
        log = self.daemon.log.read_text(errors="replace")
        if "Traceback" in log:
            wrong.append("traceback in the log: " + log[log.index("Traceback") :][:1500])
        done = self.daemon.longshore("doctor", "--deep", "--format", "json", check=False)
        for line in done.out.splitlines():
            check = json.loads(line)
            if check["check"] == "storage":
                print("doctor:", check["status"], check["detail"])
                if check["status"] != "ok":
                    wrong.append(check["detail"])
        deadline = time.monotonic() + 30
        while (left := self.rubble(data)) and time.monotonic() < deadline:
            time.sleep(0.5)
        wrong += left
        for name in self.daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").out.split():
            if name.startswith("<none>"):
                continue
            done = self.daemon.docker("run", "--rm", name, "true", check=False)
            if done.code:
                wrong.append(f"run {name}: {done.err.strip()[-300:]}")
        return wrong

    def rubble(self, data: Path) -> list[str]:
        found = [*(data / "content/ingest").iterdir(), *(data / "layers/unpacked").glob(".*")]
        found += [*(data / "snapshots").glob(".*"), *(data / "layers/meta").glob(".*")]
        left = [f"left over: {path}" for path in found]
        # A `docker run --rm` whose daemon died between create and start: the client was given the container's id
        told = self.daemon.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").out.splitlines()
        return left + [
            f"container {line} is left" for line in told if not re.fullmatch(r"c0\S+ created", line)
        ]


def fill(tools: Any, address: str, images: Any) -> None:
    """Eight images of busybox, a layer that neighbours share and one of their own, 1 to 3 MB that do not compress."""
    from tests.engine.kernel.layer_lab import entry, tar

    noise = random.Random(1)
    shared = [tar(entry(f"shared{number}", noise.randbytes(1_500_000))) for number in range(3)]
    for number, name in enumerate(NAMES):
        own = tar(entry(f"own/{name}", noise.randbytes(noise.randrange(500_000, 3_000_000))))
        layers = [images.busybox_layer(), shared[number % 3], own]
        tools.push(address, name, "1", layers, {"Cmd": ["sh"], "Env": ["PATH=/bin"]})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suites.chaos")
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kill", type=float, default=0.5, help="part of the operations that a kill -9 hits")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    tools = helper("longshore_tests_registry", ROOT / "tests/engine/compat/registry.py")
    conftest = helper("longshore_tests_daemon", ROOT / "tests/engine/conftest.py")
    daemon = conftest.DaemonUnderTest(77)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="chaos") as folder,
        tools.running_registry(Path(folder)) as address,
    ):
        fill(tools, address, daemon.images)
        daemon.start()
        try:
            chaos = Chaos(daemon, address, options.seed, options.kill)
            started = time.monotonic()
            chaos.run(options.operations)
            wrong = chaos.settle()
        finally:
            daemon.remove_containers()
            daemon.stop()
            daemon.clean()
    tally = chaos.tally
    print(
        f"{options.operations} operations in {time.monotonic() - started:.0f} s, {tally.kills} times kill -9"
    )
    print(f"{'':<8} {'done':>5} {'refused':>8} {'hit by a kill':>14}")
    for kind in sorted({*tally.done, *tally.failed, *tally.hit}):
        print(f"{kind:<8} {tally.done[kind]:>5} {tally.failed[kind]:>8} {tally.hit[kind]:>14}")
    for text in wrong:
        print("WRONG:", text)
    print("nothing is wrong" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
