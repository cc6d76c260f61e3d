"""end-8 and end-12: tags, referrers; and what all replies have in common."""

from tests.suites.registry.wire import (
    EMPTY_JSON,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTETS,
    Repository,
    descriptor,
    digest_of,
    expect,
    next_page,
    ok,
    point,
    some_bytes,
)

SBOM, SIGNATURE = "application/vnd.example.sbom.v1", "application/vnd.example.signature.v1"


@point("end-8a", "MUST")
def tags_listed(repo: Repository) -> None:
    """The list is 200 with the repository's name and all tags."""
    repo.tagged("b", "a")
    answer = expect(repo("GET", "tags/list"), 200)
    ok(answer.json == {"name": repo.name, "tags": ["a", "b"]}, f"{answer.json}")


@point("end-8a", "MUST")
def tags_in_order(repo: Repository) -> None:
    """Tags are in ASCII or in lexical order."""
    repo.tagged("z", "1.10", "a", "1.9", "B", "_x", "m")
    tags = repo.tags()
    ok(tags in (sorted(tags), sorted(tags, key=str.lower)) and len(tags) == 7, f"{tags}")


@point("end-8a", "MUST")
def tags_of_absent_repository(repo: Repository) -> None:
    """The list of a repository that is not there is 404."""
    answer = expect(repo("GET", "tags/list"), 404)
    ok(answer.codes == ["NAME_UNKNOWN"], f"code {answer.codes}")


@point("end-8a", "MUST")
def tags_empty(repo: Repository) -> None:
    """A repository without tags has an empty list."""
    repo.push(repo.manifest())
    ok(repo.tags() == [], "tags from nowhere")


@point("end-8b", "MUST")
def tags_first(repo: Repository) -> None:
    """n=2 brings the first two."""
    repo.tagged("d", "c", "b", "a")
    ok(repo.tags(n="2") == ["a", "b"], f"{repo.tags(n='2')}")


@point("end-8b", "MUST")
def tags_more_than_there_are(repo: Repository) -> None:
    """n beyond the number of tags brings all, and no Link."""
    repo.tagged("b", "a")
    answer = expect(repo("GET", "tags/list", n="10"), 200)
    ok(answer.json["tags"] == ["a", "b"] and not next_page(answer), "tags or Link", answer)


@point("end-8b", "MUST")
def tags_none_of_them(repo: Repository) -> None:
    """n=0 brings an empty list and no Link."""
    repo.tagged("b", "a")
    answer = expect(repo("GET", "tags/list", n="0"), 200)
    ok(not answer.json["tags"] and not answer.header("Link"), "tags or Link", answer)


@point("end-8b", "MUST")
def tags_after(repo: Repository) -> None:
    """last=b brings what comes after b."""
    repo.tagged("d", "c", "b", "a")
    ok(repo.tags(n="1", last="b") == ["c"], f"{repo.tags(n='1', last='b')}")


@point("end-8b", "MUST")
def tags_after_without_number(repo: Repository) -> None:
    """last alone brings everything after it."""
    repo.tagged("d", "c", "b", "a")
    ok(repo.tags(last="b") == ["c", "d"], f"{repo.tags(last='b')}")


@point("end-8b", "MUST")
def tags_after_absent_tag(repo: Repository) -> None:
    """last need not be there any more."""
    repo.tagged("a", "c")
    ok(repo.tags(last="b", n="5") == ["c"], f"{repo.tags(last='b', n='5')}")


@point("end-8b", "MUST")
def tags_link(repo: Repository) -> None:
    """Where there is more, a Link with rel="next" leads through all tags, each once."""
    wanted = [f"t{number:02}" for number in range(7)]
    repo.tagged(*wanted)
    found, path = [], f"/v2/{repo.name}/tags/list?n=3"
    for _ in range(5):
        answer = expect(repo("GET", path), 200)
        found += answer.json["tags"] or []
        path = next_page(answer)
        if not path:
            break
    ok(found == wanted, f"{found}")


def _referred(repo: Repository) -> tuple[bytes, str, str]:
    """A tagged image with an SBOM and a signature: (image, digest of the one, of the other)."""
    image = repo.manifest()
    repo.push(image, "v1")
    first = repo.push(repo.artifact(SBOM, image, annotations={"org.example.of": "sbom"}))
    second = repo.push(repo.artifact(SIGNATURE, image))
    return image, first, second


@point("end-12a", "MUST")
def referrers_listed(repo: Repository) -> None:
    """The list is 200 with an index of the descriptors of all referrers."""
    image, first, second = _referred(repo)
    answer = expect(repo.referrers(digest_of(image)), 200)
    entries = {entry["digest"]: entry for entry in answer.json["manifests"]}
    ok(set(entries) == {first, second}, f"{set(entries)}")
    ok(answer.json["schemaVersion"] == 2 and answer.json["mediaType"] == OCI_INDEX, "no index")
    ok(
        all(entry["mediaType"] == OCI_MANIFEST and entry["size"] > 0 for entry in entries.values()),
        "descriptors",
    )


