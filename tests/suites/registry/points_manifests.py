"""end-7 and end-9, end-10: pushing manifests, and taking things away."""

import json

from tests.suites.registry.wire import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Repository,
    digest_of,
    expect,
    ok,
    point,
    some_bytes,
)


@point("end-7a", "MUST")
def manifest_by_tag_created(repo: Repository) -> None:
    """PUT by tag is 201 with a Location that can be pulled, and Docker-Content-Digest."""
    data = repo.manifest()
    answer = expect(repo.put("v1", data), 201)
    ok(answer.header("Docker-Content-Digest") == digest_of(data), "Docker-Content-Digest", answer)
    pulled = expect(repo("GET", answer.header("Location"), None, {"Accept": OCI_MANIFEST}), 200)
    ok(pulled.body == data, "other bytes")


def _by_digest(repo: Repository, algorithm: str) -> None:
    data = repo.manifest(algorithm)
    digest = digest_of(data, algorithm)
    answer = expect(repo.put(digest, data), 201)
    ok(answer.header("Docker-Content-Digest") == digest, "Docker-Content-Digest", answer)
    ok(answer.header("Location"), "no Location", answer)


@point("end-7a", "MUST")
def manifest_by_digest_created(repo: Repository) -> None:
    """PUT by digest is 201, and Docker-Content-Digest is the client's digest."""
    _by_digest(repo, "sha256")


@point("end-7a", "MUST")
def manifest_by_digest_created_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _by_digest(repo, "sha512")


@point("end-7a", "MUST")
def exact_bytes(repo: Repository) -> None:
    """The manifest is kept byte by byte: white space, order and unknown fields included."""
    document = json.loads(repo.manifest())
    data = json.dumps({"zzz": {"b": 1, "a": [None]}, **document}, indent=7).encode() + b"\n\n"
    repo.push(data, "v1")
    ok(repo.get("v1").body == data, "other bytes")


@point("end-7a", "MUST")
def manifest_wrong_digest(repo: Repository) -> None:
    """PUT by the digest of other bytes is refused."""
    data = repo.manifest()
    answer = expect(repo.put(digest_of(data), data + b" "), 400)
    ok(answer.codes == ["DIGEST_INVALID"], f"code {answer.codes}")


@point("end-7a", "MUST")
def tag_moves(repo: Repository) -> None:
    """PUT of another manifest under a tag moves the tag; the first one stays under its digest."""
    first, second = repo.manifest(), repo.manifest()
    digest = repo.push(first, "v1")
    repo.push(second, "v1")
    ok(repo.get("v1").body == second, "the tag did not move")
    expect(repo.get(digest), 200)


@point("end-7a", "MUST")
def manifest_again(repo: Repository) -> None:
    """The same manifest may be pushed again."""
    data = repo.manifest()
    repo.push(data, "v1")
    repo.push(data, "v1")


@point("end-7a", "SHOULD")
def content_type_parameters(repo: Repository) -> None:
    """Parameters of Content-Type are ignored."""
    data = repo.manifest()
    expect(repo.put("v1", data, f"{OCI_MANIFEST}; charset=utf-8"), 201)
    ok(repo.get("v1").header("Content-Type") == OCI_MANIFEST, "Content-Type with parameters")


@point("end-7a", "MUST")
def no_layers(repo: Repository) -> None:
    """The list of layers may be empty."""
    expect(repo.put("v1", repo.manifest(layers=0)), 201)


@point("end-7a", "MUST")
def missing_layer(repo: Repository) -> None:
    """A manifest that is refused because a blob is missing has the code MANIFEST_BLOB_UNKNOWN."""
    layer = {"mediaType": OCI_LAYER, "digest": digest_of(some_bytes()), "size": 512}
    document = {**json.loads(repo.manifest()), "layers": [layer]}
    answer = repo.put("v1", json.dumps(document).encode())
    if answer.status != 201:
        ok("MANIFEST_BLOB_UNKNOWN" in answer.codes, f"code {answer.codes}", answer)


