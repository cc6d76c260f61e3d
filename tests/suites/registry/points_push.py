"""end-4, end-5, end-6, end-11, end-13, end-14: pushing blobs."""

import re

from tests.suites.registry.wire import (
    OCTETS,
    Repository,
    digest_of,
    expect,
    ok,
    point,
    some_bytes,
)

CHUNK = 1024


def _pulled(repo: Repository, location: str, data: bytes) -> None:
    answer = expect(repo("GET", location), 200)
    ok(answer.body == data, "Location of the blob brings other bytes")


@point("end-4a", "MUST")
def upload_starts(repo: Repository) -> None:
    """POST is answered with 202 and a Location, which holds a UUID."""
    location = repo.start()
    ok(re.search(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", location), location)


@point("end-4a", "MUST")
def uploads_are_distinct(repo: Repository) -> None:
    """Each session has an id of its own."""
    ok(repo.start() != repo.start(), "two sessions in one place")


def _put(repo: Repository, algorithm: str) -> None:
    data = some_bytes()
    digest = digest_of(data, algorithm)
    answer = expect(repo("PUT", repo.start(), data, {"Content-Type": OCTETS}, digest=digest), 201)
    _pulled(repo, answer.header("Location"), data)


@point("end-6", "MUST")
def post_then_put(repo: Repository) -> None:
    """POST, then PUT with the bytes and the digest: 201 and the blob's Location, which can be pulled."""
    _put(repo, "sha256")


@point("end-6", "MUST")
def post_then_put_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _put(repo, "sha512")


@point("end-4c", "SHOULD")
def announced_algorithm(repo: Repository) -> None:
    """POST with digest-algorithm=sha512, then chunks and a sha512 digest."""
    data = some_bytes()
    location = repo.start(**{"digest-algorithm": "sha512"})
    answer = expect(repo("PATCH", location, data, {"Content-Type": OCTETS}), 202)
    expect(repo("PUT", answer.header("Location"), b"", digest=digest_of(data, "sha512")), 201)


@point("end-4c", "SHOULD")
def unknown_announced_algorithm(repo: Repository) -> None:
    """POST with an algorithm that nobody knows is 400, or starts a session that takes another digest."""
    expect(repo("POST", "blobs/uploads/", b"", **{"digest-algorithm": "rot13"}), 400, 202)


def _post(repo: Repository, algorithm: str) -> None:
    data = some_bytes()
    digest = digest_of(data, algorithm)
    answer = expect(repo("POST", "blobs/uploads/", data, {"Content-Type": OCTETS}, digest=digest), 201, 202)
    if answer.status == 202:
        answer = expect(repo("PUT", answer.header("Location"), data, digest=digest), 201)
    _pulled(repo, answer.header("Location"), data)


@point("end-4b", "MUST")
def single_post(repo: Repository) -> None:
    """POST with bytes and digest: 201 and the blob's Location, or 202 and a session."""
    _post(repo, "sha256")


@point("end-4b", "MUST")
def single_post_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _post(repo, "sha512")


@point("end-4b", "MAY")
def single_post_at_once(repo: Repository) -> None:
    """POST with bytes and digest needs no second request."""
    data = some_bytes()
    expect(repo("POST", "blobs/uploads/", data, {"Content-Type": OCTETS}, digest=digest_of(data)), 201)


def _wrong_digest(repo: Repository, algorithm: str) -> None:
    digest = digest_of(b"other bytes", algorithm)
    answer = expect(repo("PUT", repo.start(), some_bytes(), {"Content-Type": OCTETS}, digest=digest), 400)
    ok(answer.codes == ["DIGEST_INVALID"], f"code {answer.codes}")
    expect(repo("HEAD", f"blobs/{digest}"), 404)


@point("end-6", "SHOULD")
def wrong_digest(repo: Repository) -> None:
    """PUT with the digest of other bytes is 400 DIGEST_INVALID, and there is no such blob."""
    _wrong_digest(repo, "sha256")


@point("end-6", "SHOULD")
def wrong_digest_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _wrong_digest(repo, "sha512")


@point("end-4b", "SHOULD")
def wrong_digest_post(repo: Repository) -> None:
    """POST of bytes with the digest of others is 400, or starts a session."""
    digest = digest_of(b"other bytes")
    answer = repo("POST", "blobs/uploads/", some_bytes(), {"Content-Type": OCTETS}, digest=digest)
    expect(answer, 400, 202)
    expect(repo("HEAD", f"blobs/{digest}"), 404)


@point("end-6", "SHOULD")
def bad_digest_syntax(repo: Repository) -> None:
    """PUT with what is no digest is 400."""
    for digest in (
        "sha256:xyz",
        "sha256",
        "sha256:" + "a" * 63,
        "SHA256:" + "a" * 64,
        "md5:" + "a" * 32,
        "../x",
    ):
        expect(repo("PUT", repo.start(), b"x", {"Content-Type": OCTETS}, digest=digest), 400)


@point("end-6", "SHOULD")
def missing_digest(repo: Repository) -> None:
    """PUT without a digest is 400."""
    expect(repo("PUT", repo.start(), b"x", {"Content-Type": OCTETS}), 400)


def _send_chunk(repo: Repository, location: str, data: bytes, first: int, last: int) -> str:
    """PATCH one chunk of the data; the next address."""
    headers = {"Content-Type": OCTETS, "Content-Range": f"{first}-{last}"}
    answer = expect(repo("PATCH", location, data[first : last + 1], headers), 202)
    ok(answer.header("Location"), "no Location", answer)
    ok(answer.header("Range") == f"0-{last}", f"Range {answer.header('Range')!r}, not 0-{last}", answer)
    return answer.header("Location")


def _chunks(repo: Repository, algorithm: str) -> None:
    data = some_bytes(3 * CHUNK - 5)
    location = repo.start()
    for first in range(0, len(data), CHUNK):
        location = _send_chunk(repo, location, data, first, min(first + CHUNK, len(data)) - 1)
    answer = expect(repo("PUT", location, b"", digest=digest_of(data, algorithm)), 201)
    _pulled(repo, answer.header("Location"), data)


@point("end-5", "MUST")
def chunks(repo: Repository) -> None:
    """Three chunks, each answered with 202, Location and Range 0-<last>, then PUT: 201 and the blob."""
    _chunks(repo, "sha256")


@point("end-5", "MUST")
def chunks_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _chunks(repo, "sha512")


@point("end-5", "MUST")
def one_chunk(repo: Repository) -> None:
    """One chunk, then PUT without a body."""
    data = some_bytes()
    location = _send_chunk(repo, repo.start(), data, 0, len(data) - 1)
    expect(repo("PUT", location, b"", digest=digest_of(data)), 201)


@point("end-5", "MUST")
def stream(repo: Repository) -> None:
    """PATCH without Content-Range and with a body of unknown length."""
    data = some_bytes(5000)
    answer = expect(
        repo("PATCH", repo.start(), iter([data[:100], data[100:]]), {"Content-Type": OCTETS}), 202
    )
    ok(answer.header("Range") == "0-4999", f"Range {answer.header('Range')!r}")
    answer = expect(repo("PUT", answer.header("Location"), b"", digest=digest_of(data)), 201)
    _pulled(repo, answer.header("Location"), data)


@point("end-6", "MUST")
def last_chunk_in_put(repo: Repository) -> None:
    """The last chunk may come with the closing PUT."""
    data = some_bytes(2 * CHUNK)
    location = _send_chunk(repo, repo.start(), data, 0, CHUNK - 1)
    headers = {"Content-Type": OCTETS, "Content-Range": f"{CHUNK}-{2 * CHUNK - 1}"}
    answer = expect(repo("PUT", location, data[CHUNK:], headers, digest=digest_of(data)), 201)
    _pulled(repo, answer.header("Location"), data)


@point("end-5", "MUST")
def chunk_ahead(repo: Repository) -> None:
    """A chunk that leaves a gap is 416."""
    headers = {"Content-Type": OCTETS, "Content-Range": f"{CHUNK}-{2 * CHUNK - 1}"}
    expect(repo("PATCH", repo.start(), some_bytes(CHUNK), headers), 416)


@point("end-5", "MUST")
def chunk_again(repo: Repository) -> None:
    """A chunk that comes a second time is 416."""
    data = some_bytes(CHUNK)
    location = _send_chunk(repo, repo.start(), data, 0, CHUNK - 1)
    headers = {"Content-Type": OCTETS, "Content-Range": f"0-{CHUNK - 1}"}
    expect(repo("PATCH", location, data, headers), 416)


@point("end-6", "MUST")
def last_chunk_out_of_order(repo: Repository) -> None:
    """A last chunk in the closing PUT that leaves a gap is 416."""
    data = some_bytes(3 * CHUNK)
    location = _send_chunk(repo, repo.start(), data, 0, CHUNK - 1)
    headers = {"Content-Type": OCTETS, "Content-Range": f"{2 * CHUNK}-{3 * CHUNK - 1}"}
    expect(repo("PUT", location, data[2 * CHUNK :], headers, digest=digest_of(data)), 416)


@point("end-13", "MUST")
def upload_goes_on_after_416(repo: Repository) -> None:
    """After a 416 GET tells where the upload is, and it can be finished from there."""
    data = some_bytes(2 * CHUNK)
    location = _send_chunk(repo, repo.start(), data, 0, CHUNK - 1)
    headers = {"Content-Type": OCTETS, "Content-Range": f"{CHUNK + 7}-{2 * CHUNK - 1}"}
    expect(repo("PATCH", location, data[CHUNK + 7 :], headers), 416)
    answer = expect(repo("GET", location), 204)
    ok(answer.header("Range") == f"0-{CHUNK - 1}", f"Range {answer.header('Range')!r}", answer)
    location = _send_chunk(repo, answer.header("Location"), data, CHUNK, 2 * CHUNK - 1)
    expect(repo("PUT", location, b"", digest=digest_of(data)), 201)


@point("end-13", "MUST")
def upload_status(repo: Repository) -> None:
    """GET of an upload is 204 with Location and Range."""
    location = _send_chunk(repo, repo.start(), some_bytes(CHUNK), 0, CHUNK - 1)
    answer = expect(repo("GET", location), 204)
    ok(answer.header("Location") and answer.header("Range") == f"0-{CHUNK - 1}", "Location or Range", answer)


@point("end-13", "MUST")
def unknown_upload(repo: Repository) -> None:
    """An upload that is not under way is 404."""
    repo.start()
    answer = repo("GET", "blobs/uploads/6f1c1c6c-0c5c-4c56-9c53-8a5b7c0b1a11")
    expect(answer, 404)


@point("end-14", "SHOULD")
def upload_cancelled(repo: Repository) -> None:
    """DELETE of an upload is 204, and the upload is gone."""
    location = repo.start()
    expect(repo("DELETE", location), 204)
    expect(repo("GET", location), 404)


@point("end-6", "MUST")
def finished_upload_is_gone(repo: Repository) -> None:
    """An upload that was closed cannot be used again."""
    location, data = repo.start(), some_bytes()
    expect(repo("PUT", location, data, {"Content-Type": OCTETS}, digest=digest_of(data)), 201)
    expect(repo("GET", location), 404)


@point("end-5", "MUST")
def upload_of_another_repository(repo: Repository) -> None:
    """An upload belongs to its repository."""
    tail = repo.start().partition("/blobs/")[2]
    other = Repository(repo.registry)
    answer = other("PATCH", f"blobs/{tail}", b"x", {"Content-Type": OCTETS})
    ok(400 <= answer.status < 500, "taken", answer)


@point("end-6", "MUST")
def same_blob_twice(repo: Repository) -> None:
    """A blob may be pushed again."""
    data = some_bytes()
    repo.push_blob(data)
    repo.push_blob(data)


def _mount(repo: Repository, algorithm: str, named: bool) -> None:
    data = some_bytes()
    source = Repository(repo.registry)
    digest = source.push_blob(data, algorithm)
    query = {"mount": digest, **({"from": source.name} if named else {})}
    answer = expect(repo("POST", "blobs/uploads/", b"", **query), 201)
    _pulled(repo, answer.header("Location"), data)
    ok(f"/{repo.name}/" in answer.header("Location"), "Location in another repository", answer)


@point("end-11", "MUST")
def mount(repo: Repository) -> None:
    """POST with mount and from: 201 and the Location of the blob in this repository."""
    _mount(repo, "sha256", named=True)


@point("end-11", "MUST")
def mount_sha512(repo: Repository) -> None:
    """The same with a sha512 digest."""
    _mount(repo, "sha512", named=True)


@point("end-11", "MAY")
def mount_without_from(repo: Repository) -> None:
    """POST with mount alone finds the blob wherever it is."""
    _mount(repo, "sha256", named=False)


@point("end-11", "SHOULD")
def mount_of_absent_blob(repo: Repository) -> None:
    """A blob that cannot be mounted is 202: an upload begins."""
    source = Repository(repo.registry)
    source.push_blob(some_bytes())
    data = some_bytes()
    query = {"mount": digest_of(data), "from": source.name}
    answer = expect(repo("POST", "blobs/uploads/", b"", **query), 202)
    expect(repo("PUT", answer.header("Location"), data, digest=digest_of(data)), 201)


@point("end-11", "SHOULD")
def mount_from_absent_repository(repo: Repository) -> None:
    """Mounting from a repository that is not there is 202."""
    query = {"mount": digest_of(some_bytes()), "from": f"{repo.name}/nowhere"}
    expect(repo("POST", "blobs/uploads/", b"", **query), 202)


@point("end-11", "SHOULD")
def mount_of_bad_digest(repo: Repository) -> None:
    """Mounting what is no digest is 400, or an upload begins."""
    expect(repo("POST", "blobs/uploads/", b"", **{"mount": "sha256:no", "from": repo.name}), 400, 202)


@point("end-5", "MUST")
def bad_content_range(repo: Repository) -> None:
    """A Content-Range that is none is refused, and the upload stays as it was."""
    location = repo.start()
    answer = repo("PATCH", location, b"12345", {"Content-Type": OCTETS, "Content-Range": "five-nine"})
    ok(400 <= answer.status < 500, "accepted", answer)
