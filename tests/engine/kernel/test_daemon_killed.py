"""`kill -9` of the daemon: twenty containers run on, no line is lost, and what ended meanwhile is known."""

import concurrent.futures
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.engine import machine_state as state
from tests.engine.conftest import docker_cli

# 1,000 lines a second until it is told to end, so that no machine is too fast or too slow for the test
WRITER = """
import itertools, signal, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
start = time.monotonic()
for number in itertools.count(1):
    print(number, flush=True)
    if told:
        break
    time.sleep(max(0, start + number / 1000 - time.monotonic()))
print("end", number, flush=True)
"""
PORT = 28160


def run(daemon: Any, name: str, *words: str) -> str:
    return str(daemon.docker("run", "-d", "--name", name, *words).out.strip())


def inspect(daemon: Any, names: list[str]) -> dict[str, Any]:
    return {each["Name"][1:]: each for each in json.loads(daemon.docker("inspect", *names).out)}


def answer(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
        return bytes(reply.read())


def until(check: Any, what: str, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def start_twenty(daemon: Any) -> list[str]:
    """A busy logger, a web server, one that always comes back, four that end, and sleepers: 20 in all."""
    # The distribution's Python, because a shell's loop with sleep does not reach 1,000 lines a second
    mounts = [
        word
        for path in ("/usr", "/lib", "/lib64")
        if Path(path).exists()
        for word in ("-v", f"{path}:{path}:ro")
    ]
    run(daemon, "logger", *mounts, "busybox", "/usr/bin/python3", "-c", WRITER)
    page = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www"
    run(daemon, "web", "-p", f"127.0.0.1:{PORT}:80", "busybox", "sh", "-c", page)
    run(daemon, "always", "--restart", "always", "busybox", "sh", "-c", "sleep 2.5; exit 9")
    for code in (0, 3, 42, 143):
        run(daemon, f"ends{code}", "busybox", "sh", "-c", f"sleep 2.5; exit {code}")
    sleepers = [f"sleeper{number}" for number in range(13)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: run(daemon, name, "busybox", "sleep", "1000"), sleepers))
    return ["logger", "web", *sleepers]


def test_twenty_containers_and_a_busy_log(own_daemon: Any) -> None:
    daemon = own_daemon
    daemon.start()
    daemon.load()
    steady = start_twenty(daemon)
    assert len(daemon.docker("ps", "-q").out.split()) == 20
    until(lambda: answer(PORT) == b"served\n", "the web server does not answer")
    before = inspect(daemon, steady)
    restarted = inspect(daemon, ["always"])["always"]["State"]["Pid"]
    waiting = daemon_wait(daemon, "ends3")

    daemon.stop(signal.SIGKILL)
    written = daemon.data / "containers" / before["logger"]["Id"] / f"{before['logger']['Id']}-json.log"
    at_death = written.read_bytes().count(b"\n")
    assert at_death > 0, "it was killed in the middle"
    assert answer(PORT) == b"served\n", "a published port needs no daemon"
    pids = {name: view["State"]["Pid"] for name, view in before.items()}
    ending = Path(f"/proc/{restarted}")
    until(lambda: not ending.exists(), "the short ones do not end")
    time.sleep(0.5)
    assert answer(PORT) == b"served\n"
    assert written.read_bytes().count(b"\n") > at_death + 300, "the log stood still without a daemon"
    waiting.wait(10)  # the client was told by the end of its connection
    daemon.start()

    after = inspect(daemon, steady)
    assert {name: view["State"]["Pid"] for name, view in after.items()} == pids
    assert {view["State"]["Status"] for view in after.values()} == {"running"}
    assert {view["RestartCount"] for view in after.values()} == {0}
    for code in (0, 3, 42, 143):
        assert daemon.docker("wait", f"ends{code}").out == f"{code}\n"
        state = inspect(daemon, [f"ends{code}"])[f"ends{code}"]["State"]
        assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", code, 0)
        assert state["StartedAt"] < state["FinishedAt"]
    until(
        lambda: inspect(daemon, ["always"])["always"]["State"]["Pid"] not in (0, restarted), "not restarted"
    )
    assert answer(PORT) == b"served\n"
    assert daemon.docker("exec", "web", "cat", "/www/index.html").out == "served\n"
    assert daemon.docker("exec", "sleeper7", "hostname").out.strip() == before["sleeper7"]["Id"][:12]

    ending_logger = threading.Timer(1, daemon.docker, ("kill", "--signal", "TERM", "logger"))
    ending_logger.start()
    followed = daemon.docker("logs", "-f", "logger", timeout=60).out  # until it ends
    ending_logger.join()
    *lines, last = followed.splitlines()
    assert len(lines) > at_death + 1000
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert last == f"end {len(lines)}"
    assert daemon.docker("logs", "logger").out == followed
    assert daemon.docker("wait", "logger").out == "0\n"


def daemon_wait(daemon: Any, name: str) -> subprocess.Popen[bytes]:
    """A `docker wait` that is under way when the daemon dies."""
    return subprocess.Popen(
        [docker_cli(), "wait", name],
        env={**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_CONFIG": str(daemon.folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def churn(daemon: Any, number: int, done: list[str]) -> None:
    """Creates, starts, removes with a volume, a published port, a restart policy, until the daemon dies."""
    api = daemon.client.api
    for turn in itertools.count():
        host = api.create_host_config(
            binds=[f"v{number}x{turn % 3}:/data"],
            port_bindings={80: ("127.0.0.1", None)},
            restart_policy={"Name": "always"} if turn % 4 == 3 else None,
        )
        try:
            id = api.create_container("busybox", ["sleep", "1000"], ports=[80], host_config=host)["Id"]
            done.append("create")
            daemon.seen.add(id)
            api.start(id)
            done.append("start")
            if turn % 3:
                api.remove_container(id, force=True)
                done.append("remove")
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            return  # the daemon is dead
        except Exception as error:
            done.append(f"failed: {error}")
            return


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_while_it_works(own_daemon: Any, seed: int) -> None:
    """Whatever the instant: afterwards every container is whole, and nothing of the others is left anywhere."""
    daemon, chance = own_daemon, random.Random(seed)
    daemon.start()
    daemon.load()
    daemon.docker("run", "--rm", "busybox", "true")  # makes the folders that stay
    # the kernel takes the link of that container away in its own time
    until(lambda: not state.of_daemon(daemon)["links"], "the link stays")
    clean = state.of_daemon(daemon)
    done: list[str] = []
    for _ in range(4):
        workers = [threading.Thread(target=churn, args=(daemon, number, done)) for number in range(3)]
        for worker in workers:
            worker.start()
        enough = len(done) + 8 + chance.randrange(8)
        until(lambda: len(done) >= enough or "failed" in str(done), "no work is done")  # noqa: B023
        time.sleep(chance.random() * 0.03)
        daemon.stop(signal.SIGKILL)
        for worker in workers:
            worker.join(20)
        daemon.start()
    assert [word for word in done if word.startswith("failed")] == []
    assert len(done) >= 30
    left = state.settle(lambda: mismatch(daemon, clean))
    assert not left, left
    for each in daemon.request("GET", "/containers/json")[1]:
        assert daemon.docker("exec", each["Id"], "hostname").out.strip() == each["Id"][:12]
    daemon.remove_containers()
    for volume in daemon.request("GET", "/volumes")[1]["Volumes"] or ():
        daemon.request("DELETE", f"/volumes/{volume['Name']}")
    clean["monitors"] = set()
    left = state.settle(lambda: state.difference(clean, {**state.of_daemon(daemon), "monitors": set()}))
    assert not left, left


def mismatch(daemon: Any, clean: Any) -> dict[str, Any]:
    """Where the records and the machine tell different stories."""
    listed = {each["Id"]: each["State"] for each in daemon.request("GET", "/containers/json?all=1")[1]}
    running = {id for id, status in listed.items() if status == "running"}
    traces = state.of_daemon(daemon)
    stories = {
        "folders": ({path.name for path in (daemon.data / "containers").iterdir()}, set(listed)),
        "snapshots": ({path.name for path in (daemon.data / "snapshots").iterdir()}, set(listed)),
        "states": (running - {path.name for path in (daemon.run / "containers").iterdir()}, set()),
        "cgroups": ({Path(path).name for path in traces["cgroups"] - clean["cgroups"]}, running),
        "links": (len(traces["links"]), len(running)),
    }
    return {kind: story for kind, story in stories.items() if story[0] != story[1]}
