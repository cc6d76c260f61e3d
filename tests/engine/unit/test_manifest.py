import json

import pytest

from longshore.errors import InvalidArgument, NotFound, Unsupported
from longshore.oci.descriptor import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    host_platform,
    parse_platform,
)
from longshore.oci.manifest import MAX_LAYERS, MAX_MANIFEST, Index, Manifest, build_manifest, parse_manifest

CONFIG = {"mediaType": OCI_CONFIG, "digest": "sha256:" + "c" * 64, "size": 10}
LAYER = {"mediaType": OCI_LAYER_GZIP, "digest": "sha256:" + "1" * 64, "size": 20}


def manifest(**changes: object) -> bytes:
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]} | changes
    return json.dumps({k: v for k, v in value.items() if v is not None}).encode()


def test_a_manifest_is_decoded() -> None:
    parsed = parse_manifest(manifest(), OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert parsed.layers[0].size == 20
    assert str(parsed.config.blob) == CONFIG["digest"]


def test_without_media_types_the_shape_decides() -> None:
    assert isinstance(parse_manifest(manifest(mediaType=None)), Manifest)
    assert isinstance(parse_manifest(b'{"schemaVersion": 2, "manifests": []}'), Index)


def test_unknown_fields_are_ignored() -> None:
    assert isinstance(parse_manifest(manifest(**{"x-vendor": [1, {"a": None}]})), Manifest)


@pytest.mark.parametrize(
    ("data", "media_type", "error", "words"),
    [
        (b"", "", InvalidArgument, "invalid manifest"),
        (b"[]", "", InvalidArgument, "invalid manifest"),
        (b"{" * 100_000, "", InvalidArgument, "invalid manifest"),
        (b'"\xff"', "", InvalidArgument, "invalid manifest"),
        (b" " * (MAX_MANIFEST + 1), "", InvalidArgument, "manifest too large"),
        (manifest(layers=[LAYER] * (MAX_LAYERS + 1)), "", InvalidArgument, "max depth exceeded"),
        (manifest(layers=[LAYER] * 10_000), "", InvalidArgument, "max depth exceeded"),
        (manifest(schemaVersion=1), "", Unsupported, "schema 1"),
        (manifest(schemaVersion=3), "", InvalidArgument, "schemaVersion 3"),
        (manifest(manifests=[]), "", InvalidArgument, "both manifests and layers"),
        (manifest(), DOCKER_MANIFEST, InvalidArgument, "announced as"),
        (manifest(mediaType="text/plain"), "", Unsupported, "unsupported manifest media type"),
        (manifest(layers=[LAYER | {"mediaType": "image/png"}]), "", Unsupported, "unsupported layer"),
        (manifest(layers=[LAYER | {"size": -1}]), "", InvalidArgument, "invalid manifest"),
        (manifest(layers=[LAYER | {"digest": "sha256:../../x"}]), "", InvalidArgument, "invalid manifest"),
        (manifest(config=None), "", InvalidArgument, "invalid manifest"),
    ],
)
def test_bad_manifests_are_refused(data: bytes, media_type: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_manifest(data, media_type)


def entry(number: int, platform: Platform | None) -> Descriptor:
    return Descriptor(OCI_MANIFEST, f"sha256:{number:064x}", 1, platform=platform)


AMD64, ARM7 = Platform("amd64", "linux"), Platform("arm", "linux", "v7")
INDEX = Index(
    2,
    [
        entry(1, Platform("arm", "linux", "v6")),
        entry(2, ARM7),
        entry(3, AMD64),
        entry(4, Platform("arm64", "linux", "v8")),
        entry(5, Platform("unknown", "unknown")),
        entry(6, Platform("amd64", "windows")),
    ],
)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("linux/amd64", 3), ("linux/arm/v7", 2), ("linux/arm/v6", 1), ("linux/arm64", 4), ("windows/amd64", 6)],
)
def test_the_platform_chooses_the_manifest(wanted: str, number: int) -> None:
    assert INDEX.choose(parse_platform(wanted)).digest == f"sha256:{number:064x}"


def test_an_older_arm_never_gets_newer_code() -> None:
    with pytest.raises(NotFound):
        Index(2, [entry(2, ARM7)]).choose(parse_platform("linux/arm/v6"))


def test_a_missing_platform_names_what_there_is() -> None:
    with pytest.raises(
        NotFound, match=r"linux/s390x in the manifest list.*it offers linux/amd64, linux/arm/v6"
    ):
        INDEX.choose(parse_platform("linux/s390x"))


def test_a_lone_entry_without_platform_fits_everywhere() -> None:
    assert Index(2, [entry(9, None)]).choose(AMD64).digest.endswith("9")


def test_platform_texts() -> None:
    assert parse_platform("") == host_platform()
    assert parse_platform("linux/x86_64") == AMD64
    for bad in ("a/b/c/d", "linux//v7", "/"):
        with pytest.raises(InvalidArgument):
            parse_platform(bad)


def test_a_manifest_made_here_reads_back_and_is_stable() -> None:
    config = Descriptor("whatever", str(CONFIG["digest"]), 10)
    layers = [Descriptor(OCI_LAYER_GZIP, str(LAYER["digest"]), 20)]
    data = build_manifest(config, layers)
    assert data == build_manifest(config, layers)
    parsed = parse_manifest(data, OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert parsed.layers == layers
    assert parsed.config.media_type == OCI_CONFIG
    with pytest.raises(InvalidArgument, match="announced as"):
        parse_manifest(data, OCI_INDEX)
