"""`docker run`, flag by flag: what the client and the streams do, and devices that files describe."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="module")
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


@pytest.mark.flag("--attach")
@pytest.mark.parametrize(("stream", "out", "err"), [("stdout", "out\n", ""), ("stderr", "", "err\n")])
def test_attach(daemon: Any, stream: str, out: str, err: str) -> None:
    done = daemon.docker("run", "--rm", "-a", stream, "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == (out, err)


@pytest.mark.flag("--interactive", "--attach")
def test_interactive(daemon: Any) -> None:
    assert daemon.docker("run", "--rm", "-i", "busybox", "wc", "-c", input=b"12345").out == "5\n"
    assert daemon.docker(
        "run", "--rm", "-a", "stdin", "-a", "stdout", "-i", "busybox", "cat", input=b"x\n"
    ).out.endswith("x\n")
    assert daemon.docker("run", "--rm", "busybox", "wc", "-c", input=b"12345").out == "0\n"


@pytest.mark.flag("--detach", "--rm")
def test_detach(daemon: Any) -> None:
    name = daemon.docker("run", "-d", "busybox", "true").out.strip()
    assert len(name) == 64
    daemon.docker("wait", name)
    assert daemon.request("GET", f"/containers/{name}/json")[0] == 200
    assert daemon.docker("run", "--rm", "--name", "gone", "busybox", "true").code == 0
    assert daemon.request("GET", "/containers/gone/json")[0] == 404


def environment(daemon: Any) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(daemon.folder),
        "DOCKER_HOST": daemon.host,
        "TERM": "xterm",
    }


def _cli() -> str:
    unpacked = Path(__file__).parents[3] / "build/docker/usr/bin/docker"
    return shutil.which("docker") or str(unpacked)


@pytest.mark.flag("--tty", "--interactive", "--detach-keys")
def test_terminal_and_detach_keys(daemon: Any) -> None:
    master, slave = pty.openpty()
    words = [_cli(), "run", "-it", "--name", "keys", "--detach-keys", "ctrl-x,q", "busybox", "sh"]
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, env=environment(daemon), start_new_session=True
    )
    os.close(slave)
    try:
        _until(master, b"# ")
        os.write(master, b"tty; echo d''one\n")
        assert b"/dev/pts/0" in _until(master, b"done")
        os.write(master, b"\x18q")
        process.wait(20)
        assert daemon.docker("ps", "-q", "--filter", "name=keys").out
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _until(fd: int, want: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + 30
    while want not in data:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], data
        data += os.read(fd, 4096)
    return data


@pytest.mark.flag("--sig-proxy")
@pytest.mark.parametrize(("flag", "code"), [("--sig-proxy=true", 7), ("--sig-proxy=false", None)])
def test_signals_reach_the_container(daemon: Any, flag: str, code: int | None) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    name = f"signals-{flag[12:]}"
    words = [_cli(), "run", "--name", name, flag, "busybox", "sh", "-c", script]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment(daemon))
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        if code is not None:
            assert process.wait(20) == code
            return
        daemon.docker("exec", name, "true")  # by then a signal that was passed on would have arrived
        assert daemon.docker("ps", "-q", "--filter", f"name={name}").out
        assert "caught" not in daemon.docker("logs", name).out
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.flag("--use-api-socket")
def test_use_api_socket(daemon: Any) -> None:
    """The client asks for a bind of the socket it uses, which is a mount like any other."""
    if "--use-api-socket" not in daemon.docker("run", "--help").out:
        pytest.skip("this docker CLI has no --use-api-socket")
    daemon.docker("run", "--rm", "--use-api-socket", "busybox", "test", "-S", "/var/run/docker.sock")


@pytest.fixture(scope="module")
def cdi_daemon(module_daemon: Any) -> Iterator[Any]:
    """A daemon that looks for CDI files in a folder of the test."""
    folder = module_daemon.folder / "cdi"
    folder.mkdir()
    hook = module_daemon.folder / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {module_daemon.folder}/state\n")
    hook.chmod(0o755)
    shared = module_daemon.folder / "shared"
    shared.write_text("from the vendor\n")
    (folder / "vendor.json").write_text(
        json.dumps(
            {
                "cdiVersion": "0.6.0",
                "kind": "vendor.com/class",
                "containerEdits": {"env": ["COMMON=1"]},
                "devices": [
                    {
                        "name": "one",
                        "containerEdits": {
                            "env": ["ONE=1"],
                            "deviceNodes": [
                                {"path": "/dev/one", "hostPath": "/dev/loop-control", "permissions": "rw"}
                            ],
                            "mounts": [
                                {
                                    "hostPath": str(shared),
                                    "containerPath": "/mnt/shared",
                                    "options": ["ro", "bind"],
                                }
                            ],
                            "hooks": [{"hookName": "createRuntime", "path": str(hook)}],
                        },
                    }
                ],
            }
        )
    )
    gpus = "\n".join(
        f"- name: '{name}'\n  containerEdits: {{env: [GPU{name}=1]}}" for name in ("0", "1", "all")
    )
    (folder / "gpu.yaml").write_text(f"cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n{gpus}\n")
    module_daemon.flags = ("--cdi-spec-dir", str(folder))
    module_daemon.start()
    module_daemon.load()
    return module_daemon


@pytest.mark.flag("--device")
def test_a_device_of_a_cdi_file(cdi_daemon: Any) -> None:
    """By the API: only newer CLIs turn `--device vendor.com/class=one` into such a request."""
    script = "env; stat -c %t:%T /dev/one; cat /mnt/shared; : </dev/one && echo opened"
    request = {"Driver": "cdi", "DeviceIDs": ["vendor.com/class=one"]}
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"DeviceRequests": [request]}}
    status, made = cdi_daemon.request("POST", "/containers/create", body)
    assert status == 201, made
    status, reply = cdi_daemon.request("POST", f"/containers/{made['Id']}/start")
    assert status == 204, reply
    cdi_daemon.docker("wait", made["Id"])
    out = cdi_daemon.docker("logs", made["Id"]).out.splitlines()
    assert {"COMMON=1", "ONE=1", "a:ed", "from the vendor", "opened"} <= set(out), out
    assert json.loads((cdi_daemon.folder / "state").read_text())["id"] == made["Id"]
    request["DeviceIDs"] = ["vendor.com/class=two"]
    status, reply = cdi_daemon.request("POST", "/containers/create", body)
    assert status == 400
    assert "unresolvable CDI devices vendor.com/class=two" in reply["message"]


@pytest.mark.flag("--gpus")
@pytest.mark.parametrize(("gpus", "names"), [("all", {"all"}), ("2", {"0", "1"}), ("device=1", {"1"})])
def test_gpus(cdi_daemon: Any, gpus: str, names: set[str]) -> None:
    done = cdi_daemon.docker("run", "--rm", "--gpus", gpus, "busybox", "env")
    assert {line for line in done.out.splitlines() if line.startswith("GPU")} == {
        f"GPU{name}=1" for name in names
    }
