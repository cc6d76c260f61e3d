"""Images that come from elsewhere: a registry, and another daemon blob by blob."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore.cli.client import Client


def helper() -> Any:
    spec = importlib.util.spec_from_file_location(
        "longshore_tests_registry", Path(__file__).parent / "registry.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tools = helper()
    if not tools.PROGRAM.exists():
        pytest.skip("no docker-registry on this machine (make setup installs it)")
    with tools.running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def test_pull_from_a_registry(daemon: Any, registry: str) -> None:
    digest = helper().push(
        registry, "team/app", "1", [daemon.images.busybox_layer()], {"Cmd": ["echo", "pulled"]}
    )
    name = f"{registry}/team/app:1"
    done = daemon.docker("pull", name)
    assert f"Digest: {digest}\n" in done.out
    assert f"Status: Downloaded newer image for {name}\n{name}\n" in done.out
    assert daemon.docker("run", "--rm", name).out == "pulled\n"
    assert f"Status: Image is up to date for {name}" in daemon.docker("pull", name).out
    assert json.loads(daemon.docker("image", "inspect", name).out)[0]["RepoDigests"] == [
        f"{registry}/team/app@{digest}"
    ]
    daemon.docker("rmi", name)
    assert daemon.docker("run", "--rm", name).out == "pulled\n"  # pulled by run
    daemon.docker("rmi", "-f", name)
    assert daemon.longshore("pull", "-q", name).out.strip().endswith(name)
    assert daemon.longshore("run", "--rm", f"{registry}/team/app@{digest}").out == "pulled\n"
    daemon.docker("rmi", "-f", name)


def test_a_mirror_stands_in_for_docker_hub(own_daemon: Any, registry: str) -> None:
    digest = helper().push(
        registry, "library/mirrored", "1", [own_daemon.images.busybox_layer()], {"Cmd": ["echo", "mirrored"]}
    )
    mirrors = ("http://127.0.0.1:1", f"http://{registry}")
    own_daemon.flags = [f"--registry-mirror={url}" for url in mirrors]
    own_daemon.start()
    assert f"Digest: {digest}\n" in own_daemon.docker("pull", "mirrored:1").out
    assert own_daemon.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").out == "mirrored:1\n"
    assert own_daemon.docker("run", "--rm", "mirrored:1").out == "mirrored\n"
    assert json.loads(own_daemon.docker("info", "--format", "{{json .RegistryConfig.Mirrors}}").out) == list(
        mirrors
    )


@pytest.mark.parametrize("command", ["docker", "longshore"])
def test_an_unknown_tag_is_told_and_leaves_nothing(daemon: Any, registry: str, command: str) -> None:
    before = daemon.docker("images", "-q").out
    done = getattr(daemon, command)("pull", f"{registry}/team/none:1", check=False)
    assert done.code == 1
    assert "not found" in done.err
    assert daemon.docker("images", "-q").out == before
    status, reply = daemon.request("POST", f"/images/create?fromImage={registry}/team/none&tag=1")
    assert status == 404, reply


def test_only_missing_blobs_travel_between_daemons(daemon: Any, own_daemon: Any) -> None:
    own_daemon.start()
    source, target = Client(daemon.host), Client(own_daemon.host)
    contents = source.get("/longshore/v1/images/busybox/contents")
    parts = [
        contents["config"],
        *contents["layers"],
        *([contents["manifest"]] if "manifest" in contents else []),
    ]
    digests = [part["digest"] for part in parts]
    assert target.post("/longshore/v1/blobs/missing", {"digests": digests})["missing"] == digests
    status, reply = own_daemon.request("PUT", "/longshore/v1/images/busybox:latest", contents)
    assert status == 404
    assert digests[0] in reply["message"]
    for digest in digests:
        data = source.request("GET", f"/longshore/v1/blobs/{digest}").read()
        assert target.request("PUT", f"/longshore/v1/blobs/{digest}", None, data).status == 201
        assert target.request("PUT", f"/longshore/v1/blobs/{digest}", None, data).status == 200
    assert target.post("/longshore/v1/blobs/missing", {"digests": digests})["missing"] == []
    status, reply = own_daemon.request("PUT", "/longshore/v1/images/busybox:latest", contents)
    assert (status, reply["id"]) == (201, contents["id"])
    assert own_daemon.docker("run", "--rm", "busybox", "echo", "shipped").out == "shipped\n"


def test_attack_21_a_blob_that_is_not_what_it_says_is_refused(daemon: Any) -> None:
    """Fails when a blob is stored without its digest being compared."""
    digest = "sha256:" + "0" * 64
    status, reply = daemon.request("PUT", f"/longshore/v1/blobs/{digest}", b"something else")
    assert status == 400
    assert digest in reply["message"]
    assert daemon.request("GET", f"/longshore/v1/blobs/{digest}")[0] == 404
    assert daemon.request("PUT", "/longshore/v1/blobs/sha256:zz", b"")[0] == 400
