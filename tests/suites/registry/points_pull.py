"""end-1, end-2, end-3: is it a registry, pulling, looking."""

import json

from tests.suites.registry.wire import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Repository,
    descriptor,
    digest_of,
    expect,
    ok,
    point,
    some_bytes,
)

ABSENT = digest_of(b"nobody has pushed this")
ABSENT_512 = digest_of(b"nobody has pushed this", "sha512")


@point("end-1", "MUST")
def base_answers(repo: Repository) -> None:
    """GET /v2/ is answered with 200."""
    expect(repo("GET", "/v2/"), 200)


def _pulls_blob(repo: Repository, algorithm: str) -> None:
    data = some_bytes(3000)
    digest = repo.push_blob(data, algorithm)
    answer = expect(repo("GET", f"blobs/{digest}"), 200)
    ok(answer.body == data, "other bytes than were pushed")


@point("end-2", "MUST")
def blob_pulled(repo: Repository) -> None:
    """GET of a blob brings its bytes with 200."""
    _pulls_blob(repo, "sha256")


@point("end-2", "MUST")
def blob_pulled_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _pulls_blob(repo, "sha512")


@point("end-2", "MUST")
def blob_digest_header(repo: Repository) -> None:
    """GET of a blob has Docker-Content-Digest, which matches the body."""
    digest = repo.push_blob(some_bytes())
    answer = repo("GET", f"blobs/{digest}")
    ok(answer.header("Docker-Content-Digest") == digest, "no such header", answer)


@point("end-2", "MUST")
def empty_blob_pulled(repo: Repository) -> None:
    """A blob of no bytes is a blob."""
    digest = repo.push_blob(b"")
    answer = expect(repo("GET", f"blobs/{digest}"), 200)
    ok(answer.body == b"" and answer.header("Content-Length") == "0", "not empty", answer)


@point("end-2", "MUST")
def absent_blob(repo: Repository) -> None:
    """GET of a blob that is not there is 404."""
    repo.push_blob(some_bytes())
    answer = expect(repo("GET", f"blobs/{ABSENT}"), 404)
    ok(answer.codes == ["BLOB_UNKNOWN"], f"code {answer.codes}")


@point("end-2", "MUST")
def absent_blob_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    repo.push_blob(some_bytes())
    expect(repo("GET", f"blobs/{ABSENT_512}"), 404)


@point("end-2", "MUST")
def blob_of_another_repository(repo: Repository) -> None:
    """A blob that only another repository has is 404."""
    digest = repo.push_blob(some_bytes())
    expect(Repository(repo.registry)("GET", f"blobs/{digest}"), 404)


@point("end-2", "MUST")
def blob_head(repo: Repository) -> None:
    """HEAD of a blob is 200 with Docker-Content-Digest and Content-Length, and has no body."""
    digest = repo.push_blob(some_bytes(777))
    answer = expect(repo("HEAD", f"blobs/{digest}"), 200)
    ok(answer.header("Content-Length") == "777", f"Content-Length {answer.header('Content-Length')}")
    ok(answer.header("Docker-Content-Digest") == digest and not answer.body, "digest or body")


@point("end-2", "MUST")
def absent_blob_head(repo: Repository) -> None:
    """HEAD of a blob that is not there is 404."""
    expect(repo("HEAD", f"blobs/{ABSENT}"), 404)


def _range(repo: Repository, header: str, first: int, last: int) -> None:
    data = some_bytes(2048)
    digest = repo.push_blob(data)
    answer = expect(repo("GET", f"blobs/{digest}", None, {"Range": header}), 206)
    ok(answer.body == data[first : last + 1], f"{len(answer.body)} other bytes")
    shown = answer.header("Content-Range")
    ok(shown in (f"bytes {first}-{last}/2048", f"bytes {first}-{last}/*"), f"Content-Range {shown!r}")
    ok(answer.header("Content-Length") == str(last - first + 1), "Content-Length")


@point("end-2", "SHOULD")
def range_inside(repo: Repository) -> None:
    """Range: bytes=500-1499 brings these bytes with 206 and Content-Range (RFC 9110)."""
    _range(repo, "bytes=500-1499", 500, 1499)


@point("end-2", "SHOULD")
def range_to_the_end(repo: Repository) -> None:
    """Range: bytes=500- brings the rest."""
    _range(repo, "bytes=500-", 500, 2047)


@point("end-2", "SHOULD")
def range_of_the_end(repo: Repository) -> None:
    """Range: bytes=-500 brings the last 500 bytes."""
    _range(repo, "bytes=-500", 1548, 2047)


@point("end-2", "SHOULD")
def range_beyond_the_end(repo: Repository) -> None:
    """Range: bytes=2000-5000 is cut at the end."""
    _range(repo, "bytes=2000-5000", 2000, 2047)


@point("end-2", "SHOULD")
def range_of_one_byte(repo: Repository) -> None:
    """Range: bytes=0-0 brings the first byte."""
    _range(repo, "bytes=0-0", 0, 0)


@point("end-2", "SHOULD")
def range_behind_the_end(repo: Repository) -> None:
    """A range that holds no byte of the blob is 416."""
    digest = repo.push_blob(some_bytes(100))
    expect(repo("GET", f"blobs/{digest}", None, {"Range": "bytes=5000-6000"}), 416)