@point("end-12a", "MUST")
def referrers_content_type(repo: Repository) -> None:
    """Content-Type of the list is that of an OCI index."""
    image, _, _ = _referred(repo)
    answer = expect(repo.referrers(digest_of(image)), 200)
    ok(answer.header("Content-Type") == OCI_INDEX, answer.header("Content-Type"))


@point("end-12a", "MUST")
def referrers_of_nothing(repo: Repository) -> None:
    """Without referrers, and for a digest that is not there, the list is empty, never 404."""
    image = repo.manifest()
    repo.push(image, "v1")
    for digest in (digest_of(image), digest_of(some_bytes()), digest_of(b"", "sha512")):
        ok(expect(repo.referrers(digest), 200).json["manifests"] == [], "referrers from nowhere")


@point("end-12a", "MUST")
def referrers_of_absent_repository(repo: Repository) -> None:
    """A registry with referrers does not answer 404."""
    expect(repo.referrers(digest_of(b"x")), 200)


@point("end-12a", "MUST")
def referrers_of_bad_digest(repo: Repository) -> None:
    """What is no digest is 400."""
    repo.tagged("v1")
    expect(repo.referrers("sha256:nothing"), 400)
    expect(repo.referrers("v1"), 400)


@point("end-12a", "MUST")
def referrers_artifact_type(repo: Repository) -> None:
    """artifactType is the manifest's."""
    image, first, _ = _referred(repo)
    entries = {each["digest"]: each for each in repo.referrers(digest_of(image)).json["manifests"]}
    ok(entries[first].get("artifactType") == SBOM, f"{entries[first]}")


@point("end-12a", "MUST")
def referrers_annotations(repo: Repository) -> None:
    """Annotations are the manifest's."""
    image, first, _ = _referred(repo)
    entries = {each["digest"]: each for each in repo.referrers(digest_of(image)).json["manifests"]}
    ok(entries[first].get("annotations") == {"org.example.of": "sbom"}, f"{entries[first]}")


@point("end-12a", "MUST")
def referrers_type_of_config(repo: Repository) -> None:
    """Without an artifactType it is the config's media type."""
    image = repo.manifest()
    repo.push(image, "v1")
    repo.push(repo.manifest(subject=descriptor(image)))
    (entry,) = expect(repo.referrers(digest_of(image)), 200).json["manifests"]
    ok(entry.get("artifactType") == OCI_CONFIG, f"{entry}")


@point("end-12a", "MUST")
def referrers_index(repo: Repository) -> None:
    """An index may refer; without an artifactType the entry has none."""
    image = repo.manifest()
    repo.push(image, "v1")
    repo.push(repo.index([image], subject=descriptor(image)), kind=OCI_INDEX)
    (entry,) = expect(repo.referrers(digest_of(image)), 200).json["manifests"]
    ok(entry["mediaType"] == OCI_INDEX and "artifactType" not in entry, f"{entry}")


@point("end-12a", "MUST")
def referrers_index_with_type(repo: Repository) -> None:
    """An index with an artifactType shows it."""
    image = repo.manifest()
    repo.push(image, "v1")
    repo.push(repo.index([image], subject=descriptor(image), artifactType=SBOM), kind=OCI_INDEX)
    (entry,) = expect(repo.referrers(digest_of(image)), 200).json["manifests"]
    ok(entry.get("artifactType") == SBOM, f"{entry}")


@point("end-12a", "MUST")
def referrers_sha512(repo: Repository) -> None:
    """Subject and referrer may have sha512 digests."""
    image = repo.manifest("sha512")
    subject = repo.push(image, algorithm="sha512")
    digest = repo.push(
        repo.manifest("sha512", subject=descriptor(image, algorithm="sha512")), algorithm="sha512"
    )
    entries = expect(repo.referrers(subject), 200).json["manifests"]
    ok([each["digest"] for each in entries] == [digest], f"{entries}")


@point("end-12a", "MUST")
def referrers_of_another_repository(repo: Repository) -> None:
    """Referrers belong to their repository."""
    image, _, _ = _referred(repo)
    other = Repository(repo.registry)
    other.tagged("v1")
    ok(expect(other.referrers(digest_of(image)), 200).json["manifests"] == [], "another's referrers")


@point("end-12a", "MUST")
def referrer_deleted(repo: Repository) -> None:
    """A deleted referrer is not listed any more."""
    image, first, second = _referred(repo)
    expect(repo("DELETE", f"manifests/{first}"), 202)
    entries = expect(repo.referrers(digest_of(image)), 200).json["manifests"]
    ok([each["digest"] for each in entries] == [second], f"{entries}")


