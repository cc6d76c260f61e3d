"""What is measured: one function per row, each giving a figure of one engine. Smaller is better unless it says rate."""

import concurrent.futures
import contextlib
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from tests.bench.peers import Client, Engine

Peer = TypeVar("Peer")

SETTLED = 1 << 20  # bytes


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def alternately(peers: tuple[Peer, ...], rounds: int, once: Callable[[Peer], float]) -> list[float]:
    """The median of each peer over rounds in turn, so that a drifting machine hits all alike."""
    samples: list[list[float]] = [[] for _ in peers]
    for number in range(rounds + 1):
        for index, peer in enumerate(peers):
            value = once(peer)
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
    """MemAvailable in bytes, without caches, once it has settled: two readings that agree."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    last = 0
    for _ in range(10):
        time.sleep(1)  # namespaces and cgroups of the round before are freed late
        text = Path("/proc/meminfo").read_text()
        now = int(re.findall(r"^MemAvailable:\s+(\d+)", text, re.MULTILINE)[0]) * 1024
        if abs(now - last) < SETTLED:
            break
        last = now
    return now


@dataclass(frozen=True)
class Crowd:
    """What a hundred sleeping containers cost: medians over all rounds, per engine."""

    memory: list[float]  # megabytes per container
    rate: list[float]  # created and started per second, by 8 clients


@cache
def crowd(engines: tuple[Engine, ...], count: int = 100, rounds: int = 3) -> Crowd:
    """Each round starts, measures and removes all containers, each engine in turn.

    So both pay what they pay only once before the first round counts (the little one), noise of the machine hits
    both, and one noisy round does not decide.
    """
    memory: list[list[float]] = [[] for _ in engines]
    rate: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        remove_all(engine, parallel_starts(engine, 8)[1])
    for _ in range(rounds):
        for index, engine in enumerate(engines):
            before = available()
            seconds, identities = parallel_starts(engine, count)
            after = available()
            remove_all(engine, identities)
            memory[index].append((before - after) / count / 1e6)
            rate[index].append(count / seconds)
    return Crowd([statistics.median(each) for each in memory], [statistics.median(each) for each in rate])


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


LOG_BYTES = 200_000_000
_LINE = "0123456789" * 9 + "012345678"  # 100 bytes with its end


def _write_log(engine: Engine, client: Client) -> tuple[float, str]:
    """Seconds from the start of a container that writes 200 MB to its end, and its id."""
    script = f"busybox yes {_LINE} | busybox head -c {LOG_BYTES}"
    identity = client.create("sh", "-c", script, HostConfig={"LogConfig": {"Type": "json-file"}})

    def once() -> None:
        client.start(identity)
        client.call("POST", f"/v1.41/containers/{identity}/wait")

    return timed(once), identity


def log_rate(engine: Engine) -> float:
    """Megabytes per second that a container's output goes into its json-file."""
    with contextlib.closing(engine.client()) as client:
        seconds, identity = _write_log(engine, client)
        client.remove(identity)
    return LOG_BYTES / seconds / 1e6


def log_read_rate(engine: Engine) -> float:
    """Megabytes per second that `GET logs` gives of such a log; unlimited in both engines, so both give all of it."""
    with contextlib.closing(engine.client()) as client:
        script = f"busybox yes {_LINE} | busybox head -c {LOG_BYTES // 4}"
        unlimited = {"max-size": "1g"}
        identity = client.create(
            "sh", "-c", script, HostConfig={"LogConfig": {"Type": "json-file", "Config": unlimited}}
        )
        client.start(identity)
        client.call("POST", f"/v1.41/containers/{identity}/wait")
        size = 0

        def once() -> None:
            nonlocal size
            size = len(client.call("GET", f"/v1.41/containers/{identity}/logs?stdout=1"))

        seconds = timed(once)
        client.remove(identity)
    if size != LOG_BYTES // 4 // 100 * 108:  # each line in a frame
        raise RuntimeError(f"{engine.name}: {size} bytes of log")
    return size / seconds / 1e6


def stats_of_ten(engine: Engine) -> float:
    """Milliseconds for one sample of each of ten running containers, one after the other; Docker takes a second each."""
    _, identities = parallel_starts(engine, 10)
    try:
        with contextlib.closing(engine.client()) as client:

            def once() -> None:
                for identity in identities:
                    client.call("GET", f"/v1.41/containers/{identity}/stats?stream=false&one-shot=true")

            once()
            return statistics.median(timed(once) for _ in range(3)) * 1000
    finally:
        remove_all(engine, identities)
