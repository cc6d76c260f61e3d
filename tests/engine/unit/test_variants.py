"""Indexes with several platforms: what is behind them, what is here, and what a push or a removal does with it."""

import json
from typing import Any

import pytest

from longshore.core.images.platforms import plan_drop
from longshore.core.images.shipment import names_to_push, plan_shipment, pushed_messages, sources_for
from longshore.errors import Conflict, InvalidArgument, NotFound
from longshore.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.reference import parse_reference
from longshore.oci.variants import attestations_of, choose, closure, variants, walk

AMD64, ARM64 = Platform("amd64", "linux"), Platform("arm64", "linux", "v8")


class Content:
    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    def put(self, kind: str, data: Any, **more: Any) -> dict[str, Any]:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.blobs[sha256_of(raw)] = raw
        return {"mediaType": kind, "digest": str(sha256_of(raw)), "size": len(raw), **more}

    def has(self, digest: Digest) -> bool:
        return digest in self.blobs

    def read(self, digest: Digest, limit: int) -> bytes:
        if digest not in self.blobs:
            raise NotFound("no such blob")
        return self.blobs[digest]

    def forget(self, part: dict[str, Any]) -> None:
        del self.blobs[Digest("sha256", part["digest"][7:])]

    def image(self, architecture: str, layer: bytes, **more: Any) -> dict[str, Any]:
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [str(sha256_of(layer))]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.put(OCI_CONFIG, config),
            "layers": [self.put(OCI_LAYER_GZIP, layer)],
        }
        return self.put(OCI_MANIFEST, manifest, **more)


def index(content: Content) -> tuple[Descriptor, list[dict[str, Any]]]:
    """amd64, arm64, and an attestation of the first."""
    amd64 = content.image("amd64", b"one", platform={"architecture": "amd64", "os": "linux"})
    arm64 = content.image("arm64", b"two", platform={"architecture": "arm64", "os": "linux", "variant": "v8"})
    statement = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": content.put(OCI_CONFIG, b"{}"),
        "layers": [
            content.put(
                "application/vnd.in-toto+json",
                b"{ }",
                annotations={"in-toto.io/predicate-type": "https://slsa.dev"},
            )
        ],
    }
    attestation = content.put(
        OCI_MANIFEST,
        statement,
        platform={"architecture": "unknown", "os": "unknown"},
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": amd64["digest"],
        },
    )
    parts = [amd64, arm64, attestation]
    top = content.put(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": parts})
    return Descriptor(top["mediaType"], top["digest"], top["size"]), parts


def test_all_that_an_index_names_is_found() -> None:
    content = Content()
    top, parts = index(content)
    found = variants(top, content)
    assert [(one.kind, str(one.platform), one.available) for one in found] == [
        ("image", "linux/amd64", True),
        ("image", "linux/arm64/v8", True),
        ("attestation", "unknown/unknown", True),
    ]
    assert found[2].attests == parts[0]["digest"]
    assert closure(top, content) == set(content.blobs)
    ((kind, statement),) = attestations_of(found, found[0])
    assert (kind, statement.blob) == ("https://slsa.dev", sha256_of(b"{ }"))
    assert attestations_of(found, found[1]) == []
    assert choose(found, ARM64, "app").descriptor.digest == parts[1]["digest"]
    with pytest.raises(
        NotFound, match=r"app was found but does not provide the specified platform \(linux/s390x\)"
    ):
        choose(found, Platform("s390x", "linux"), "app")


def test_what_was_given_up_is_needed_no_longer() -> None:
    content = Content()
    top, parts = index(content)
    kept = closure(top, content, {parts[1]["digest"]})
    gone = {sha256_of(b"two"), Digest("sha256", parts[1]["digest"][7:])}
    assert not gone & kept
    assert len(content.blobs) - len(kept) == 3  # manifest, config, layer


def test_a_platform_that_is_not_here_is_not_chosen() -> None:
    content = Content()
    top, parts = index(content)
    content.forget(parts[1])
    found = variants(top, content)
    assert [one.available for one in found] == [True, False, True]
    with pytest.raises(NotFound):
        choose(found, ARM64, "app")


def test_an_index_of_indexes_ends() -> None:
    """Fails when each mention of an index is followed: ten thousand by ten thousand of them."""
    content = Content()
    part = content.image("amd64", b"one")
    for _ in range(6):
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [part] * 5000}
        part = content.put(OCI_INDEX, document)
    top = Descriptor(part["mediaType"], part["digest"], part["size"])
    assert len(list(walk(top, content))) == 9
    assert len(variants(top, content)) == 1


