"""Containers on a real daemon: life, limits, files, volumes, health, and what a failure leaves behind."""

import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def api(daemon: Any) -> Iterator[Any]:
    """docker-py's low-level client; containers and volumes are gone afterwards."""
    yield daemon.client.api
    daemon.remove_containers()
    daemon.request("POST", '/volumes/prune?filters={"all":["true"]}')


def run(api: Any, command: list[str] | str, name: str = "", **options: Any) -> str:
    """Create and start; returns the id."""
    words = ["sh", "-c", command] if isinstance(command, str) else command
    config = {
        key: options.pop(key) for key in ("user", "environment", "healthcheck", "volumes") if key in options
    }
    host = api.create_host_config(**options)
    id = api.create_container("busybox", words, name=name or None, host_config=host, **config)["Id"]
    api.start(id)
    return str(id)


def output(api: Any, command: list[str] | str, **options: Any) -> str:
    id = run(api, command, **options)
    api.wait(id)
    return str(api.logs(id).decode()).strip()


def until(check: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def traces(daemon: Any) -> set[str]:
    """Everything on the machine that belongs to containers of this daemon, but for their cgroups."""
    found = {str(path) for folder in ("containers", "snapshots") for path in (daemon.data / folder).glob("*")}
    found |= {str(path) for path in (daemon.run / "containers").glob("*")}
    found |= {
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(daemon.folder) in line
    }
    return found


def cgroups_of(id: str) -> list[Path]:
    names = (f"*/longshore/{id}", f"longshore/{id}", f"system.slice/longshore-{id}.scope")
    return [path for name in names for path in CGROUPS.glob(name)]


@pytest.mark.parametrize(
    ("command", "options", "code"),
    [
        (["no-such-program"], {}, 127),
        (["/etc/passwd"], {}, 126),
        (["true"], {"sysctls": {"net.ipv4.no_such_key": "1"}}, None),
        (["true"], {"network_mode": "container:nobody"}, None),
    ],
)
def test_a_failed_start_leaves_nothing(
    daemon: Any, api: Any, command: list[str], options: Any, code: int | None
) -> None:
    before = traces(daemon)
    with pytest.raises(Exception) as caught:
        run(api, command, name="broken", **options)
    assert caught.value.response.status_code in (400, 404, 409, 500)
    for container in api.containers(all=True):
        state = api.inspect_container(container["Id"])["State"]
        assert (state["Status"], state["Pid"]) == ("created", 0)
        assert state["Error"]
        assert code is None or state["ExitCode"] == code
        assert api.inspect_container(container["Id"])["NetworkSettings"]["IPAddress"] == ""
        api.remove_container(container["Id"])
        assert cgroups_of(container["Id"]) == []
    assert traces(daemon) == before


def test_a_used_port_is_refused_and_nothing_is_left(daemon: Any, api: Any) -> None:
    run(api, "sleep 60", port_bindings={80: 18931})
    before = traces(daemon)
    with pytest.raises(Exception, match="port is already allocated"):
        run(api, "sleep 60", name="second", port_bindings={81: 18932, 80: 18931})
    assert cgroups_of(api.inspect_container("second")["Id"]) == []
    api.remove_container("second")
    assert traces(daemon) == before
    run(api, "sleep 60", port_bindings={81: 18932})  # the port beside it was given back


def test_limits_reach_the_kernel_and_change_while_it_runs(api: Any) -> None:
    id = run(api, "sleep 60", mem_limit="64m", memswap_limit="64m", pids_limit=50, nano_cpus=500_000_000)

    def value(file: str) -> str:
        paths = [path for path in CGROUPS.glob(f"**/{id}/{file}") if path.is_file()]
        return paths[0].read_text().strip() if paths else ""

    v1 = value("memory.limit_in_bytes")
    memory = "memory.limit_in_bytes" if v1 else "memory.max"
    assert value(memory) == str(64 << 20)
    assert value("pids.max") == "50"
    api.update_container(id, mem_limit="96m", memswap_limit="96m")
    assert value(memory) == str(96 << 20)
    assert api.inspect_container(id)["HostConfig"]["Memory"] == 96 << 20


def test_a_fork_bomb_is_stopped_by_the_default_limit(api: Any) -> None:
    id = run(api, "sleep 60")
    assert api.inspect_container(id)["HostConfig"]["PidsLimit"] == 4096


def test_too_much_memory_is_an_oom_kill(api: Any) -> None:
    id = run(api, "x=a; while :; do x=$x$x; done", mem_limit="16m", memswap_limit="16m")
    assert api.wait(id)["StatusCode"] == 137
    assert api.inspect_container(id)["State"]["OOMKilled"] is True


def test_pause_stops_all_processes(api: Any) -> None:
    id = run(api, "i=0; while :; do i=$((i+1)); echo $i; usleep 10000; done")
    api.pause(id)
    assert api.inspect_container(id)["State"]["Status"] == "paused"
    before = api.logs(id)
    time.sleep(0.2)
    assert api.logs(id) == before
    with pytest.raises(Exception, match="is paused"):
        api.exec_create(id, "true")
    api.unpause(id)
    until(lambda: api.logs(id) != before)
    api.pause(id)
    api.stop(id, timeout=0)  # stop thaws
    assert api.inspect_container(id)["State"]["Status"] == "exited"


def test_stop_waits_and_then_kills(api: Any) -> None:
    id = run(api, "trap '' TERM; while :; do sleep 1; done")
    begin = time.monotonic()
    api.stop(id, timeout=1)
    assert 0.9 < time.monotonic() - begin < 6
    assert api.inspect_container(id)["State"]["ExitCode"] == 137
    id = run(api, "trap 'exit 5' USR1; while :; do usleep 10000; done")
    time.sleep(0.2)
    api.kill(id, "SIGUSR1")
    assert api.wait(id)["StatusCode"] == 5


def test_restart_policy_counts_and_gives_up(api: Any) -> None:
    id = run(api, "exit 4", restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    until(lambda: api.inspect_container(id)["State"]["Status"] == "exited")
    view = api.inspect_container(id)
    assert (view["RestartCount"], view["State"]["ExitCode"]) == (2, 4)


def test_a_user_stops_a_restarting_container(api: Any) -> None:
    id = run(api, "exit 1", restart_policy={"Name": "always"})
    until(lambda: api.inspect_container(id)["RestartCount"] >= 2)
    api.stop(id, timeout=0)
    count = api.inspect_container(id)["RestartCount"]
    time.sleep(1)
    view = api.inspect_container(id)
    assert (view["State"]["Status"], view["RestartCount"]) == ("exited", count)


def test_health_goes_from_unhealthy_to_healthy(api: Any) -> None:
    check = {"test": ["CMD-SHELL", "echo seen; test -e /tmp/ok"], "interval": 100_000_000, "retries": 2}
    id = run(api, "sleep 60", healthcheck=check)

    def health() -> Any:
        return api.inspect_container(id)["State"]["Health"]

    until(lambda: health()["Status"] == "unhealthy")
    assert health()["Log"][-1]["Output"] == "seen\n"
    api.exec_start(api.exec_create(id, "touch /tmp/ok")["Id"])
    until(lambda: health()["Status"] == "healthy")
    assert health()["FailingStreak"] == 0


def test_a_probe_that_hangs_is_killed(api: Any) -> None:
    check = {"test": ["CMD", "sleep", "1000"], "interval": 50_000_000, "timeout": 200_000_000, "retries": 1}
    id = run(api, "sleep 60", healthcheck=check)
    until(lambda: api.inspect_container(id)["State"]["Health"]["Status"] == "unhealthy")
    until(
        lambda: (
            "sleep 1000" not in str(api.top(id)) or api.inspect_container(id)["State"]["Health"]["Log"][1:]
        )
    )
    assert str(api.top(id)).count("sleep 1000") <= 1


def test_auto_remove_takes_its_volume_along(daemon: Any, api: Any) -> None:
    before = traces(daemon)
    host = api.create_host_config(auto_remove=True, binds=["/scratch"])
    id = api.create_container("busybox", ["true"], host_config=host)["Id"]
    assert len(api.volumes()["Volumes"] or ()) == 1
    waiter = threading.Thread(target=api.wait, args=(id,), kwargs={"condition": "removed"})
    waiter.start()
    api.start(id)
    waiter.join(10)
    assert not waiter.is_alive()
    assert api.containers(all=True) == []
    assert not api.volumes()["Volumes"]
    assert cgroups_of(id) == []
    assert traces(daemon) == before


def test_volumes_start_with_the_images_files_and_survive(api: Any) -> None:
    listing = output(api, "ls /etc; touch /etc/mine", binds=["settings:/etc"])
    assert "passwd" in listing
    assert "mine" in output(api, "ls /etc", binds=["settings:/etc:ro"])
    assert "passwd" not in output(api, "ls /x; touch /x/y", binds=["empty:/x"])
    with pytest.raises(Exception, match="volume is in use"):
        api.remove_volume("settings")


def test_mounts(api: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    tmp_path.chmod(0o755)
    text = output(
        api,
        "cat /h/file; touch /h/new 2>&1; grep ' /t ' /proc/mounts; touch /t/x && echo tmpfs",
        binds=[f"{tmp_path}:/h:ro"],
        tmpfs={"/t": "size=1m"},
    )
    assert "from the host" in text
    assert "Read-only file system" in text
    assert "noexec" in text
    assert text.endswith("tmpfs")
    created = tmp_path / "made" / "by-bind"
    assert output(api, "pwd", binds=[f"{created}:/x"])
    assert created.is_dir()


def test_volumes_from(api: Any) -> None:
    run(api, "echo hi > /data/x; sleep 60", name="giver", binds=["shared:/data"])
    until(lambda: output(api, "cat /data/x 2>/dev/null", volumes_from=["giver:ro"]) == "hi")
    assert "Read-only" in output(api, "touch /data/y 2>&1", volumes_from=["giver:ro"])


def test_exec_gets_what_it_asks_for(api: Any) -> None:
    id = run(api, "sleep 60", environment=["A=1"])

    def execute(command: str, **options: Any) -> str:
        found = api.exec_create(id, ["sh", "-c", command], **options)["Id"]
        text: bytes = api.exec_start(found)
        assert api.exec_inspect(found)["Running"] is False
        return text.decode().strip()

    assert execute("echo $A $B; pwd", environment=["B=2"], workdir="/tmp") == "1 2\n/tmp"
    assert execute("id -u", user="nobody") != "0"
    plain, strong = (
        execute("grep CapEff /proc/self/status"),
        execute("grep CapEff /proc/self/status", privileged=True),
    )
    assert int(strong.split()[1], 16) > int(plain.split()[1], 16)


def test_namespaces_of_others(api: Any) -> None:
    id = run(api, "sleep 60", name="first")
    address = api.inspect_container(id)["NetworkSettings"]["IPAddress"]
    assert address in output(api, "ip addr; cat /etc/hosts", network_mode="container:first")
    assert "sleep 60" in output(api, "ps", pid_mode="container:first")
    assert output(api, "hostname", uts_mode="host") == os.uname().nodename
    assert output(api, "ls /proc | grep -c '^[0-9]'", pid_mode="host") != "1"
    assert "eth0" not in output(api, "ip addr", network_mode="none")


def tar_of(name: str, data: bytes = b"x", **fields: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for key, value in fields.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return buffer.getvalue()


@pytest.mark.parametrize("running", [True, False])
def test_files_go_in_and_out(api: Any, running: bool) -> None:
    id = run(api, "sleep 60", binds=["vol:/vol"])
    if not running:
        api.stop(id, timeout=0)
    for folder in ("/tmp", "/vol"):
        assert api.put_archive(id, folder, tar_of("a/b", b"data", mode=0o640))
        chunks, status = api.get_archive(id, f"{folder}/a/b")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            member = archive.getmembers()[0]
            assert (member.name, member.mode) == ("b", 0o640)
            data = archive.extractfile(member)
            assert data is not None
            assert data.read() == b"data"
        assert (status["name"], status["size"], status["mode"]) == ("b", 4, 0o640)
    if not running:
        api.start(id)
    seen = api.exec_start(api.exec_create(id, "cat /tmp/a/b /vol/a/b")["Id"])
    assert seen == b"datadata"
    with pytest.raises(Exception) as caught:
        api.get_archive(id, "/no/such")
    assert caught.value.response.status_code == 404


@pytest.mark.parametrize("running", [True, False])
def test_attack_08_copies_never_leave_the_container(api: Any, tmp_path: Path, running: bool) -> None:
    """Fails when names of archives and requests are resolved without RESOLVE_IN_ROOT."""
    outside = tmp_path / "victim"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    id = run(api, f"ln -s {outside} /tmp/door; ln -s ../../../../../../..{outside} /tmp/up; sleep 60")
    until(lambda: b"up" in api.exec_start(api.exec_create(id, "ls /tmp")["Id"]))
    if not running:
        api.stop(id, timeout=0)
    for door in ("door", "up"):
        for body in (tar_of(f"{door}/evil"), tar_of(f"../../..{outside}/evil"), tar_of(f"{outside}/evil")):
            api.put_archive(id, "/tmp", body)
        link = tar_of("hard", b"", type=tarfile.LNKTYPE, linkname=f"{door}/secret")
        with pytest.raises(Exception):  # noqa: B017 - the target does not exist inside
            api.put_archive(id, "/tmp", link)
        with pytest.raises(Exception) as caught:
            api.get_archive(id, f"/tmp/{door}/secret")
        assert caught.value.response.status_code == 404
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1


def test_diff_shows_changes_and_no_mount_points(api: Any) -> None:
    id = run(api, "echo x > /new; rm /bin/vi; chmod 700 /tmp")
    api.wait(id)
    found = {(change["Path"], change["Kind"]) for change in api.diff(id)}
    assert {("/new", 1), ("/bin/vi", 2), ("/tmp", 0)} <= found
    assert not {path for path, _ in found} & {"/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf"}


def test_export_is_the_whole_root(api: Any) -> None:
    id = run(api, "echo x > /new")
    api.wait(id)
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.export(id))), mode="r|") as archive:
        names = {member.name for member in archive}
    assert {"new", "bin", "bin/busybox", "etc/passwd"} <= names


def test_export_leaves_out_what_is_mounted(api: Any, tmp_path: Path) -> None:
    (tmp_path / "mounted").touch()
    id = run(api, "rm /bin/vi; touch /new; sleep 60", binds=[f"{tmp_path}:/mnt"])
    until(lambda: any(change["Path"] == "/new" for change in api.diff(id)))
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.export(id))), mode="r|") as archive:
        names = {member.name for member in archive}
    assert {"new", "mnt", "proc"} <= names
    assert not names & {"mnt/mounted", "proc/self", "bin/vi"}


