"""Images that go to a registry and come back: Debian's docker-registry, the stock clients, skopeo as a witness."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def helper() -> Any:
    name = "longshore_tests_registry"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "registry.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tools = helper()
    if not tools.PROGRAM.exists():
        pytest.skip("no docker-registry on this machine (make setup installs it)")
    with tools.running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(autouse=True)
def no_image_stays(daemon: Any) -> Iterator[None]:
    yield
    for image in daemon.request("GET", "/images/json?all=1")[1]:
        if "busybox:latest" not in image["RepoTags"]:
            daemon.request("DELETE", f"/images/{image['Id']}?force=1")
        for name in [*image["RepoTags"], *image["RepoDigests"]]:
            if name != "busybox:latest":
                daemon.request("DELETE", f"/images/{name}?force=1")


def skopeo(*arguments: object) -> str:
    command = ["skopeo", "--insecure-policy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(name: str) -> bytes:
    """The document that the registry has under a name."""
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}").encode()


def statuses(daemon: Any, name: str, tag: str) -> list[dict[str, Any]]:
    from longshore.cli.client import Client

    return list(Client(daemon.host).request("POST", f"/images/{name}/push", {"tag": tag}).lines())


@pytest.mark.parametrize("client", ["docker", "longshore"])
def test_push_and_pull_again(daemon: Any, registry: str, client: str) -> None:
    name = f"{registry}/{client}/app:1"
    daemon.docker("tag", "busybox", name)
    run = getattr(daemon, client)
    done = run("push", name)
    assert f"The push refers to repository [{registry}/{client}/app]\n" in done.out
    last = done.out.splitlines()[-1]
    digest = last.removeprefix("1: digest: ").partition(" ")[0]
    assert last == f"1: digest: {digest} size: {len(raw(name))}"
    assert json.loads(daemon.docker("image", "inspect", name).out)[0]["RepoDigests"] == [
        f"{registry}/{client}/app@{digest}"
    ]
    assert "Layer already exists" in run("push", name).out
    daemon.docker("rmi", name)
    assert f"Digest: {digest}\n" in run("pull", name).out
    assert daemon.docker("run", "--rm", name, "echo", "back").out == "back\n"


def test_what_was_pulled_is_pushed_with_the_same_digest(daemon: Any, registry: str) -> None:
    """Docker's manifest with its own order of fields, kept byte for byte; blobs are mounted, not sent."""
    digest = helper().push(registry, "here/app", "1", [daemon.images.busybox_layer()], {"Cmd": ["sh"]})
    daemon.docker("pull", f"{registry}/here/app:1")
    daemon.docker("tag", f"{registry}/here/app:1", f"{registry}/there/app:2")
    told = statuses(daemon, f"{registry}/there/app", "2")
    words = [message.get("status", "") for message in told]
    assert words[1:3] == ["Preparing", "Mounted from here/app"]
    assert words[-2] == f"2: digest: {digest} size: {len(raw(f'{registry}/there/app:2'))}"
    assert told[-1] == {
        "progressDetail": {},
        "aux": {"Tag": "2", "Digest": digest, "Size": len(raw(f"{registry}/here/app:1"))},
    }
    assert raw(f"{registry}/there/app:2") == raw(f"{registry}/here/app:1")


def test_all_tags_are_pushed_and_pulled(daemon: Any, registry: str) -> None:
    for tag in ("a", "b"):
        daemon.docker("tag", "busybox", f"{registry}/all/app:{tag}")
    out = daemon.docker("push", "-a", f"{registry}/all/app").out
    assert out.count("digest: sha256:") == 2
    listed = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry}/all/app"))
    assert sorted(listed["Tags"]) == ["a", "b"]
    daemon.docker("rmi", f"{registry}/all/app:a", f"{registry}/all/app:b")
    daemon.docker("pull", "-a", f"{registry}/all/app")
    assert daemon.docker("images", "--format", "{{.Tag}}", f"{registry}/all/app").out.split() == ["a", "b"]


def test_what_cannot_be_pushed(daemon: Any, registry: str) -> None:
    done = daemon.docker("push", f"{registry}/none:1", check=False)
    assert done.code == 1
    assert f"An image does not exist locally with the tag: {registry}/none:1" in done.err
    status, reply = daemon.request("POST", f"/images/{registry}/none/push?tag=1")
    assert status == 404, reply
    status, reply = daemon.request("POST", f"/images/busybox/push?platform={'{'}")
    assert (status, "failed to parse platform" in reply["message"]) == (400, True)
    daemon.docker("tag", "busybox", "127.0.0.1:1/busybox:1")
    done = daemon.longshore("push", "127.0.0.1:1/busybox:1", check=False)
    assert done.code == 1
    assert "127.0.0.1:1" in done.err
    assert "Traceback" not in done.err


def test_search_lists_the_catalogue_of_a_registry(daemon: Any, registry: str) -> None:
    for name in ("find/one", "find/two", "other/three"):
        helper().push(registry, name, "1", [], {})
    done = daemon.docker("search", "--format", "{{.Name}}", f"{registry}/find")
    assert done.out.splitlines() == [f"{registry}/find/one", f"{registry}/find/two"]
    assert (
        daemon.longshore("search", "--format", "{{.Name}}", f"{registry}/thr").out
        == f"{registry}/other/three\n"
    )
    assert len(daemon.docker("search", "--limit", "1", f"{registry}/").out.splitlines()) == 2
    assert (
        daemon.docker("search", "--filter", "stars=3", "--no-trunc", f"{registry}/find").out.count("\n") == 1
    )
    for query in ("term=", f"term={registry}/x&limit=101", f'term={registry}/x&filters={{"a":["b"]}}'):
        assert daemon.request("GET", f"/images/search?{query}")[0] == 400


def test_import_from_a_url(daemon: Any, registry: str, tmp_path: Path) -> None:
    import functools
    import http.server
    import lzma
    import threading

    (tmp_path / "root.tar.xz").write_bytes(lzma.compress(daemon.images.busybox_layer(), preset=0))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/root.tar.xz"
        out = daemon.docker("import", "--change", 'CMD ["echo", "from a url"]', "-m", "why", url, "imp:1").out
        assert f"Downloading from {url}" in out
        missing = daemon.longshore("import", f"{url}.none", "imp:2", check=False)
        assert missing.code == 1
        assert "the server answers 404" in missing.err
        server.shutdown()
    assert daemon.docker("run", "--rm", "imp:1").out == "from a url\n"
    assert daemon.docker("history", "--format", "{{.Comment}}", "imp:1").out == "why\n"