@point("end-7a", "MUST")
def missing_entry_of_an_index(repo: Repository) -> None:
    """An index that is refused because a manifest is missing has the code MANIFEST_BLOB_UNKNOWN."""
    answer = repo.put("v1", repo.index([repo.manifest()]), OCI_INDEX)
    if answer.status != 201:
        ok("MANIFEST_BLOB_UNKNOWN" in answer.codes, f"code {answer.codes}", answer)


def _index(repo: Repository, algorithm: str) -> None:
    manifests = [repo.manifest(algorithm) for _ in range(2)]
    for data in manifests:
        repo.push(data, algorithm=algorithm)
    index = repo.index(manifests, algorithm)
    digest = repo.push(index, kind=OCI_INDEX, algorithm=algorithm)
    ok(expect(repo.get(digest), 200).body == index, "other bytes")


@point("end-7a", "MUST")
def index(repo: Repository) -> None:
    """An index of two manifests."""
    _index(repo, "sha256")


@point("end-7a", "MUST")
def index_sha512(repo: Repository) -> None:
    """The same with sha512 digests."""
    _index(repo, "sha512")


@point("end-7a", "MUST")
def nested_index(repo: Repository) -> None:
    """An index of an index."""
    data = repo.manifest()
    repo.push(data)
    inner = repo.index([data])
    repo.push(inner, kind=OCI_INDEX)
    expect(repo.put("outer", repo.index([inner]), OCI_INDEX), 201)


@point("end-7a", "MUST")
def empty_index(repo: Repository) -> None:
    """An index of nothing."""
    expect(repo.put("none", repo.index([]), OCI_INDEX), 201)


@point("end-7a", "MUST")
def artifact(repo: Repository) -> None:
    """A manifest with an artifactType and a config that is no image's."""
    expect(repo.put("v1", repo.artifact("application/vnd.example.thing.v1")), 201)


@point("end-7a", "MUST")
def data_fields(repo: Repository) -> None:
    """Descriptors may carry their content in `data`."""
    document = json.loads(repo.manifest())
    document["config"] |= {"data": "e30="}
    expect(repo.put("v1", json.dumps(document).encode()), 201)


@point("end-7a", "MUST")
def foreign_layer(repo: Repository) -> None:
    """A non-distributable layer with a URL need not be here."""
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    layer = {
        "mediaType": kind,
        "digest": digest_of(some_bytes()),
        "size": 5,
        "urls": ["https://example.com/x"],
    }
    document = json.loads(repo.manifest())
    document["layers"].append(layer)
    expect(repo.put("v1", json.dumps(document).encode()), 201)


@point("end-7a", "SHOULD")
def four_megabytes(repo: Repository) -> None:
    """Manifests of nearly 4 MB are taken."""
    document = {**json.loads(repo.manifest()), "annotations": {f"key{n}": "A" * 10_000 for n in range(390)}}
    expect(repo.put("large", json.dumps(document).encode()), 201)


@point("end-7a", "SHOULD")
def too_large(repo: Repository) -> None:
    """A manifest beyond the registry's limit is 413."""
    document = {**json.loads(repo.manifest()), "annotations": {f"key{n}": "A" * 10_000 for n in range(600)}}
    expect(repo.put("huge", json.dumps(document).encode()), 413)


@point("end-7a", "MUST")
def no_manifest(repo: Repository) -> None:
    """What is no manifest is 400 MANIFEST_INVALID."""
    for data in (b"", b"no JSON", b"[]", b'{"schemaVersion": 2}', b'{"schemaVersion": 7, "manifests": []}'):
        answer = expect(repo.put("bad", data), 400)
        ok(answer.codes == ["MANIFEST_INVALID"], f"code {answer.codes} for {data[:30]!r}")


@point("end-7a", "MUST")
def two_media_types(repo: Repository) -> None:
    """A document that says another mediaType than Content-Type is refused (CVE-2021-41190)."""
    document = {**json.loads(repo.manifest()), "mediaType": OCI_INDEX}
    expect(repo.put("both", json.dumps(document).encode()), 400)


