"""Other people's tools against our registry: skopeo both ways with Debian's docker-registry, docker's CLI, our engine."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.compat.registry_lab import USERS, htpasswd
from tests.suites.registry.servers import debian, free_port, ours
from tests.suites.registry.wire import OCI_INDEX, Registry, Repository

SKOPEO = shutil.which("skopeo") or ""


def skopeo(*words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([SKOPEO, "--insecure-policy", *words], capture_output=True, timeout=100)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def copy(source: str, target: str, *flags: str) -> None:
    """Without compressing layers anew, which skopeo does to plain ones."""
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests")
    skopeo("copy", *plain, *flags, source, target)


def digest(image: str, *flags: str) -> str:
    """Of the bytes that a registry has under a name."""
    raw = skopeo("inspect", "--raw", "--tls-verify=false", *flags, image).stdout
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    if not SKOPEO:
        pytest.skip("no skopeo on this machine (make setup installs it)")
    one, two = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("debian")
    with ours(one) as ours_address, debian(two) as debian_address:
        yield ours_address, debian_address


def test_skopeo_copies_both_ways_with_equal_digests(both: tuple[str, str], tmp_path: Path) -> None:
    here, there = both
    repo = Repository(Registry(here), "made/here")
    manifests = [repo.manifest(layers=2), repo.manifest()]
    for data in manifests:
        repo.push(data)
    platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
    document = json.loads(repo.index(manifests))
    for entry, platform in zip(document["manifests"], platforms, strict=True):
        entry["platform"] = platform
    repo.push(json.dumps(document).encode(), "both", OCI_INDEX)
    repo.push(manifests[0], "single")
    repo.registry.close()
    for tag in ("both", "single"):
        first = digest(f"docker://{here}/made/here:{tag}")
        copy(f"docker://{here}/made/here:{tag}", f"docker://{there}/over/there:{tag}", "--all")
        copy(f"docker://{there}/over/there:{tag}", f"docker://{here}/back/again:{tag}", "--all")
        copy(f"docker://{here}/back/again:{tag}", f"oci:{tmp_path}/layout:{tag}", "--all")
        copy(f"oci:{tmp_path}/layout:{tag}", f"docker://{here}/from/layout:{tag}", "--all")
        names = (f"{there}/over/there", f"{here}/back/again", f"{here}/from/layout")
        assert {digest(f"docker://{name}:{tag}") for name in names} == {first}
    listed = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{here}/back/again").stdout)
    assert listed["Tags"] == ["both", "single"]
    skopeo("delete", "--tls-verify=false", f"docker://{here}/back/again:single")
    assert skopeo(
        "inspect", "--tls-verify=false", f"docker://{here}/back/again:single", check=False
    ).returncode


def test_skopeo_logs_in_at_our_token_service(both: tuple[str, str], tmp_path: Path) -> None:
    """From the open registry into one that wants tokens, as ann, who may, and as bob, who may not."""
    source = Repository(Registry(both[0]), "made/for-tokens")
    source.tagged("v1")
    source.registry.close()
    rules = [{"repositories": ["team/*"], "users": ["ann"], "actions": ["pull", "push"]}]
    auth = {"tokenservice": {"path": str(htpasswd(tmp_path / "users"))}, "access": rules}
    with ours(tmp_path, config={"auth": auth}) as address:
        words = (
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--preserve-digests",
            f"docker://{both[0]}/made/for-tokens:v1",
        )
        target = f"docker://{address}/team/app:v1"
        skopeo(*words, target, "--dest-creds", f"ann:{USERS['ann']}")
        for login in (("--dest-creds", f"bob:{USERS['bob']}"), ("--dest-creds", "ann:wrong"), ()):
            assert skopeo(*words, target, *login, check=False).returncode
        found = digest(f"docker://{address}/team/app:v1", "--creds", f"ann:{USERS['ann']}")
        assert found == digest(f"docker://{both[0]}/made/for-tokens:v1")


def test_a_registry_inside_the_daemon(daemon: Any) -> None:
    """Started by our CLI, filled by docker's, read by our engine; it comes back with the daemon."""
    with free_port() as port:
        address = f"127.0.0.1:{port}"
    daemon.load()
    assert daemon.longshore("registry", "start", "--addr", address).out.strip() == f"http://{address}"
    again = daemon.longshore("registry", "start", "--addr", address, check=False)
    assert again.code == 1 and "the registry default runs" in again.err
    daemon.docker("tag", "busybox:latest", f"{address}/team/box:1")
    pushed = daemon.docker("push", f"{address}/team/box:1").out
    wanted = pushed.rpartition("digest: ")[2].split()[0]
    daemon.docker("rmi", f"{address}/team/box:1")
    daemon.restart()
    (row,) = daemon.longshore(
        "registry", "ls", "--format", "{{.Name}} {{.Address}} {{.Status}}"
    ).out.splitlines()
    assert row == f"default http://{address} running"
    assert f"Digest: {wanted}" in daemon.docker("pull", f"{address}/team/box:1").out
    registry = Repository(Registry(address), "team/box")
    assert registry.tags() == ["1"] and registry.get("1").header("Docker-Content-Digest") == wanted
    registry.registry.close()
    daemon.docker("rmi", f"{address}/team/box:1")
    assert daemon.longshore("registry", "stop").out.strip() == "default"
    assert daemon.longshore("registry", "ls", "--format", "{{.Name}}").out == ""
    assert daemon.docker("pull", f"{address}/team/box:1", check=False).code == 1
    refused = daemon.longshore(
        "registry", "start", "--set", "storage.filesystem.rootdirectory=/x", check=False
    )
    assert "kept under its data root" in refused.err
    refused = daemon.longshore("registry", "start", "--addr", "0.0.0.0:0", check=False)
    assert "refusing to serve plain HTTP" in refused.err