def none(_digest: Digest) -> tuple[str, ...]:
    return ()


def test_a_push_sends_the_index_when_all_of_it_is_here_or_there() -> None:
    content = Content()
    top, parts = index(content)
    whole = plan_shipment(top, variants(top, content), variants(top, content)[0], (), none)
    assert [one.digest for one in whole.cargo.manifests] == [*(part["digest"] for part in parts), top.digest]
    assert {blob.descriptor.digest for blob in whole.cargo.blobs} == {
        str(digest) for digest in content.blobs
    } - {one.digest for one in whole.cargo.manifests}
    content.forget(parts[1])
    found = variants(top, content)
    there = plan_shipment(top, found, found[0], {parts[1]["digest"]}, none)
    assert there.target == top
    assert len(there.cargo.manifests) == 3
    alone = plan_shipment(top, found, found[0], (), none)
    assert (alone.target.digest, alone.instead_of) == (parts[0]["digest"], top)
    note, aux, line, last = pushed_messages("1", alone)
    assert "only the available single-platform image was pushed" in str(note["status"])
    assert aux["aux"]["selectedManifest"]["digest"] == parts[0]["digest"]  # type: ignore[index]
    assert line["status"] == f"1: digest: {parts[0]['digest']} size: {parts[0]['size']}"
    assert last["aux"] == {"Tag": "1", "Digest": parts[0]["digest"], "Size": parts[0]["size"]}


def test_a_push_sends_the_manifest_that_the_name_stands_for() -> None:
    """The image may have come once more, with a manifest of its own: the name stays with the first one."""
    content = Content()
    top, _ = index(content)
    named, other = variants(top, content)[:2]
    sent = plan_shipment(named.descriptor, [named], other, (), none)
    assert (sent.target, sent.cargo.manifests) == (named.descriptor, (named.descriptor,))


NAMES = ["docker.io/library/app:1", "docker.io/library/app:2", "localhost:5000/app:1", f"docker.io/library/app@sha256:{'0' * 64}"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tag", "found"),
    [
        ("app", "1", ["app:1"]),
        ("app:2", "", ["app:2"]),
        ("app", "", ["app:1", "app:2"]),
        ("localhost:5000/app", "1", ["localhost:5000/app:1"]),
    ],
)
def test_the_names_that_a_push_means(name: str, tag: str, found: list[str]) -> None:
    assert [one.familiar for one in names_to_push(name, tag, NAMES)] == found


def test_names_that_cannot_be_pushed() -> None:
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: app:3"):
        names_to_push("app", "3", NAMES)
    with pytest.raises(InvalidArgument, match="cannot push a digest reference"):
        names_to_push(f"app@sha256:{'0' * 64}", "", NAMES)


def test_blobs_come_from_the_nearest_repository_of_the_same_registry() -> None:
    digest = f"@sha256:{'0' * 64}"
    names = [f"r.io/other/x{digest}", f"r.io/team/base{digest}", f"r.io/team/app{digest}", f"q.io/team/b{digest}", "r.io/team/tagged:1"]  # fmt: skip
    found = sources_for(parse_reference("r.io/team/app:1"), names, lambda _name: [sha256_of(b"layer")])
    assert found(sha256_of(b"layer")) == ("team/base", "other/x")
    assert found(sha256_of(b"unknown")) == ()


def test_the_platform_that_runs_here_is_not_given_up() -> None:
    content = Content()
    top, parts = index(content)
    found = variants(top, content)
    runs = found[0].image_id
    assert plan_drop(found, [ARM64], "app", runs) == [parts[1]["digest"]]
    with pytest.raises(Conflict, match="cannot be forced"):
        plan_drop(found, [AMD64], "app", runs)
    assert plan_drop(found, [AMD64], "app", sha256_of(b"")) == [parts[0]["digest"], parts[2]["digest"]]
