"""Other engines start containers through `longshore-oci`: Debian's podman (with conmon) and dockerd (with containerd)."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bench.peers import DOCKER, ROOT, engine, options
from tests.engine.images import busybox_tar

RUNTIME = ROOT / ".venv/bin/longshore-oci"

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
]


def test_podman_runs_a_container(podman: Callable[..., str], folder: Path) -> None:
    (folder / "busybox.tar").write_bytes(busybox_tar())
    podman("load", "--signature-policy", folder / "policy.json", "-i", folder / "busybox.tar")
    script = "echo from $(hostname); echo $$; id -u"
    output = podman(
        "run", "--rm", "--network=none", "--hostname=box", "--user=5", "busybox", "sh", "-c", script
    )
    assert output == "from box\n1\n5\n"
    podman("run", "--detach", "--network=none", "--name=long", "--memory=64m", "busybox", "sleep", "1000")
    assert podman("exec", "long", "cat", "/proc/1/comm") == "sleep\n"
    podman("pause", "long")
    assert podman("ps", "--format={{.Names}} {{.Status}}", "--all").split()[:2] == ["long", "Paused"]
    podman("unpause", "long")
    assert "sleep 1000" in podman("top", "long", "args")
    podman("stop", "--time=0", "long")
    assert json.loads(podman("inspect", "long"))[0]["State"]["ExitCode"] == 137


def test_dockerd_runs_a_container(folder: Path) -> None:
    if not (DOCKER / "sbin/dockerd").exists():
        pytest.skip("make setup unpacks Debian's dockerd")
    argv = [DOCKER / "sbin/dockerd", *options(folder), f"--add-runtime=longshore={RUNTIME}"]
    with engine("docker", [*argv, "--default-runtime=longshore"], folder) as peer:

        def docker(*words: str) -> str:
            command = [DOCKER / "bin/docker", "-H", f"unix://{peer.socket}", *words]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

        output = docker(
            "run", "--rm", "--hostname=box", "busybox", "sh", "-c", "echo from $(cat /etc/hostname)"
        )
        assert output == "from box\n"
        docker("run", "--detach", "--name=long", "--memory=64m", "busybox", "sleep", "1000")
        assert docker("exec", "long", "cat", "/proc/1/comm") == "sleep\n"
        docker("pause", "long")
        docker("unpause", "long")
        docker("stop", "--time=0", "long")
        state = json.loads(docker("inspect", "long"))[0]
        assert (state["State"]["ExitCode"], state["HostConfig"]["Runtime"]) == (137, "longshore")
        docker("rm", "long")
