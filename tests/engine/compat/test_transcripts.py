"""The same docker commands against our daemon and against Debian's dockerd: equal text where it is the engine's.

Ids, times, sizes of layers and generated names differ for good reasons and are replaced by words. dockerd runs in a network
namespace of its own; where it is not unpacked or does not start, the expected text in the table still holds for ours.
"""

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.bench import peers
from tests.engine import images
from tests.engine.compat import registry as registries
from tests.engine.compat.test_docker_cli import terminal
from tests.engine.conftest import DaemonUnderTest, docker_cli

OLD_CLI = peers.DOCKER / "bin/docker"  # 20.10; the other one of this machine may be newer


@dataclass
class Side:
    """One engine as the command line sees it."""

    name: str
    socket: str
    folder: Path

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder),
            "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0", "TERM": "xterm",
        }  # fmt: skip

    def run(self, cli: str, *arguments: str, input: bytes = b"") -> str:
        done = subprocess.run(
            [cli, *arguments], input=input, capture_output=True, env=self.environment(), timeout=60
        )
        text = f"{done.stdout.decode()}--- {done.stderr.decode()}--- exit {done.returncode}"
        return normal(text)


def normal(text: str) -> str:
    """Without what two right answers may differ in."""
    for pattern, word in (
        (r"sha256:[0-9a-f]{64}", "DIGEST"),
        (r"\b[0-9a-f]{64}\b", "ID"),
        (r"\b[0-9a-f]{12}\b", "SHORT"),
        (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-][\d:]+)", "TIME"),
        (r"(Less than a|About a|About an|\d+) (second|minute|hour)s?( ago)?", "WHILE"),
        (r"\b\d+(\.\d+)?\s?[kM]B\b", "SIZE"),
        (r"DEPRECATED: The legacy builder.*?\n\n", ""),
        (r"            BuildKit is currently disabled.*?\n\n", ""),
        (
            r" ---> Running in \w+\n(Removing intermediate container \w+\n)?",
            "",
        ),  # we need none for most steps
        (r"longshore: ", ""),  # who says so: "OCI runtime create failed: longshore: exec …"
        (r"unable to start container process: ", ""),
        (r": unknown\.?", ""),
        (r" +", " "),
        (r"time=\S+ level=error msg=.*\n", ""),
    ):
        text = re.sub(
            pattern, word, text, flags=re.S if "DEPRECATED" in pattern or "BuildKit" in pattern else 0
        )
    return text


@pytest.fixture(scope="module")
def sides(daemon: DaemonUnderTest) -> Iterator[list[Side]]:
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lsdocker-", dir="/var/tmp")))
        found = [Side("ours", daemon.socket, daemon.folder)]
        if (peers.DOCKER / "sbin/dockerd").exists():
            command = [peers.DOCKER / "sbin/dockerd", *peers.options(work)]
            theirs = stack.enter_context(peers.engine("docker", command, work))
            found.append(Side("docker", str(theirs.socket), work))
        for side in found:
            (side.folder / "busybox.tar").write_bytes(images.busybox_tar())
            context = side.folder / "context"
            context.mkdir(exist_ok=True)
            (context / "Dockerfile").write_text(
                "FROM busybox\nENV WORD=hi\nWORKDIR /app\nCOPY data .\nRUN echo $WORD > made\n"
                'LABEL a=b\nEXPOSE 80/tcp\nUSER nobody\nCMD ["cat", "data", "made"]\n'
            )
            (context / "data").write_text("data\n")
            side.run(docker_cli() or str(OLD_CLI), "rmi", "-f", "busybox")
        yield found
        for side in found:
            for name in ("t1", "t2", "t3"):
                side.run(docker_cli(), "rm", "-fv", name)
            side.run(docker_cli(), "rmi", "-f", "built:1", "other:2")
        daemon.load()