@point("end-7b", "MUST")
def tags_with_digest(repo: Repository) -> None:
    """PUT by digest with tag parameters, if supported, says OCI-Tag for each and makes them all."""
    data = repo.manifest()
    tags = [f"v{number}" for number in range(10)]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = repo(
        "PUT", f"/v2/{repo.name}/manifests/{digest_of(data)}?{query}", data, {"Content-Type": OCI_MANIFEST}
    )
    expect(answer, 201)
    made = [tag.strip() for line in answer.headers.get_all("OCI-Tag", []) for tag in line.split(",")]
    ok(made == tags, f"OCI-Tag {made}")
    ok(repo.get("v9").body == data, "the tag is not there")


@point("end-7b", "MUST")
def tags_with_sha512_digest(repo: Repository) -> None:
    """Tags of a manifest with a sha512 digest show that digest."""
    data = repo.manifest("sha512")
    digest = digest_of(data, "sha512")
    expect(repo.put(digest, data, tag="long"), 201)
    ok(repo.get("long").header("Docker-Content-Digest") == digest, "another digest")


@point("end-9", "MUST")
def tag_deleted(repo: Repository) -> None:
    """DELETE of a tag is 202; then the tag is 404, and the manifest stays under its digest."""
    data = repo.manifest()
    digest = repo.push(data, "v1")
    expect(repo("DELETE", "manifests/v1"), 202)
    expect(repo.get("v1"), 404)
    expect(repo.get(digest), 200)


@point("end-9", "MUST")
def manifest_deleted(repo: Repository) -> None:
    """DELETE by digest is 202; then the digest and every tag that pointed to it are 404."""
    data = repo.manifest()
    digest = repo.push(data, "v1")
    repo.push(data, "v2")
    expect(repo("DELETE", f"manifests/{digest}"), 202)
    for reference in (digest, "v1", "v2"):
        expect(repo.get(reference), 404)


@point("end-9", "MUST")
def manifest_deleted_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    digest = repo.push(repo.manifest("sha512"), algorithm="sha512")
    expect(repo("DELETE", f"manifests/{digest}"), 202)
    expect(repo.get(digest), 404)


@point("end-9", "MUST")
def absent_manifest_deleted(repo: Repository) -> None:
    """DELETE of a manifest or tag that is not there is 404."""
    repo.tagged("v1")
    expect(repo("DELETE", f"manifests/{digest_of(some_bytes())}"), 404)
    expect(repo("DELETE", "manifests/v2"), 404)


@point("end-9", "MUST")
def absent_repository_deleted(repo: Repository) -> None:
    """DELETE in a repository that is not there is 404."""
    expect(repo("DELETE", f"manifests/{digest_of(some_bytes())}"), 404)


@point("end-9", "MUST")
def deleted_manifest_pushed_again(repo: Repository) -> None:
    """What was deleted can be pushed again."""
    data = repo.manifest()
    digest = repo.push(data, "v1")
    expect(repo("DELETE", f"manifests/{digest}"), 202)
    repo.push(data, "v1")
    expect(repo.get("v1"), 200)


@point("end-10", "MUST")
def blob_deleted(repo: Repository) -> None:
    """DELETE of a blob is 202; then it is 404."""
    digest = repo.push_blob(some_bytes())
    expect(repo("DELETE", f"blobs/{digest}"), 202)
    expect(repo("GET", f"blobs/{digest}"), 404)
    expect(repo("HEAD", f"blobs/{digest}"), 404)


@point("end-10", "MUST")
def blob_deleted_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    digest = repo.push_blob(some_bytes(), "sha512")
    expect(repo("DELETE", f"blobs/{digest}"), 202)
    expect(repo("GET", f"blobs/{digest}"), 404)


@point("end-10", "MUST")
def absent_blob_deleted(repo: Repository) -> None:
    """DELETE of a blob that is not there is 404."""
    repo.push_blob(some_bytes())
    expect(repo("DELETE", f"blobs/{digest_of(some_bytes())}"), 404)


@point("end-10", "MUST")
def blob_deleted_in_one_repository(repo: Repository) -> None:
    """DELETE of a blob leaves it to the other repositories."""
    data = some_bytes()
    other = Repository(repo.registry)
    digest = repo.push_blob(data)
    other.push_blob(data)
    expect(repo("DELETE", f"blobs/{digest}"), 202)
    ok(expect(other("GET", f"blobs/{digest}"), 200).body == data, "other bytes")
    repo.push_blob(data)
    expect(repo("GET", f"blobs/{digest}"), 200)
