"""A daemon that is killed at any instant loses nothing that it acknowledged and leaves nothing half made."""

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

CGROUPS = Path("/sys/fs/cgroup")


def groups_of(id: str) -> list[Path]:
    names = (f"*/longshore/{id}", f"longshore/{id}", f"system.slice/longshore-{id}.scope")
    return [path for name in names for path in CGROUPS.glob(name)]


def leftovers(daemon: Any) -> dict[str, set[str]]:
    """Ids of what exists besides the records."""
    run_folder = daemon.run / "containers"
    return {
        "folders": {path.name for path in (daemon.data / "containers").glob("*")},
        "snapshots": {path.name for path in (daemon.data / "snapshots").glob("*")},
        "states": {path.name for path in run_folder.glob("*")} if run_folder.exists() else set(),
    }


@pytest.mark.parametrize("seed", range(4))
def test_killed_in_the_middle_of_work(own_daemon: Any, seed: int) -> None:
    own_daemon.start()
    own_daemon.load()
    acknowledged: dict[str, str] = {}  # id to what was acknowledged last
    stop = threading.Event()

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        api = own_daemon.client.api
        while not stop.is_set():
            try:
                host = api.create_host_config(binds=[f"vol{number}:/etc"])
                id = api.create_container("busybox", ["sleep", "1000"], host_config=host)["Id"]
                acknowledged[id] = "created"
                api.start(id)
                acknowledged[id] = "running"
                if chance.random() < 0.5:
                    acknowledged[id] = ""  # asked, not yet acknowledged: either is right
                    api.stop(id, timeout=0)
                    acknowledged[id] = "exited"
                if chance.random() < 0.5:
                    acknowledged[id] = ""
                    api.remove_container(id, force=True)
                    acknowledged[id] = "gone"
            except Exception:
                return  # the daemon is dead

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5 + random.Random(seed).random())
    own_daemon.stop(9)
    stop.set()
    for thread in threads:
        thread.join(20)
    own_daemon.start()
    api = own_daemon.client.api
    states = {one["Id"]: one["State"] for one in api.containers(all=True)}
    for id, state in acknowledged.items():
        if state == "gone":
            assert id not in states
        elif state == "created":
            assert states[id] in ("created", "running")
        elif state:
            assert states[id] == state, id
    # What was not acknowledged may exist or not, but whole: it can be started, used and removed.
    for id in states:
        if states[id] != "running":
            api.start(id)
        found = api.exec_create(id, ["cat", "/etc/hostname"])["Id"]
        assert api.exec_start(found).decode().strip() == id[:12]
    assert all(ids <= set(states) for ids in leftovers(own_daemon).values()), leftovers(own_daemon)
    own_daemon.remove_containers()
    assert all(not ids for ids in leftovers(own_daemon).values()), leftovers(own_daemon)
    assert not [path for id in states for path in groups_of(id)]


def test_policies_apply_when_the_daemon_starts(own_daemon: Any) -> None:
    own_daemon.start()
    own_daemon.load()
    api = own_daemon.client.api

    def run(name: str, policy: str, command: str, **options: Any) -> None:
        host = api.create_host_config(restart_policy={"Name": policy} if policy else None, **options)
        api.start(api.create_container("busybox", ["sh", "-c", command], name=name, host_config=host)["Id"])

    run("plain", "", "sleep 0.5; exit 3")
    run("always", "always", "sleep 1000")
    run("unless", "unless-stopped", "sleep 1000")
    run("ended", "unless-stopped", "sleep 0.5")
    run("failing", "on-failure", "sleep 0.5; exit 1")
    run("fleeting", "", "sleep 0.5", auto_remove=True)
    run("steady", "", "sleep 1000")
    for name in ("always", "unless"):
        api.stop(name, timeout=0)
    steady = api.inspect_container("steady")["State"]
    own_daemon.stop(9)
    time.sleep(1.2)
    own_daemon.start()
    deadline = time.monotonic() + 10
    wanted = {
        "plain": "exited", "always": "running", "unless": "exited", "ended": "running", "failing": "running",
        "steady": "running",
    }  # fmt: skip
    while True:
        states = {one["Names"][0][1:]: one["State"] for one in api.containers(all=True)}
        if states == wanted:
            break
        # The short ones end and start again all the time
        states = {name: wanted[name] if state in ("restarting", "exited") and name in ("ended", "failing") else state
                  for name, state in states.items()}  # fmt: skip
        if states == wanted:
            break
        assert time.monotonic() < deadline, states
        time.sleep(0.05)
    assert api.inspect_container("plain")["State"]["ExitCode"] == 3
    same = api.inspect_container("steady")["State"]
    assert (same["Pid"], same["StartedAt"]) == (steady["Pid"], steady["StartedAt"])


def test_a_run_that_nobody_saw_the_end_of(own_daemon: Any) -> None:
    """The machine went down: sockets and state folders are gone, and there is no exit record."""
    own_daemon.start()
    own_daemon.load()
    api = own_daemon.client.api
    id = api.create_container("busybox", ["sleep", "1000"])["Id"]
    api.start(id)
    pid = api.inspect_container(id)["State"]["Pid"]
    own_daemon.stop(9)
    monitor = int(next(line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid")))  # fmt: skip
    import os
    import shutil
    import signal

    os.kill(monitor, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    shutil.rmtree(own_daemon.run / "containers")
    own_daemon.start()
    state = api.inspect_container(id)["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 255, 0)
    for group in groups_of(id):
        group.rmdir()  # a reboot would have
