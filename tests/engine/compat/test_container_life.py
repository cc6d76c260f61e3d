"""How containers live on: unhealthy ones, restarted ones, ones that change networks, shared mounts."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.engine.compat.wire import Made, inspect, json_lines, until

SICK = {"Test": ["CMD", "false"], "Interval": 50_000_000, "Retries": 2}


@pytest.mark.parametrize("told_by", ["OnFailure", "label"])
@pytest.mark.parametrize("action", ["none", "kill", "restart", "stop"])
def test_an_unhealthy_container(daemon: Any, make: Made, action: str, told_by: str) -> None:
    config: dict[str, Any] = {"Healthcheck": SICK}
    if told_by == "label":
        config["Labels"] = {"longshore.health.on-failure": action}
    else:
        config["Healthcheck"] = SICK | {"OnFailure": action}
    policy = {"HostConfig": {"RestartPolicy": {"Name": "always"}}} if action == "kill" else {}
    id = make("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done", **config, **policy)
    began = inspect(daemon, id)["State"]["StartedAt"]
    if action == "none":
        until(lambda: inspect(daemon, id)["State"]["Health"]["FailingStreak"] > 3)
        assert inspect(daemon, id)["State"]["Health"]["Status"] == "unhealthy"
        assert inspect(daemon, id)["State"]["StartedAt"] == began
    elif action == "kill":  # its restart policy goes on from there
        until(lambda: inspect(daemon, id)["RestartCount"] > 0)
    elif action == "restart":
        until(lambda: inspect(daemon, id)["State"]["StartedAt"] > began)
    else:
        until(lambda: not inspect(daemon, id)["State"]["Running"])
        assert inspect(daemon, id)["State"]["ExitCode"] == 3


def test_an_unknown_action_is_refused(daemon: Any) -> None:
    for config in (
        {"Healthcheck": SICK | {"OnFailure": "explode"}},
        {"Labels": {"longshore.health.on-failure": "explode"}},
    ):
        status, reply = daemon.request("POST", "/containers/create", {"Image": "busybox", **config})
        assert status == 400 and "explode" in reply["message"], reply


def test_probes_come_faster_until_it_is_healthy(daemon: Any, make: Made) -> None:
    """StartInterval counts during StartPeriod; afterwards Interval would come after an hour."""
    hour = 3600 * 10**9
    check = {
        "Test": ["CMD-SHELL", "test -e /ok || { touch /ok; false; }"],
        "Interval": hour,
        "StartPeriod": hour,
        "StartInterval": 50_000_000,
    }
    id = make("sleep", "1000", Healthcheck=check)
    until(lambda: inspect(daemon, id)["State"]["Health"]["Status"] == "healthy")
    results = inspect(daemon, id)["State"]["Health"]["Log"]
    assert [each["ExitCode"] for each in results] == [1, 0]


def test_restarts_wait_longer_each_time_and_end(daemon: Any, make: Made) -> None:
    since = f"{time.time():.6f}"
    policy = {"Name": "on-failure", "MaximumRetryCount": 4}
    id = make("false", HostConfig={"RestartPolicy": policy})
    until(lambda: inspect(daemon, id)["State"]["Status"] == "exited")
    assert inspect(daemon, id)["RestartCount"] == 4
    filters = json.dumps({"container": [id], "event": ["start", "die"]}).replace(" ", "")
    events = json_lines(daemon, f"/events?since={since}&until={time.time():.6f}&filters={filters}")
    assert [event["Action"] for event in events] == ["start", "die"] * 5
    times = [event["timeNano"] / 1e9 for event in events]
    pauses = [start - die for die, start in zip(times[1::2], times[2::2], strict=False)]
    assert [pause >= wanted for pause, wanted in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True)] == [True] * 4


def test_a_network_is_left_and_joined_again_at_once(daemon: Any, make: Made) -> None:
    daemon.request(
        "POST", "/networks/create", {"Name": "again", "IPAM": {"Config": [{"Subnet": "10.77.3.0/24"}]}}
    )
    try:
        id = make("sleep", "1000", HostConfig={"NetworkMode": "again"}, Hostname="joiner")
        for address in ("10.77.3.77", "10.77.3.78"):
            assert daemon.request("POST", "/networks/again/disconnect", {"Container": id}) == (200, b"")
            config = {"IPAMConfig": {"IPv4Address": address}, "Aliases": ["web"], "DriverOpts": {"a": "b"}}
            body = {"Container": id, "EndpointConfig": config}
            assert daemon.request("POST", "/networks/again/connect", body) == (200, b"")
            view = daemon.request("GET", f"/v1.44/containers/{id}/json")[1]["NetworkSettings"]["Networks"][
                "again"
            ]
            assert (view["IPAddress"], view["DriverOpts"]) == (address, {"a": "b"})
            assert view["Aliases"] == ["web", id[:12], "joiner"]  # up to 1.44 with these two
            now = inspect(daemon, id)["NetworkSettings"]["Networks"]["again"]
            assert now["Aliases"] == ["web"] and set(now["DNSNames"]) > {"web", "joiner"}
    finally:
        daemon.remove_containers()
        daemon.request("DELETE", "/networks/again")


def test_mounts_reach_the_host_through_a_shared_bind(daemon: Any, make: Made, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "shared", tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-shared", tmp_path], check=True)
        (tmp_path / "inner").mkdir()
        id = make(
            "sh", "-c", "mount -t tmpfs x /bound/inner && touch /bound/inner/seen && sleep 1000",
            HostConfig={"Binds": [f"{tmp_path}:/bound:rshared"], "Privileged": True},
        )  # fmt: skip
        until(lambda: (tmp_path / "inner/seen").exists())
        (mount,) = inspect(daemon, id)["Mounts"]
        assert (mount["Propagation"], mount["RW"]) == ("rshared", True)
    finally:
        daemon.remove_containers()
        subprocess.run(["umount", "-R", tmp_path], check=True)


def test_a_log_asked_for_right_after_the_start_has_what_a_short_command_wrote(
    daemon: Any, make: Made
) -> None:
    for _ in range(5):
        id = make("echo", "spoken")
        assert daemon.request("GET", f"/containers/{id}/logs?stdout=1")[1][8:] == b"spoken\n"