# Command and the expected text of ours; None: only the comparison counts
TRANSCRIPT: list[tuple[str, str | None]] = [
    ("load -i {folder}/busybox.tar", "Loaded image: busybox:latest\n--- --- exit 0"),
    ("images --format {{{{.Repository}}}}:{{{{.Tag}}}}", "busybox:latest\n--- --- exit 0"),
    ("run --name t1 busybox sh -c 'echo out; echo err >&2; exit 3'", "out\n--- err\n--- exit 3"),
    ("logs t1", "out\n--- err\n--- exit 0"),
    ("ps -a", "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES\n"
              "SHORT busybox \"sh -c 'echo out; ec…\" WHILE Exited (3) WHILE t1\n--- --- exit 0"),
    ("run -d --name t2 -e A=1 -l k=v busybox sh -c 'for i in 1 2 3; do echo $i; done; sleep 1000'", "ID\n--- --- exit 0"),
    ("ps", None),
    ("ps --filter label=k=v --format '{{{{.Names}}}} {{{{.Image}}}} {{{{.State}}}}'", "t2 busybox running\n--- --- exit 0"),
    ("logs --tail 2 t2", "2\n3\n--- --- exit 0"),
    ("logs -t --tail 1 t2", "TIME 3\n--- --- exit 0"),
    ("exec t2 sh -c 'echo $A; exit 5'", "1\n--- --- exit 5"),
    ("exec t2 /etc/passwd", None),
    ("exec -u nobody -w /tmp t2 sh -c 'id -u; pwd'", "65534\n/tmp\n--- --- exit 0"),
    ("top t2 -o comm", None),
    ("inspect -f '{{{{json .Config.Env}}}} {{{{.Config.Cmd}}}} {{{{json .Config.Labels}}}}' t2", None),
    ("inspect -f '{{{{.State.Status}}}} {{{{.State.Running}}}} {{{{.State.ExitCode}}}} {{{{.RestartCount}}}}' t2",
     "running true 0 0\n--- --- exit 0"),
    ("inspect -f '{{{{json .HostConfig.RestartPolicy}}}} {{{{json .Mounts}}}} {{{{.Path}}}} {{{{json .Args}}}}' t2", None),
    ("inspect nosuch", "[]\n--- Error: No such object: nosuch\n--- exit 1"),
    ("rename t2 t3", "--- --- exit 0"),
    ("stop -t 0 t3", "t3\n--- --- exit 0"),
    ("wait t3", "137\n--- --- exit 0"),
    ("start t3", "t3\n--- --- exit 0"),
    ("kill t3", "t3\n--- --- exit 0"),
    ("kill t3", None),
    ("port t3", "--- --- exit 0"),
    ("diff t1", "--- --- exit 0"),
    ("rm t3 t1", "t3\nt1\n--- --- exit 0"),
    ("rm t3", None),
    ("build -t built:1 {folder}/context", None),
    ("build -t built:1 {folder}/context", None),  # from the cache
    ("run --rm built:1", "data\nhi\n--- --- exit 0"),
    ("image inspect -f '{{{{json .Config.Env}}}} {{{{.Config.WorkingDir}}}} {{{{.Config.User}}}} {{{{json .Config.Cmd}}}}"
     " {{{{json .Config.ExposedPorts}}}} {{{{json .Config.Labels}}}} {{{{json .RepoTags}}}} {{{{.Os}}}}' built:1", None),
    ("tag built:1 other:2", "--- --- exit 0"),
    ("save -o {folder}/saved.tar built:1", "--- --- exit 0"),
    ("rmi built:1", "Untagged: built:1\n--- --- exit 0"),
    ("load -i {folder}/saved.tar", "Loaded image: built:1\n--- --- exit 0"),
    ("rmi nosuch", None),
    ("volume create v1", "v1\n--- --- exit 0"),
    ("volume ls -q", "v1\n--- --- exit 0"),
    ("volume rm v1", "v1\n--- --- exit 0"),
    ("network inspect -f '{{{{.Driver}}}} {{{{.Scope}}}} {{{{.Internal}}}}' bridge", "bridge local false\n--- --- exit 0"),
    ("images busybox", None),
    ("version -f '{{{{.Server.Os}}}}/{{{{.Server.Arch}}}}'", "linux/amd64\n--- --- exit 0"),
]  # fmt: skip


def arguments(command: str, side: Side) -> list[str]:
    import shlex

    return shlex.split(command.format(folder=side.folder))


def clients() -> list[str]:
    return sorted({str(path) for path in (docker_cli(), OLD_CLI) if path and Path(path).exists()})