def test_rename_is_seen_at_once(api: Any) -> None:
    run(api, "sleep 60", name="before")
    other = run(api, "sleep 60", name="other")
    api.rename("before", "after")
    assert api.inspect_container("after")["Name"] == "/after"
    with pytest.raises(
        Exception, match=r'The container name "/other" is already in use by container "' + other
    ):
        api.rename("after", "other")
    with pytest.raises(Exception, match="No such container: before"):
        api.inspect_container("before")


def test_top_and_stats(api: Any) -> None:
    id = run(api, "sleep 60")
    table = api.top(id)
    assert "PID" in table["Titles"]
    assert any("sleep 60" in " ".join(row) for row in table["Processes"])
    sample = api.stats(id, stream=False)
    assert sample["memory_stats"]["usage"] > 0
    assert sample["pids_stats"]["current"] == 1
    assert "eth0" in sample["networks"]
    assert sample["precpu_stats"]["system_cpu_usage"] < sample["cpu_stats"]["system_cpu_usage"]


def test_log_rotation_follows_the_options(daemon: Any, api: Any) -> None:
    config = api.create_host_config(
        log_config={"Type": "json-file", "Config": {"max-size": "10k", "max-file": "2"}}
    )
    id = api.create_container("busybox", ["seq", "3000"], host_config=config)["Id"]
    api.start(id)
    api.wait(id)
    files = list((daemon.data / "containers" / id).glob("*-json.log*"))
    assert len(files) == 2
    assert all(path.stat().st_size <= 11 << 10 for path in files)
    assert api.logs(id, tail=2) == b"2999\n3000\n"
    silent = run(api, "echo x", log_config={"Type": "none"})
    api.wait(silent)
    with pytest.raises(Exception, match="does not support reading"):
        api.logs(silent)


def test_networks_are_joined_and_left_while_it_runs(daemon: Any, api: Any) -> None:
    network = api.create_network("second", driver="bridge")["Id"]
    try:
        id = run(api, "sleep 60")
        api.connect_container_to_network(id, "second")
        networks = api.inspect_container(id)["NetworkSettings"]["Networks"]
        address = networks["second"]["IPAddress"]
        assert address.encode() in api.exec_start(
            api.exec_create(id, ["sh", "-c", "ip addr; cat /etc/hosts"])["Id"]
        )
        api.disconnect_container_from_network(id, "second")
        until(lambda: b"eth1" not in api.exec_start(api.exec_create(id, "ip addr")["Id"]))
        daemon.remove_containers()
    finally:
        api.remove_network(network)
