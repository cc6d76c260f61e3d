"""Other tools read what we write, and we read what they write, digest for digest: skopeo, umoci, podman."""

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bench.peers import ROOT
from tests.engine.compat.registry import PROGRAM, running_registry
from tests.suites.registry.servers import ours

UMOCI = ROOT / "build/umoci/usr/bin/umoci"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not PROGRAM.exists():
        pytest.skip("no docker-registry on this machine (make setup installs it)")
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(autouse=True)
def only_busybox_stays(daemon: Any) -> Iterator[None]:
    yield
    for image in daemon.request("GET", "/images/json?all=1")[1]:
        for name in [*image["RepoTags"], *image["RepoDigests"]]:
            if name != "busybox:latest":
                daemon.request("DELETE", f"/images/{name}?force=1")


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def skopeo(*words: object) -> str:
    return run("skopeo", "--insecure-policy", *words)


def digest_of(reference: str, *flags: str) -> str:
    """Of the document that skopeo finds there."""
    return f"sha256:{hashlib.sha256(skopeo('inspect', '--raw', *flags, reference).encode()).hexdigest()}"


def descriptor(daemon: Any, name: str) -> dict[str, Any]:
    return dict(daemon.request("GET", f"/images/{name}/json")[1]["Descriptor"])


class Layout:
    """An OCI layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(self, kind: str, data: bytes | dict[str, Any], **more: Any) -> dict[str, Any]:
        raw = data if isinstance(data, bytes) else json.dumps(data, indent=1).encode()
        hexadecimal = hashlib.sha256(raw).hexdigest()
        (self.folder / "blobs/sha256" / hexadecimal).write_bytes(raw)
        return {"mediaType": kind, "digest": f"sha256:{hexadecimal}", "size": len(raw), **more}

    def image(self, architecture: str, layer: bytes, **more: Any) -> dict[str, Any]:
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["uname", "-m"], "Labels": {"for": architecture}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created_by": f"for {architecture}"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put(CONFIG, config),
            "layers": [self.put(LAYER, gzip.compress(layer, mtime=0))],
        }
        return self.put(MANIFEST, manifest, platform={"os": "linux", "architecture": architecture}, **more)

    def finish(self, name: str, *manifests: dict[str, Any]) -> dict[str, Any]:
        top = self.put(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)})
        entry = {
            **top,
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "1"},
        }
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return top

    def tar(self) -> bytes:
        return subprocess.run(["tar", "-c", "-C", self.folder, "."], capture_output=True, check=True).stdout


@pytest.fixture
def multi(daemon: Any, registry: str, tmp_path: Path) -> tuple[str, dict[str, Any], bytes]:
    """(name, descriptor of the index, archive) of an image for two platforms with an attestation of the first."""
    layout = Layout(tmp_path / "layout")
    layer = daemon.images.busybox_layer()
    amd64, s390x = layout.image("amd64", layer), layout.image("s390x", layer + bytes(512))
    statement = layout.put(
        "application/vnd.in-toto+json",
        b'{"predicateType": "https://slsa.dev/provenance/v1"}',
        annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
    )
    attestation = layout.put(
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": layout.put(CONFIG, b"{}"),
            "layers": [statement],
        },
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": amd64["digest"],
        },
    )
    name = f"{registry}/multi/app:1"
    return name, layout.finish(name, amd64, s390x, attestation), layout.tar()


def test_an_image_for_several_platforms_stays_whole(
    daemon: Any, multi: tuple[str, dict[str, Any], bytes], tmp_path: Path
) -> None:
    name, index, archive = multi
    assert f"Loaded image: {name}" in daemon.docker("load", input=archive).out
    assert daemon.docker("run", "--rm", name).out == f"{os.uname().machine}\n"
    assert descriptor(daemon, name) == index
    views = daemon.request("GET", f"/images/{name}/json?manifests=1")[1]["Manifests"]
    assert [(view["Kind"], view["Available"]) for view in views] == [("image", True)] * 2 + [
        ("attestation", True)
    ]
    foreign = json.loads(daemon.longshore("image", "inspect", "--platform", "s390x", name).out)[0]
    assert (foreign["Architecture"], foreign["Config"]["Labels"]) == ("s390x", {"for": "s390x"})
    assert "for s390x" in daemon.longshore("history", "--platform", "linux/s390x", name).out
    (statement,) = daemon.request("GET", f"/images/{name}/attestations?statement=1")[1]
    assert statement["Statement"] == {"predicateType": statement["PredicateType"]}
    # to a registry and back
    assert f"1: digest: {index['digest']}" in daemon.docker("push", name).out
    assert digest_of(f"docker://{name}", "--tls-verify=false") == index["digest"]
    # into an archive and back
    daemon.docker("save", "-o", str(tmp_path / "saved.tar"), name)
    daemon.docker("rmi", name)
    assert daemon.request("GET", f"/images/{name}/json")[0] == 404
    daemon.docker("load", "-i", str(tmp_path / "saved.tar"))
    assert descriptor(daemon, name) == index
    # one platform of it
    daemon.longshore("save", "--platform", "s390x", "-o", str(tmp_path / "one.tar"), name)
    seen = json.loads(skopeo("inspect", "--config", f"docker-archive:{tmp_path / 'one.tar'}"))
    assert seen["architecture"] == "s390x"
    before = sum(path.stat().st_size for path in (daemon.data / "content").rglob("*") if path.is_file())
    daemon.longshore("rmi", "--platform", "s390x", name)
    after = sum(path.stat().st_size for path in (daemon.data / "content").rglob("*") if path.is_file())
    assert before - after > 500_000
    assert (
        daemon.request("GET", f'/images/{name}/json?platform={{"os":"linux","architecture":"s390x"}}')[0]
        == 404
    )
    assert daemon.docker("rmi", name).out.startswith(f"Untagged: {name}")


def test_what_was_pulled_of_an_index_is_pushed_as_the_index_where_the_rest_is(
    daemon: Any, registry: str, multi: tuple[str, dict[str, Any], bytes], tmp_path: Path
) -> None:
    name, index, _ = multi
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path / 'layout'}:1", f"docker://{name}")
    daemon.docker("pull", name)
    assert descriptor(daemon, name) == index
    daemon.docker("tag", name, f"{registry}/multi/app:2")
    assert f"2: digest: {index['digest']}" in daemon.docker("push", f"{registry}/multi/app:2").out
    daemon.docker("tag", name, f"{registry}/elsewhere/app:1")
    pushed = daemon.docker("push", f"{registry}/elsewhere/app:1").out
    assert "only the available single-platform image was pushed" in pushed
    manifests = json.loads((tmp_path / "layout/blobs/sha256" / index["digest"][7:]).read_text())["manifests"]
    assert f"1: digest: {manifests[0]['digest']}" in pushed


@pytest.fixture(scope="module")
def our_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ours(tmp_path_factory.mktemp("ours")) as address:
        yield address


def test_skopeo_copies_both_ways(daemon: Any, registry: str, our_registry: str, tmp_path: Path) -> None:
    """Between our registry, Debian's, and the engine's archives: the digest stays what it was."""
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")

    def digest_in(name: str) -> str:
        return digest_of(f"docker://{name}", "--tls-verify=false")

    mine, theirs = f"{our_registry}/way/app", f"{registry}/way/app"
    daemon.docker("tag", "busybox", f"{mine}:1")
    daemon.docker("push", f"{mine}:1")
    oci = f"oci-archive:{tmp_path / 'a.tar'}:{mine}:2"
    skopeo("copy", "--src-tls-verify=false", f"docker://{mine}:1", oci)  # which compresses the layer
    first = digest_of(oci)
    daemon.docker("load", "-i", str(tmp_path / "a.tar"))
    assert descriptor(daemon, f"{mine}:2")["digest"] == first
    daemon.docker("push", f"{mine}:2")
    assert digest_in(f"{mine}:2") == first
    skopeo("copy", *plain, f"docker://{mine}:2", f"docker://{theirs}:2")
    assert digest_in(f"{theirs}:2") == first
    daemon.docker("pull", f"{theirs}:2")
    assert descriptor(daemon, f"{theirs}:2")["digest"] == first
    daemon.docker("save", "-o", str(tmp_path / "b.tar"), f"{theirs}:2")
    saved = f"oci-archive:{tmp_path / 'b.tar'}:2"
    assert digest_of(saved) == first
    for target in (f"{mine}:3", f"{theirs}:3"):
        skopeo("copy", "--dest-tls-verify=false", saved, f"docker://{target}")
        assert digest_in(target) == first
    skopeo("copy", *plain, f"docker://{theirs}:3", f"docker://{mine}:4")
    assert digest_in(f"{mine}:4") == first
    # the same file as a Docker archive, which has no manifest: the config stays what it was
    skopeo("copy", f"docker-archive:{tmp_path / 'b.tar'}", f"docker-archive:{tmp_path / 'c.tar'}:way:4")
    identity = daemon.request("GET", f"/images/{mine}:2/json")[1]["Id"]
    daemon.docker("load", "-i", str(tmp_path / "c.tar"))
    assert daemon.request("GET", "/images/way:4/json")[1]["Id"] == identity


def test_umoci_reads_and_extends_what_we_save(daemon: Any, tmp_path: Path) -> None:
    if not UMOCI.exists():
        pytest.skip("make setup unpacks Debian's umoci")
    container = daemon.docker("create", "busybox").out.strip()
    daemon.docker("cp", "/etc/hostname", f"{container}:/etc/added")
    daemon.docker("commit", container, "umoci:1")
    daemon.docker("save", "-o", str(tmp_path / "saved.tar"), "umoci:1")
    (tmp_path / "layout").mkdir()
    run("tar", "-x", "-C", tmp_path / "layout", "-f", tmp_path / "saved.tar")
    seen = json.loads(run(UMOCI, "stat", "--json", "--image", f"{tmp_path / 'layout'}:1"))
    assert len(seen["history"]) == 2
    run(UMOCI, "unpack", "--image", f"{tmp_path / 'layout'}:1", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    assert (root / "etc/added").read_bytes() == Path("/etc/hostname").read_bytes()
    (root / "umoci").write_text("was here\n")
    (root / "etc/added").unlink()
    run(UMOCI, "repack", "--image", f"{tmp_path / 'layout'}:2", tmp_path / "bundle")
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"oci:{tmp_path / 'layout'}:2",
        f"oci-archive:{tmp_path / 'o.tar'}:um/oci:2",
    )
    daemon.docker("load", "-i", str(tmp_path / "o.tar"))
    script = "cat /umoci; test -e /etc/added || echo gone"
    assert daemon.docker("run", "--rm", "um/oci:2", "sh", "-c", script).out == "was here\ngone\n"
    daemon.docker("rm", container)


def test_podman_reads_what_we_save(
    daemon: Any, registry: str, podman: Callable[..., str], folder: Path
) -> None:
    name = f"{registry}/pod/app:1"
    daemon.docker("tag", "busybox", name)
    daemon.docker("save", "-o", str(folder / "saved.tar"), name)
    policy = ("--signature-policy", str(folder / "policy.json"))
    podman("load", *policy, "-i", str(folder / "saved.tar"))
    identity = daemon.request("GET", f"/images/{name}/json")[1]["Id"]
    assert json.loads(podman("inspect", "--type=image", name))[0]["Id"] == identity.removeprefix("sha256:")
    podman(
        "push", *policy, "--tls-verify=false", "--remove-signatures", name, f"docker://{registry}/pod/back:1"
    )
    daemon.docker("pull", f"{registry}/pod/back:1")
    back = daemon.request("GET", f"/images/{registry}/pod/back:1/json")[1]
    assert back["RootFS"] == daemon.request("GET", "/images/busybox/json")[1]["RootFS"]