@pytest.mark.parametrize("cli", clients())
def test_the_same_words(sides: list[Side], cli: str) -> None:
    different: list[str] = []
    for side in sides:
        side.run(cli, "rmi", "-f", "built:1", "other:2", "busybox")
        side.run(cli, "image", "prune", "-f")
        side.run(cli, "builder", "prune", "-af")
    for command, expected in TRANSCRIPT:
        said = [side.run(cli, *arguments(command, side)) for side in sides]
        said = [text.replace(str(side.folder), "FOLDER") for text, side in zip(said, sides, strict=True)]
        if expected is not None and said[0] != expected:
            different.append(f"$ docker {command}\nexpected: {expected!r}\nours:     {said[0]!r}")
        elif len(said) == 2 and said[0].lower() != said[1].lower():  # newer dockerds begin in lower case
            different.append(f"$ docker {command}\ndocker: {said[1]!r}\nours:   {said[0]!r}")
    assert not different, "\n\n".join(different)


@pytest.mark.parametrize("cli", clients())
def test_a_terminal(sides: list[Side], cli: str) -> None:
    """`exec -it` and `run -it`: size, name and echo of the terminal, and the exit code."""
    shown: list[tuple[int, bytes]] = []
    keys = [(b"#", b"tty; stty size\n"), (b"33 77", b"echo $TERM; exit 4\n")]
    for side in sides:
        side.run(cli, "load", "-i", str(side.folder / "busybox.tar"))
        side.run(cli, "run", "-d", "--name", "t1", "busybox", "sleep", "1000")
        shown.append(terminal([cli, "exec", "-it", "t1", "sh"], side.environment(), keys))
        shown.append(terminal([cli, "run", "--rm", "-it", "busybox", "sh"], side.environment(), keys))
        side.run(cli, "rm", "-f", "t1")
    assert {code for code, _ in shown} == {4}
    for _, screen in shown:
        assert b"built-in shell (ash)\r\n" in screen
        assert b"/dev/pts/0\r\n33 77\r\n" in screen
        assert screen.endswith(b"xterm\r\n")


def test_following_a_log(sides: list[Side]) -> None:
    """Each line as it comes, and the end with the container."""
    cli = clients()[0]
    for side in sides:
        side.run(cli, "load", "-i", str(side.folder / "busybox.tar"))
        script = "for i in 1 2 3; do echo line $i; sleep 0.4; done"
        side.run(cli, "run", "-d", "--name", "t2", "busybox", "sh", "-c", script)
        follower = subprocess.Popen(
            [cli, "logs", "-f", "t2"], stdout=subprocess.PIPE, env=side.environment(), text=True
        )
        assert follower.stdout is not None
        came: list[float] = []
        lines: list[str] = []
        watchdog = threading.Timer(20, follower.kill)
        watchdog.start()
        for line in follower.stdout:
            lines.append(line)
            came.append(time.monotonic())
        watchdog.cancel()
        assert follower.wait() == 0
        follower.stdout.close()
        assert lines == ["line 1\n", "line 2\n", "line 3\n"]
        assert came[-1] - came[0] > 0.5, "they came together"
        side.run(cli, "rm", "-f", "t2")


def test_pull(sides: list[Side], tmp_path: Path) -> None:
    """Ours alone: dockerd's network namespace does not reach the registry."""
    if not registries.PROGRAM.exists():
        pytest.skip("no docker-registry on this machine (make setup installs it)")
    with registries.running_registry(tmp_path) as address:
        digest = registries.push(address, "team/app", "1", [images.busybox_layer()], {"Cmd": ["sh"]})
        for cli in clients():
            name = f"{address}/team/app:1"
            done = sides[0].run(cli, "pull", name)
            assert done.startswith("1: Pulling from team/app\n"), done
            assert re.search(r"SHORT: Pulling fs layer\n(SHORT: .*\n)*SHORT: Pull complete\n", done), done
            assert done.endswith(
                f"Digest: DIGEST\nStatus: Downloaded newer image for {name}\n{name}\n--- --- exit 0"
            ), done
            again = sides[0].run(cli, "pull", name)
            assert again == (  # nothing of the layers
                "1: Pulling from team/app\nDigest: DIGEST\n"
                f"Status: Image is up to date for {name}\n{name}\n--- --- exit 0"
            )
            removed = sides[0].run(cli, "rmi", name)
            assert removed.startswith(
                f"Untagged: {name}\nUntagged: {address}/team/app@DIGEST\nDeleted: DIGEST\n"
            )
        assert digest.startswith("sha256:")
