"""Reading and writing image archives, without unpacking a layer."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.engine.images import docker_archive

from longshore.errors import EngineError, InvalidArgument, NotFound
from longshore.oci.descriptor import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)
from longshore.oci.digest import sha256_of
from longshore.oci.manifest import build_manifest
from longshore.oci.reference import parse_reference
from longshore.storage.archive import Found, Saved, plan_archive, read_archive, write_archive
from longshore.storage.content import ContentStore

HERE = Platform("amd64", "linux")
LAYER = b"a layer is only bytes here" * 100
BIG = b"x" * (300 << 10)  # too large to be kept in memory
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(sha256_of(LAYER))]},
    }
).encode()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def files(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def read(store: ContentStore, data: bytes, platform: Platform | None = HERE) -> list[Found]:
    with store.lease():
        return read_archive(io.BytesIO(data), store, platform)


def descriptor(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": str(sha256_of(data)), "size": len(data), **more}


def layout(*entries: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> dict[str, bytes]:
    named = {f"blobs/sha256/{sha256_of(data).hex}": data for data in blobs}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **named,
    }


def manifest(config: bytes, *layers: bytes, kind: str = OCI_MANIFEST) -> bytes:
    value = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [descriptor(DOCKER_LAYER_GZIP, layer) for layer in layers],
    }
    return json.dumps(value, indent=3).encode()  # not how we would write it: the bytes have to stay


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("layer", [LAYER, BIG])
def test_docker_save_archives(store: ContentStore, pack, layer: bytes) -> None:  # type: ignore[no-untyped-def]
    (found,) = read(store, pack(docker_archive([layer], "app:1", {"Cmd": ["sh"]})))
    assert found.references == ("docker.io/library/app:1",)
    assert found.layers == (Descriptor(OCI_LAYER, str(sha256_of(layer)), len(layer)),)
    assert found.manifest is None
    assert json.loads(found.config)["config"] == {"Cmd": ["sh"]}
    with store.open(sha256_of(layer)) as file:
        assert file.read() == layer


def test_layers_shared_by_links_as_old_dockers_wrote_them(store: ContentStore) -> None:
    entries = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar"]}])
    members = {"manifest.json": entries.encode(), "c.json": CONFIG, "1/layer.tar": gzip.compress(LAYER)}
    (found,) = read(store, files(members, {"2/layer.tar": "../1/layer.tar"}))
    assert found.layers[0] == found.layers[1]
    assert found.layers[0].media_type == OCI_LAYER_GZIP
    assert found.references == ()


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_layers_as_no_registry_takes_them_are_kept_plain(store: ContentStore, pack) -> None:  # type: ignore[no-untyped-def]
    entries = json.dumps([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["l"]}])
    members = {"manifest.json": entries.encode(), "c.json": CONFIG, "l": pack(LAYER)}
    (found,) = read(store, pack(files(members)))
    assert found.layers == (Descriptor(OCI_LAYER, str(sha256_of(LAYER)), len(LAYER)),)


def test_what_is_no_image_is_left_beside(store: ContentStore) -> None:
    image, empty = manifest(CONFIG, LAYER), b"{}"
    signature = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.empty.v1+json", empty),
            "layers": [descriptor("application/vnd.example.signature", b"signed")],
            "subject": descriptor(OCI_MANIFEST, image),
        }
    ).encode()
    entries = [descriptor(OCI_MANIFEST, signature), descriptor(OCI_MANIFEST, image)]
    (found,) = read(store, files(layout(*entries, blobs=(signature, empty, b"signed", image, CONFIG, LAYER))))
    assert found.config == CONFIG


def test_the_wanted_platform_is_the_only_one_kept(store: ContentStore) -> None:
    other = CONFIG.replace(b"amd64", b"s390x")
    mine, foreign = manifest(CONFIG, LAYER), manifest(other, BIG)
    parts = [
        descriptor(OCI_MANIFEST, mine, platform={"os": "linux", "architecture": "amd64"}),
        descriptor(OCI_MANIFEST, foreign, platform={"os": "linux", "architecture": "s390x"}),
    ]
    top = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": parts}).encode()
    data = files(layout(descriptor(OCI_INDEX, top), blobs=(top, mine, foreign, CONFIG, other, LAYER, BIG)))
    (found,) = read(store, data, None)
    assert found.config == CONFIG
    assert found.target == Descriptor(OCI_INDEX, str(sha256_of(top)), len(top))
    assert store.has(sha256_of(other))
    (found,) = read(store, data, Platform("s390x", "linux"))
    assert (found.config, found.target) == (other, None)
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        read(store, data, Platform("riscv64", "linux"))
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        read(store, docker_archive([LAYER], "app:1", {}), Platform("riscv64", "linux"))


def test_links_in_a_circle_end(store: ContentStore) -> None:
    members = {"manifest.json": b'[{"Config": "a", "Layers": []}]'}
    with pytest.raises(InvalidArgument, match="'a' is missing"):
        read(store, files(members, {"a": "b", "b": "a"}))


def test_an_oci_layout_keeps_its_manifest_and_its_names(store: ContentStore) -> None:
    document = manifest(CONFIG, LAYER, kind=DOCKER_MANIFEST)
    entries = [
        descriptor(DOCKER_MANIFEST, document, annotations={"io.containerd.image.name": "docker.io/me/app:1"}),
        descriptor(DOCKER_MANIFEST, document, annotations={"org.opencontainers.image.ref.name": "me/app:2"}),
        descriptor(DOCKER_MANIFEST, document, annotations={"org.opencontainers.image.ref.name": "3"}),
    ]
    (found,) = read(store, files(layout(*entries, blobs=(document, CONFIG, LAYER))))
    assert (found.manifest, found.manifest_type, found.config) == (document, DOCKER_MANIFEST, CONFIG)
    assert found.references == ("docker.io/me/app:1", "docker.io/me/app:2")


def test_dockers_names_reach_the_images_of_its_layout(store: ContentStore) -> None:
    document = manifest(CONFIG, LAYER)
    members = layout(descriptor(OCI_MANIFEST, document), blobs=(document, CONFIG, LAYER))
    tags = [{"Config": f"blobs/sha256/{sha256_of(CONFIG).hex}", "RepoTags": ["app:1"], "Layers": []}]
    (found,) = read(store, files(members | {"manifest.json": json.dumps(tags).encode()}))
    assert (found.manifest, found.references) == (document, ("docker.io/library/app:1",))


def test_a_nested_index_gives_this_machines_image(store: ContentStore) -> None:
    other = CONFIG.replace(b"amd64", b"s390x")
    mine, foreign, attestation = manifest(CONFIG, LAYER), manifest(other, LAYER), manifest(b"{}")
    inner = {
        "schemaVersion": 2,
        "manifests": [
            descriptor(OCI_MANIFEST, foreign, platform={"os": "linux", "architecture": "s390x"}),
            descriptor(OCI_MANIFEST, mine, platform={"os": "linux", "architecture": "amd64"}),
            descriptor(OCI_MANIFEST, attestation, platform={"os": "unknown", "architecture": "unknown"}),
        ],
    }
    data = json.dumps(inner).encode()
    blobs = (data, mine, foreign, CONFIG, LAYER)
    (found,) = read(store, files(layout(descriptor(OCI_INDEX, data), blobs=blobs)))
    assert found.config == CONFIG


@pytest.mark.parametrize(
    "members",
    [
        {"manifest.json": b"{}"},
        {"manifest.json": b'[{"Config": "gone", "Layers": []}]'},
        {"manifest.json": b'[{"Config": "c", "Layers": ["../../etc/passwd"]}]', "c": CONFIG},
        {"manifest.json": b'[{"Config": "c", "Layers": []}]', "c": b"no config"},
        {"manifest.json": b'[{"Config": "c", "RepoTags": ["UPPER"], "Layers": []}]', "c": CONFIG},
        layout(),
        layout(descriptor(OCI_MANIFEST, manifest(CONFIG, LAYER)), blobs=(CONFIG, LAYER)),
        layout(descriptor(OCI_MANIFEST, manifest(CONFIG, LAYER)), blobs=(manifest(CONFIG, LAYER), CONFIG)),
    ],
    ids=["object", "no config", "outside", "bad config", "bad name", "empty", "no manifest", "no layer"],
)
def test_incomplete_archives_are_refused(store: ContentStore, members: dict[str, bytes]) -> None:
    with pytest.raises(EngineError):
        read(store, files(members))


def test_a_saved_archive_reads_back_the_same(store: ContentStore) -> None:
    config = Descriptor(OCI_CONFIG, str(store.put(CONFIG)), len(CONFIG))
    layer = Descriptor(OCI_LAYER_GZIP, str(store.put(LAYER)), len(LAYER))
    document = build_manifest(config, [layer])
    parts = Descriptor(OCI_MANIFEST, str(store.put(document)), len(document))
    tags = (parse_reference("app:1"), parse_reference("localhost:5000/app:2"))
    plan = plan_archive([Saved(parts, config, (layer,), tags)])
    data = b"".join(write_archive(plan, store))
    assert data == b"".join(write_archive(plan, store))
    (found,) = read(store, data)
    assert (found.config, found.manifest, found.layers) == (CONFIG, document, (layer,))
    assert found.references == ("docker.io/library/app:1", "localhost:5000/app:2")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        repositories = json.load(archive.extractfile("repositories"))  # type: ignore[arg-type]
        (entry,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert names[-4:] == ["index.json", "manifest.json", "oci-layout", "repositories"]
    assert entry["RepoTags"] == ["app:1", "localhost:5000/app:2"]
    assert repositories["app"] == {"1": layer.blob.hex}
    assert set(entry["Layers"]) <= set(names)