def _pulls_manifest(repo: Repository, algorithm: str) -> None:
    data = repo.manifest(algorithm)
    digest = repo.push(data, algorithm=algorithm)
    answer = expect(repo.get(digest), 200)
    ok(answer.body == data, "other bytes than were pushed")
    ok(answer.header("Docker-Content-Digest") == digest, "Docker-Content-Digest", answer)


@point("end-3", "MUST")
def manifest_by_digest(repo: Repository) -> None:
    """GET by digest brings exactly the bytes that were pushed, with 200 and Docker-Content-Digest."""
    _pulls_manifest(repo, "sha256")


@point("end-3", "MUST")
def manifest_by_digest_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _pulls_manifest(repo, "sha512")


@point("end-3", "MUST")
def manifest_by_tag(repo: Repository) -> None:
    """GET by tag brings the manifest with 200 and Docker-Content-Digest."""
    data = repo.manifest()
    digest = repo.push(data, "v1")
    answer = expect(repo.get("v1"), 200)
    ok(answer.body == data and answer.header("Docker-Content-Digest") == digest, "bytes or digest")


def _kept_type(repo: Repository, data: bytes, kind: str) -> None:
    repo.push(data, "kind", kind)
    answer = expect(repo.get("kind"), 200)
    ok(answer.header("Content-Type") == kind, f"Content-Type {answer.header('Content-Type')!r}")


@point("end-3", "SHOULD")
def manifest_type_kept(repo: Repository) -> None:
    """Content-Type of an OCI manifest is the pushed one, without parameters."""
    _kept_type(repo, repo.manifest(), OCI_MANIFEST)


@point("end-3", "SHOULD")
def index_type_kept(repo: Repository) -> None:
    """Content-Type of an OCI index is the pushed one."""
    data = repo.manifest()
    repo.push(data)
    _kept_type(repo, repo.index([data]), OCI_INDEX)


def _docker_manifest(repo: Repository) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": repo.blob(b'{"os":"linux"}', DOCKER_CONFIG),
        "layers": [repo.blob(some_bytes(), DOCKER_LAYER)],
    }
    return json.dumps(document).encode()


@point("end-3", "SHOULD")
def docker_type_kept(repo: Repository) -> None:
    """Content-Type of a Docker schema 2 manifest is the pushed one."""
    _kept_type(repo, _docker_manifest(repo), DOCKER_MANIFEST)


@point("end-3", "SHOULD")
def docker_list_type_kept(repo: Repository) -> None:
    """Content-Type of a Docker manifest list is the pushed one."""
    data = _docker_manifest(repo)
    repo.push(data, kind=DOCKER_MANIFEST)
    entry = {**descriptor(data), "platform": {"os": "linux", "architecture": "amd64"}}
    document = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]}
    _kept_type(repo, json.dumps(document).encode(), DOCKER_LIST)


@point("end-3", "MUST")
def manifest_head(repo: Repository) -> None:
    """HEAD by tag and by digest is 200 with Docker-Content-Digest and Content-Length."""
    data = repo.manifest()
    digest = repo.push(data, "v1")
    for reference in ("v1", digest):
        answer = expect(repo.get(reference, "HEAD"), 200)
        ok(answer.header("Content-Length") == str(len(data)), "Content-Length", answer)
        ok(answer.header("Docker-Content-Digest") == digest and not answer.body, "digest or body", answer)


@point("end-3", "MUST")
def absent_tag(repo: Repository) -> None:
    """GET of a tag that is not there is 404."""
    repo.tagged("v1")
    answer = expect(repo.get("v2"), 404)
    ok(answer.codes == ["MANIFEST_UNKNOWN"], f"code {answer.codes}")


@point("end-3", "MUST")
def absent_manifest(repo: Repository) -> None:
    """GET and HEAD of a manifest that is not there are 404."""
    repo.tagged("v1")
    expect(repo.get(ABSENT), 404)
    expect(repo.get(ABSENT, "HEAD"), 404)


@point("end-3", "MUST")
def absent_repository(repo: Repository) -> None:
    """Pulling from a repository that is not there is 404."""
    expect(repo.get("latest"), 404)


@point("end-3", "MUST")
def names_of_all_forms(repo: Repository) -> None:
    """Repositories may have every name of the grammar: dots, one or two underscores, dashes, many components."""
    for name in ("a", "a.b", "a_b", "a__b", "a--b", "a/b/c/d/e/f", "0/1"):
        other = Repository(repo.registry, f"{repo.name}/{name}")
        other.tagged("t")
        expect(other.get("t"), 200)


@point("end-3", "MUST")
def tags_of_all_forms(repo: Repository) -> None:
    """Tags may have every name of the grammar, up to 128 characters."""
    data = repo.manifest()
    for tag in ("a", "_", "A.b-C_1", "0", "x" * 128):
        repo.push(data, tag)
        expect(repo.get(tag), 200)


@point("end-3", "MUST")
def tag_too_long(repo: Repository) -> None:
    """A tag of 129 characters is none: it cannot be pushed."""
    answer = repo.put("x" * 129, repo.manifest())
    ok(400 <= answer.status < 500, "accepted", answer)
