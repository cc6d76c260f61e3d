"""Stock buildx and Compose v2 of Debian 13 against our daemon; and Debian 12's docker CLI, which speaks BuildKit alone.

The clients are unpacked by `make setup` into build/buildx. Nothing here waits for a time, only for what is said.
"""

import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PEER = ROOT / "build/buildx/usr"
OLD_CLI = ROOT / "build/docker/usr/bin/docker"  # 20.10: no plugin needed
Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(daemon: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not (PEER / "libexec/docker/cli-plugins/docker-buildx").exists():
        pytest.skip("no docker-buildx (make setup unpacks one)")
    config = tmp_path_factory.mktemp("docker-config")
    (config / "cli-plugins").mkdir()
    for name in ("docker-buildx", "docker-compose"):
        (config / "cli-plugins" / name).symlink_to(PEER / "libexec/docker/cli-plugins" / name)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(config),
        "DOCKER_CONFIG": str(config),
        "DOCKER_HOST": daemon.host,
        "BUILDKIT_PROGRESS": "plain",
    }


@pytest.fixture
def docker(environment: dict[str, str], tmp_path: Path) -> Iterator[Docker]:
    """Run the CLI in the test's folder; `code` is the exit code that is expected."""

    def run(*words: str, code: int = 0, cli: Path = PEER / "bin/docker", **options: Any) -> Any:
        done = subprocess.run(
            [cli, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    yield run
    run("image", "prune", "-af", "--filter", "label=of=buildx")


def dockerfile(folder: Path, text: str, name: str = "Dockerfile") -> None:
    (folder / name).write_text(text.replace("FROM busybox\n", "FROM busybox\nLABEL of=buildx\n"))


def transferred(shown: str) -> int:
    """Bytes of the build context that went to the daemon."""
    (number, unit) = re.findall(r"transferring context: ([\d.]+)([kMG]?)B.* done\n", shown)[-1]
    return int(float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit])


def values(text: str) -> Iterator[Any]:
    """JSON values one after the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        text = text[end:]
        yield value


def test_docker_build_takes_buildkit_by_itself(docker: Docker, tmp_path: Path) -> None:
    """Also with a syntax line, whose image no registry here has: the frontend is built in."""
    text = "# syntax=docker/dockerfile:1\nFROM busybox\nARG WORD\nRUN echo $WORD-run\nCOPY a /a\nCMD cat /a\n"
    dockerfile(tmp_path, text)
    (tmp_path / "a").write_text("from the context\n")
    shown = docker("build", "-t", "x:1", "-t", "x:2", "--build-arg", "WORD=hi", "--label", "l=v", ".").stderr
    assert re.search(r"#\d+ [\d.]+ hi-run\n", shown) and "naming to docker.io/library/x:2 done" in shown
    assert docker("run", "--rm", "x:2").stdout == "from the context\n"
    assert docker("image", "inspect", "-f", "{{.Config.Labels.l}}", "x:1").stdout == "v\n"
    again = docker("build", "-q", "--iidfile", "id", "--metadata-file", "meta", ".", "--build-arg", "WORD=hi")
    id = again.stdout.strip()
    assert id == (tmp_path / "id").read_text()
    assert json.loads((tmp_path / "meta").read_text())["containerimage.config.digest"] == id
    cached = docker("build", "--build-arg", "WORD=hi", "--label", "l=v", ".").stderr
    assert cached.count("CACHED") >= 2 and "hi-run" not in re.sub(r"RUN.*", "", cached)


def test_mounts_here_documents_and_stages(
    docker: Docker, tmp_path: Path, environment: dict[str, str]
) -> None:
    dockerfile(
        tmp_path,
        """FROM busybox
RUN --mount=type=secret,id=word,required cat /run/secrets/word && test -s /run/secrets/word
RUN --mount=type=cache,target=/cache echo x >>/cache/f && cp /cache/f /seen
RUN --mount=type=ssh test -S "$SSH_AUTH_SOCK"
RUN --mount=type=bind,source=in,target=/in cat /in/f >/copied
COPY <<one /one
$WORD
one
FROM scratch AS other
COPY --from=0 /seen /one /copied /
""",
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f").write_text("bound")
    (tmp_path / "secret").write_text("s3cret")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    flags = ("--secret", "id=word,src=secret", "--ssh", f"default={key}", "-o", "out")
    docker("build", *flags, ".")
    assert (tmp_path / "out/copied").read_text() == "bound"
    assert (tmp_path / "out/one").read_text() == "\n"
    first = (tmp_path / "out/seen").read_text()
    docker("build", "--no-cache", *flags, ".")
    assert (tmp_path / "out/seen").read_text() == first + "x\n"
    failed = docker("build", "--no-cache", "--ssh", f"default={key}", ".", code=1).stderr
    assert "Dockerfile:3" in failed and "word" in failed


@pytest.mark.parametrize("kind", ["tar", "oci", "docker"])
def test_outputs_are_files_of_the_client(docker: Docker, tmp_path: Path, kind: str) -> None:
    dockerfile(tmp_path, "FROM scratch\nCOPY f /d/f\nLABEL of=buildx\n")
    (tmp_path / "f").write_text("content")
    docker("build", "-t", "archived:1", "-o", f"type={kind},dest=out", ".")
    with tarfile.open(tmp_path / "out") as archive:
        names = archive.getnames()
        if kind == "tar":
            member = archive.extractfile("d/f")
            assert member is not None and member.read() == b"content"
            return
        assert {"oci-layout", "index.json"} <= set(names)
    if kind == "docker":
        docker("image", "rm", "-f", "archived:1")
        assert "archived:1" in docker("load", "-i", "out").stdout


def test_a_folder_gets_modes_links_and_times(docker: Docker, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM busybox\nRUN mkdir -p /o/d && echo 1 >/o/d/f && chmod 750 /o/d/f && ln -s d/f /o/l\n"
               "FROM scratch\nCOPY --from=0 /o /\n")  # fmt: skip
    docker("build", "-o", "type=local,dest=out", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", ".")
    out = tmp_path / "out"
    assert (out / "d/f").read_text() == "1\n" and (out / "d/f").stat().st_mode & 0o777 == 0o750
    assert (out / "l").readlink() == Path("d/f") and (out / "d/f").stat().st_mtime == 1_000_000_000


def test_a_failed_step_names_its_line_and_leaves_nothing(docker: Docker, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM scratch\nFROM busybox\nRUN echo before && exit 7\n")
    shown = docker("build", ".", code=1).stderr
    assert 'process "/bin/sh -c echo before && exit 7" did not complete successfully: exit code: 7' in shown
    assert "4 | >>> RUN echo before && exit 7" in shown
    dockerfile(tmp_path, "FROM busybox\nFROG\n")
    assert "3 | >>> FROG" in docker("build", ".", code=1).stderr
    assert "failed to read dockerfile" in docker("build", "-f", "missing", ".", code=1).stderr
    assert docker("ps", "-aq", "--filter", "status=exited").stdout == ""


def test_an_interrupt_ends_the_step_at_once(
    docker: Docker, tmp_path: Path, environment: dict[str, str]
) -> None:
    dockerfile(tmp_path, "FROM busybox\nRUN echo st''arted && sleep 1000\n")
    command = [str(PEER / "libexec/docker/cli-plugins/docker-buildx"), "build", "."]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as client:
        assert client.stderr is not None
        for line in client.stderr:
            if "started" in line:
                break
        client.send_signal(signal.SIGINT)
        assert "context canceled" in client.stderr.read()
        assert client.wait(30) == 1
    # A build of the same step needs it to be over; nothing of it is left.
    dockerfile(tmp_path, "FROM busybox\nRUN true\n")
    docker("build", ".")
    assert docker("ps", "-aq", "--no-trunc", "--filter", "ancestor=busybox").stdout == ""


def test_a_context_is_sent_once(docker: Docker, tmp_path: Path) -> None:
    """1,000 files and 32 MB; afterwards only what changed, without what .dockerignore leaves out."""
    context = tmp_path / "context"
    (context / "many").mkdir(parents=True)
    for number in range(1000):
        (context / f"many/{number:04}").write_text(f"{number}\n" * 20)
    with (context / "large").open("wb") as large:
        large.truncate(32 << 20)
    (context / "ignored").write_bytes(bytes(1 << 20))
    (context / "kept.log").write_text("kept")
    (context / ".dockerignore").write_text("ignored\n*.log\n!kept.log\nlarge\n")
    dockerfile(context, "FROM scratch\nCOPY . /\nLABEL of=buildx\n")
    text = (context / ".dockerignore").read_text()
    first = docker("build", "-o", "out", "context").stderr
    assert 50_000 < transferred(first) < 1_000_000
    assert len(list((tmp_path / "out/many").iterdir())) == 1000
    assert (tmp_path / "out/kept.log").exists() and not (tmp_path / "out/ignored").exists()
    (context / ".dockerignore").write_text(text.replace("large\n", ""))
    (context / "many/0000").write_text("changed")
    dockerfile(context, "FROM scratch\nCOPY many /many\nCOPY large /large\nLABEL of=buildx\n")
    assert transferred(docker("build", "--target", "", "-o", "type=cacheonly", "context").stderr) >= 32 << 20
    (context / "many/0001").write_text("changed too")
    again = docker("build", "-o", "type=cacheonly", "context").stderr
    assert transferred(again) < 1_000_000 and again.count("CACHED") >= 1


def test_bake_builds_on_other_targets(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "docker-bake.hcl").write_text("""
group "default" { targets = ["base", "app"] }
target "base" {
  dockerfile-inline = "FROM busybox\\nLABEL of=buildx\\nRUN echo base >/base"
}
target "app" {
  contexts = { base = "target:base", files = "files" }
  dockerfile-inline = "FROM base\\nCOPY --from=files f /f\\nRUN cat /base >/app"
  tags = ["baked:1"]
}
""")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/f").write_text("named\n")
    docker("buildx", "bake")
    assert docker("run", "--rm", "baked:1", "cat", "/app", "/f").stdout == "base\nnamed\n"


def test_compose_builds_and_runs(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text("""
services:
  one:
    build: {context: ., dockerfile_inline: "FROM busybox\\nLABEL of=buildx\\nARG WORD\\nRUN echo $$WORD >/w", args: {WORD: hi}}
    image: composed:1
  two:
    build: {context: ., dockerfile_inline: "FROM busybox\\nLABEL of=buildx\\nRUN echo two >/w"}
    image: composed:2
""")
    docker("compose", "build")
    assert docker("run", "--rm", "composed:1", "cat", "/w").stdout == "hi\n"
    assert docker("run", "--rm", "composed:2", "cat", "/w").stdout == "two\n"


def test_progress_in_json(docker: Docker, tmp_path: Path) -> None:
    dockerfile(tmp_path, "FROM busybox\nRUN echo out && echo err >&2\n")
    shown = docker("buildx", "build", "--no-cache", "--progress", "rawjson", ".").stderr
    told = list(values(shown))
    vertices = {vertex["digest"]: vertex for part in told for vertex in part.get("vertexes", [])}
    (run,) = [vertex for vertex in vertices.values() if "RUN echo out" in vertex["name"]]
    assert run["completed"] >= run["started"] and not run.get("error")
    logs = [log for part in told for log in part.get("logs", []) if log["vertex"] == run["digest"]]
    assert {log["stream"] for log in logs} == {1, 2}


def test_builder_commands(docker: Docker, tmp_path: Path) -> None:
    assert re.search(r"default\s+running\s+v[\d.]+", docker("buildx", "ls").stdout)
    assert "linux/" in docker("buildx", "inspect").stdout
    dockerfile(tmp_path, "FROM busybox\nRUN echo a >/a\n")
    docker("build", ".")
    assert "local source for dockerfile" in docker("buildx", "du", "--verbose").stdout
    docker("buildx", "prune", "-af", "--filter", "type=source.local")
    assert "local source" not in docker("buildx", "du", "--verbose").stdout
    assert docker("buildx", "prune", "-af", "--filter", "no=thing", code=1).stderr
    docker("build", ".")
    assert "source.local" in docker("system", "df", "-v").stdout
    docker("builder", "prune", "-f")
    assert "source.local" not in docker("system", "df", "-v").stdout


def test_questions_instead_of_a_build(
    docker: Docker, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile(tmp_path, "# base what all have\nFROM busybox AS base\nFROM base AS app\nARG WORD=hi\n")
    monkeypatch.setitem(environment, "BUILDX_EXPERIMENTAL", "1")
    shown = docker("buildx", "build", "--print=targets", ".").stdout
    assert "base          what all have" in shown and "app (default)" in shown
    assert re.search(r"WORD\s+hi", docker("buildx", "build", "--print=outline", ".").stdout)


def test_the_cli_before_buildx(docker: Docker, tmp_path: Path, daemon: Any) -> None:
    """Debian 12's: a session, POST /build?version=2, and Status messages in Docker's stream."""
    if not OLD_CLI.exists():
        pytest.skip("no Debian 12 docker CLI")
    dockerfile(tmp_path, "FROM busybox\nCOPY f /f\nRUN --mount=type=secret,id=s cat /run/secrets/s >/s\n")
    (tmp_path / "f").write_text("F")
    shown = docker("build", "--secret", "id=s,src=f", "-t", "old:1", ".", cli=OLD_CLI).stderr
    assert "naming to docker.io/library/old:1 done" in shown
    assert docker("run", "--rm", "old:1", "cat", "/s").stdout == "F"
    # buildx knows a tar by its first blocks, and does not know Python's default format.
    with tarfile.open(tmp_path / "context.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "f", "f")
        archive.add(tmp_path / "Dockerfile", "Dockerfile")
    dockerfile(tmp_path, "FROM busybox\nRUN exit 3\n")
    failed = docker("build", ".", code=1, cli=OLD_CLI).stderr
    assert "did not complete successfully: exit code: 3" in failed
    with (tmp_path / "context.tar").open("rb") as context:
        assert docker("build", "-q", "-", stdin=context).stdout.startswith("sha256:")


def test_grpc_wants_an_upgrade(daemon: Any) -> None:
    for path in ("/grpc", "/session"):
        status, reply = daemon.request("POST", path)
        assert status == 400 and "no upgrade proto in request" in reply["message"]
