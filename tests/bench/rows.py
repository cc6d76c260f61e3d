"""What is measured: one function per row, each giving a figure of one engine. Smaller is better unless it says rate."""

import concurrent.futures
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.peers import Client, Engine


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def alternately(engines: tuple[Engine, ...], rounds: int, once: Callable[[Engine], float]) -> list[float]:
    """The median of each engine over rounds in turn, so that a drifting machine hits all alike."""
    samples: list[list[float]] = [[] for _ in engines]
    for number in range(rounds + 1):
        for index, engine in enumerate(engines):
            value = once(engine)
            if number > 0:  # the first round warms up
                samples[index].append(value)
    return [statistics.median(values) for values in samples]


def api_start(engine: Engine) -> float:
    """Milliseconds of POST start on the bridge network."""
    with contextlib.closing(engine.client()) as client:
        identity = client.create("sleep", "1000")
        seconds = timed(lambda: client.start(identity))
        client.remove(identity)
    return seconds * 1000


def docker_run(engine: Engine) -> float:
    return timed(lambda: engine.docker("run", "--rm", "busybox", "true")) * 1000


def docker_exec(engine: Engine) -> float:
    with contextlib.closing(engine.client()) as client:
        identity = client.create("sleep", "1000")
        client.start(identity)
        engine.docker("exec", identity, "true")
        seconds = statistics.median(timed(lambda: engine.docker("exec", identity, "true")) for _ in range(3))
        client.remove(identity)
    return seconds * 1000


def available() -> int:
    """MemAvailable in bytes, once it has settled."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(2)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no MemAvailable in /proc/meminfo")


def idle_memory(engine: Engine, count: int = 100) -> float:
    """Megabytes per sleeping container."""
    before = available()
    identities = parallel_starts(engine, count)[1]
    after = available()
    remove_all(engine, identities)
    return (before - after) / count / 1e6


def start_rate(engine: Engine, count: int = 100) -> float:
    """Containers per second, created and started by 8 clients."""
    seconds, identities = parallel_starts(engine, count)
    remove_all(engine, identities)
    return count / seconds


def parallel_starts(engine: Engine, count: int, clients: int = 8) -> tuple[float, list[str]]:
    connections = [engine.client() for _ in range(clients)]

    def work(number: int) -> list[str]:
        client = connections[number]
        made: list[str] = []
        for _ in range(number, count, clients):
            made.append(client.create("sleep", "1000"))
            client.start(made[-1])
        return made

    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        identities = [identity for made in pool.map(work, range(clients)) for identity in made]
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return seconds, identities


def remove_all(engine: Engine, identities: list[str]) -> None:
    def remove(identity: str) -> None:
        with contextlib.closing(Client(engine.socket)) as client:
            client.remove(identity)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(remove, identities))
