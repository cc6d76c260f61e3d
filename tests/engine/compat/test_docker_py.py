"""docker-py against our daemon."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

docker = pytest.importorskip("docker")


@pytest.fixture
def client(daemon: Any) -> Iterator[Any]:
    made = daemon.client
    yield made
    made.close()
    daemon.remove_containers()


def test_ping_version_and_info(client: Any) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.47"
    assert client.info()["OSType"] == "linux"
    assert client.df()["Images"]


def test_run_returns_output_and_raises_on_failure(client: Any) -> None:
    assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", "sh -c 'echo bad >&2; exit 4'", stderr=True)
    assert (caught.value.exit_status, caught.value.stderr) == (4, b"bad\n")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nosuch:1")
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nosuch")


def test_the_life_of_a_container(client: Any) -> None:
    container = client.containers.run(
        "busybox", "sleep 60", detach=True, name="py", labels={"k": "v"}, tty=True
    )
    assert [each.name for each in client.containers.list(filters={"label": "k=v"})] == ["py"]
    container.reload()
    assert container.status == "running"
    assert container.exec_run("sh -c 'echo out; echo err >&2; exit 3'", demux=True) == (
        3,
        (b"out\n", b"err\n"),
    )
    assert container.top()["Processes"]
    stats = container.stats(stream=False)
    assert stats["memory_stats"]["usage"] > 0
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename("renamed")
    container.update(mem_limit="128m", memswap_limit="256m")
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    container.start()
    container.restart(timeout=0)
    container.kill()
    container.remove(force=True)
    with pytest.raises(docker.errors.NotFound):
        container.reload()


def test_logs_stream_and_attach(client: Any) -> None:
    container = client.containers.run(
        "busybox", "sh -c 'for i in 1 2 3; do echo $i; sleep 0.1; done'", detach=True
    )
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert container.logs(tail=1) == b"3\n"


def test_files_in_and_out(client: Any) -> None:
    container = client.containers.create("busybox")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    assert container.put_archive("/tmp", buffer.getvalue())
    chunks, stat = container.get_archive("/tmp/file")
    assert (stat["name"], stat["size"]) == ("file", 4)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.extractfile("file")
        assert member is not None and member.read() == b"data"
    assert {"Path": "/tmp/file", "Kind": 1} in container.diff()


def test_commit_makes_an_image(client: Any) -> None:
    container = client.containers.run("busybox", "sh -c 'echo x > /made'", detach=True)
    container.wait()
    image = container.commit("committed", "1")
    assert client.containers.run("committed:1", "cat /made", remove=True) == b"x\n"
    container.remove()
    client.images.remove(image.id, force=True)


def test_build_streams_and_fails_as_docker(client: Any) -> None:
    image, lines = client.images.build(
        fileobj=io.BytesIO(b"FROM busybox\nRUN echo hi > /f\nCMD cat /f\n"), tag="py:1"
    )
    assert any("Step 2/3" in line.get("stream", "") for line in lines)
    assert client.containers.run("py:1", remove=True) == b"hi\n"
    with pytest.raises(docker.errors.BuildError):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN false\n"))
    with pytest.raises(docker.errors.APIError, match="unknown instruction"):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nFROB x\n"))
    client.images.remove(image.id, force=True)


def test_save_and_load(client: Any) -> None:
    image = client.images.get("busybox:latest")
    data = b"".join(image.save(named=True))
    (loaded,) = client.images.load(data)
    assert loaded.id == image.id


def test_volumes_and_networks(client: Any) -> None:
    volume = client.volumes.create("pyvol", labels={"a": "b"})
    assert client.volumes.get("pyvol").attrs["Labels"] == {"a": "b"}
    volume.remove()
    assert client.networks.list(names=["bridge"])[0].attrs["Driver"] == "bridge"


def test_events_are_seen_as_they_happen(client: Any, daemon: Any) -> None:
    events = client.events(decode=True, filters={"type": "container"})
    client.containers.run("busybox", "true", remove=True, name="seen")
    actions = []
    for event in events:
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            break
    events.close()
    assert [each for each in actions if each in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]
