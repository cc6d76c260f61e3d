"""`longshore build`: what it has beyond the classic door."""

import json
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.compat.build_lab import output


@pytest.fixture
def folder(daemon: Any, tmp_path: Path) -> Path:
    if daemon.request("GET", "/images/busybox/json")[0] != 200:
        daemon.load()
    (tmp_path / "main").mkdir()
    return tmp_path / "main"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """A socket that answers what it is asked, as an ssh agent would."""
    path = tmp_path / "agent"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"agent heard " + connection.recv(100))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_secrets_contexts_and_an_agent(daemon: Any, folder: Path, tmp_path: Path, agent: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/file").write_text("from the other folder\n")
    (folder / "Dockerfile").write_text(
        "FROM base AS b\n"
        "RUN --mount=type=secret,id=token,mode=0444 cat /run/secrets/token | tr a-z A-Z > /out\n"
        "RUN --mount=type=secret,id=token,env=TOKEN echo $TOKEN | tr a-z A-Z >> /out\n"
        "RUN --mount=type=ssh,mode=0666 test -S $SSH_AUTH_SOCK && echo hello | nc local:$SSH_AUTH_SOCK >> /out || true\n"
        "COPY --from=more file /file\n"
    )
    done = daemon.longshore(
        *("build", "--secret", f"id=token,src={tmp_path}/token", "--ssh", f"default={agent}"),
        *("--build-context", f"more={tmp_path}/more", "--build-context", "base=docker-image://busybox"),
        *("--progress", "plain", "--metadata-file", str(tmp_path / "meta"), "-t", "own:2", str(folder)),
    )
    assert "#1 [b 1/5] FROM base" in done.err
    assert output(daemon, "own:2", "cat", "/out", "/file").startswith("S3CRET\nS3CRET\n")
    assert output(daemon, "own:2", "cat", "/file") == "from the other folder\n"
    assert json.loads((tmp_path / "meta").read_text())["image.name"] == "own:2"
    history = str(daemon.request("GET", "/images/own:2/history")[1])
    assert "s3cret" not in history
    for path in daemon.data.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 24:
            assert b"s3cret" not in path.read_bytes(), path
    daemon.docker("rmi", "-f", "own:2")


def test_outputs(daemon: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "Dockerfile").write_text(
        "FROM busybox AS b\nRUN echo x > /x\nFROM scratch\nCOPY --from=b /x /d/x\n"
    )
    before = {image["Id"] for image in daemon.request("GET", "/images/json?all=1")[1]}
    daemon.longshore("build", "--output", str(tmp_path / "out"), str(folder))
    assert (tmp_path / "out/d/x").read_text() == "x\n"
    daemon.longshore("build", "-o", f"type=tar,dest={tmp_path}/root.tar", str(folder))
    with tarfile.open(tmp_path / "root.tar") as tar:
        assert "d/x" in [name.removeprefix("./") for name in tar.getnames()]
    daemon.longshore("build", "-o", f"type=oci,dest={tmp_path}/oci.tar", str(folder))
    with tarfile.open(tmp_path / "oci.tar") as tar:
        assert {"oci-layout", "index.json"} <= set(tar.getnames())
    for image in daemon.request("GET", "/images/json?all=1")[1]:
        if image["Id"] not in before:
            daemon.request("DELETE", f"/images/{image['Id']}?force=1")


def test_checks(daemon: Any, folder: Path) -> None:
    (folder / "Dockerfile").write_text(
        "FROM busybox as B\nCMD echo $x\nENV PASSWORD=a\nWORKDIR rel\nRUN echo ${nope}\n"
    )
    done = daemon.longshore("build", "--check", str(folder), check=False)
    assert done.code == 1
    for rule in (
        "FromAsCasing",
        "StageNameCasing",
        "JSONArgsRecommended",
        "SecretsUsedInArgOrEnv",
        "WorkdirRelativePath",
    ):
        assert rule in done.out
    (folder / "Dockerfile").write_text("# check=skip=all\nFROM busybox as B\nCMD echo\n")
    assert daemon.longshore("build", "--check", str(folder)).code == 0


def test_a_stage_without_cache_and_events_as_json(daemon: Any, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM busybox AS a\nRUN echo a > /a\nFROM a AS b\nRUN echo b > /b\n")
    daemon.longshore("build", str(folder))
    done = daemon.longshore("build", "--no-cache-filter", "b", "--progress", "rawjson", str(folder))
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    steps = {
        event["step"]["id"]: event["step"]["instruction"]
        for event in events
        if event.get("event") == "started"
    }
    cached = {steps[event["step"]] for event in events if event.get("event") == "cached"}
    assert cached == {"RUN echo a > /a"}


def test_mistakes_of_flags(daemon: Any, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM busybox\n")
    for flags in (
        ("--secret", "src=x"),
        ("--output", "type=what"),
        ("--build-context", "x"),
        ("--ssh", "a=/nope"),
    ):
        done = daemon.longshore("build", *flags, str(folder), check=False)
        assert done.code != 0, done
        assert flags[0] in done.err