@point("end-7a", "MUST")
def subject_missing(repo: Repository) -> None:
    """A manifest whose subject is not there is taken, and listed."""
    subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(some_bytes()), "size": 123}
    data = repo.manifest(subject=subject)
    expect(repo.put("v1", data), 201)
    entries = expect(repo.referrers(subject["digest"]), 200).json["manifests"]
    ok([each["digest"] for each in entries] == [digest_of(data)], f"{entries}")


@point("end-7a", "MUST")
def subject_header(repo: Repository) -> None:
    """PUT of a manifest with a subject is answered with OCI-Subject."""
    image = repo.manifest()
    repo.push(image, "v1")
    answer = expect(repo.put("v2", repo.manifest(subject=descriptor(image))), 201)
    ok(answer.header("OCI-Subject") == digest_of(image), f"OCI-Subject {answer.header('OCI-Subject')!r}")


@point("end-12a", "MUST")
def referrers_by_tag_schema(repo: Repository) -> None:
    """What a client has listed in an index under the referrers tag schema, and has a subject, is listed too."""
    image = repo.manifest()
    repo.push(image, "v1")
    referrer = repo.artifact(SBOM, image)
    repo.push(referrer)
    repo.push(repo.index([referrer]), digest_of(image).replace(":", "-"), OCI_INDEX)
    entries = expect(repo.referrers(digest_of(image)), 200).json["manifests"]
    ok([each["digest"] for each in entries] == [digest_of(referrer)], f"{entries}")


@point("end-12b", "SHOULD")
def referrers_filtered(repo: Repository) -> None:
    """artifactType=… brings those of that type only."""
    image, first, _ = _referred(repo)
    entries = expect(repo.referrers(digest_of(image), artifactType=SBOM), 200).json["manifests"]
    ok([each["digest"] for each in entries] == [first], f"{entries}")


@point("end-12b", "MUST")
def filter_header(repo: Repository) -> None:
    """A list that was filtered says OCI-Filters-Applied: artifactType; one that was not does not."""
    image, _, _ = _referred(repo)
    answer = expect(repo.referrers(digest_of(image), artifactType=SBOM), 200)
    entries = answer.json["manifests"]
    if len(entries) == 1:
        ok(answer.header("OCI-Filters-Applied") == "artifactType", "no such header", answer)
    answer = expect(repo.referrers(digest_of(image)), 200)
    ok(not answer.header("OCI-Filters-Applied"), "filtered without being asked", answer)


@point("end-12b", "MUST")
def filter_without_match(repo: Repository) -> None:
    """A filter that nothing passes brings an empty list."""
    image, _, _ = _referred(repo)
    answer = expect(repo.referrers(digest_of(image), artifactType=EMPTY_JSON), 200)
    ok(answer.json["manifests"] == [], "entries", answer)


@point("errors", "MUST")
def error_format(repo: Repository) -> None:
    """An error in JSON is {"errors": [{"code", "message", "detail"}]} with a code of upper case and underscores."""
    for answer in (repo.get("none"), repo("GET", f"blobs/{digest_of(b'none')}"), repo("GET", "tags/list")):
        ok(answer.status == 404 and "json" in answer.header("Content-Type"), "no JSON", answer)
        (error,) = answer.json["errors"]
        ok(
            error["code"].replace("_", "").isupper() and set(error) <= {"code", "message", "detail"},
            f"{error}",
        )


@point("errors", "MUST")
def bad_names(repo: Repository) -> None:
    """Names outside of the grammar are refused."""
    for name in ("UPPER", "a//b", "-a", "a-", "a..b", "a/../b", ".a", "a_", "%2e%2e", "a%2f..%2fb", "a%00b"):
        answer = repo("POST", f"/v2/{name}/blobs/uploads/", b"")
        ok(answer.status in (301, 400, 404), f"{name} is accepted", answer)


@point("errors", "MUST")
def unknown_endpoint(repo: Repository) -> None:
    """A path that means nothing is 404."""
    expect(repo("GET", "nothing/at-all"), 404)


@point("errors", "SHOULD")
def wrong_method(repo: Repository) -> None:
    """A method that does not go with a path is 405 (RFC 9110)."""
    expect(repo("POST", "tags/list", b"{}", {"Content-Type": OCTETS}), 405)


@point("catalog", "MAY")
def catalog(repo: Repository) -> None:
    """/v2/_catalog lists repositories in pages with a Link (an extension of distribution)."""
    for number in range(3):
        Repository(repo.registry, f"{repo.name}/{number}").tagged("t")
    found, path = [], f"/v2/_catalog?n=2&last={repo.name}"
    while path and len(found) < 3:
        answer = expect(repo("GET", path), 200)
        ok(len(answer.json["repositories"]) <= 2, "more than asked for")
        found += [name for name in answer.json["repositories"] if name.startswith(repo.name)]
        path = next_page(answer)
    ok(found == [f"{repo.name}/{number}" for number in range(3)], f"{found}")
