"""`longshore-oci` as other programs call it: bundles on disk, states, codes, consoles."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_lab import PARENT, cgroup_parent, host_state, make_rootfs, needs_root

pytestmark = needs_root

Command = Any


class Runtime:
    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self.bundle = root, bundle

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "longshore.runtime.oci_command", "--root", str(self.root), *words]
        # Files, not pipes: the container inherits them, and a pipe would end only with it.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
            done = subprocess.run(
                command,
                cwd=self.bundle,
                stdout=out,
                stderr=err,
                text=True,
                timeout=30,
                check=False,
                **{key: value for key, value in options.items() if value is not None},
            )
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())

    def configure(self, *args: str, **process: Any) -> None:
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"].update({"terminal": False, "args": list(args), **process})
        config["linux"]["cgroupsPath"] = f"{PARENT}/oci-{os.getpid()}"
        (self.bundle / "config.json").write_text(json.dumps(config))

    def state(self, name: str) -> dict[str, Any]:
        return json.loads(self("state", name).stdout)


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Runtime]:
    make_rootfs(tmp_path / "bundle/rootfs")
    runtime = Runtime(tmp_path / "state", tmp_path / "bundle")
    assert runtime("spec").returncode == 0
    with cgroup_parent():
        yield runtime
        for line in runtime("list", "-q").stdout.split():
            runtime("delete", "--force", line)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_the_life_of_a_container(oci: Runtime, tmp_path: Path) -> None:
    before = host_state()
    oci.configure("sleep", "100")
    assert oci("create", "one", "--pid-file", str(tmp_path / "pid")).returncode == 0
    state = oci.state("one")
    assert (state["status"], state["bundle"]) == ("created", str(oci.bundle))
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    assert oci("create", "one").returncode == 1
    assert oci("start", "one").returncode == 0
    assert oci.state("one")["status"] == "running"
    assert oci("start", "one").returncode == 1
    assert "one" in oci("list").stdout
    assert oci("delete", "one").returncode == 1
    assert oci("kill", "one", "KILL").returncode == 0
    until(lambda: oci.state("one")["status"] == "stopped")
    assert oci("kill", "one").returncode == 1
    assert oci("delete", "one").returncode == 0
    assert oci("state", "one").returncode == 1
    assert host_state() == before


def test_run_gives_the_code_and_the_streams(oci: Runtime) -> None:
    oci.configure("sh", "-c", "cat; echo err >&2; exit 7")
    result = oci("run", "two", input="typed\n")
    assert (result.returncode, result.stdout, result.stderr) == (7, "typed\n", "err\n")
    assert oci("list", "-q").stdout.strip() == ""


def test_exec(oci: Runtime) -> None:
    oci.configure("sleep", "100")
    assert oci("run", "-d", "three").returncode == 0
    result = oci(
        "exec", "-e", "X=5", "--cwd", "/tmp", "-u", "web", "three", "sh", "-c", "echo $X; pwd; id -un; exit 4"
    )
    assert (result.returncode, result.stdout) == (4, "5\n/tmp\nweb\n")
    result = oci("exec", "three", "nothing")
    assert result.returncode == 255
    assert "executable file not found in $PATH" in result.stderr


def test_a_console_goes_to_the_socket(oci: Runtime, tmp_path: Path) -> None:
    oci.configure("sh", "-c", "tty; echo on the console", terminal=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        assert oci("create", "four", "--console-socket", str(tmp_path / "console")).returncode == 0
        peer, _address = listener.accept()
        _data, fds, _flags, _from = socket.recv_fds(peer, 100, 1)
        peer.close()
    assert oci("start", "four").returncode == 0
    text = b""
    while b"console" not in text:
        text += os.read(fds[0], 1000)
    os.close(fds[0])
    assert text.startswith(b"/dev/pts/0")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"args": ["nothing"]}, "executable file not found"),
        ({"args": []}, "no command specified"),
        ({"user": {"username": "nobody-here"}}, "unable to find user"),
        ({"rlimits": [{"type": "RLIMIT_NOPE"}]}, "process.rlimits[0].type: unknown limit"),
        ({"terminal": True}, "--console-socket"),
    ],
)
def test_a_bad_bundle_leaves_nothing(oci: Runtime, change: dict[str, Any], text: str) -> None:
    before = host_state()
    oci.configure("true", **change)
    result = oci("create", "bad")
    assert result.returncode == 1
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (oci.root / "bad").exists()
    assert host_state() == before


def test_bad_words(oci: Runtime) -> None:
    assert oci("start", "../x").returncode == 1
    assert oci("kill", "none", "SIGFOO").returncode == 1
    assert oci("create", "x", "--bundle", "/nonexistent").returncode == 1
    (oci.bundle / "config.json").write_text("{")
    result = oci("create", "x")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert json.loads(oci("features").stdout)["ociVersionMax"] == "1.2.0"
