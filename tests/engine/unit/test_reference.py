import pytest

from longshore.errors import InvalidArgument
from longshore.oci.reference import parse_reference

DIGEST = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox"),
        ("index.docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("me/app:v1", "docker.io/me/app:v1", "me/app:v1"),
        ("localhost/app", "localhost/app:latest", "localhost/app"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("quay.io/a/b/c", "quay.io/a/b/c:latest", "quay.io/a/b/c"),
        ("[fd00::1]:5000/app", "[fd00::1]:5000/app:latest", "[fd00::1]:5000/app"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest", "a__b/c-d.e"),
        ("Host/app", "Host/app:latest", "Host/app"),
    ],
)
def test_names_are_normalised_as_docker_does(text: str, canonical: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar
    assert parse_reference(reference.canonical).canonical == canonical


def test_the_default_tag_appears_only_when_asked_for() -> None:
    reference = parse_reference("busybox")
    assert reference.tag is None
    assert reference.with_default_tag().familiar == "busybox:latest"
    assert parse_reference(f"busybox@{DIGEST}").with_default_tag().tag is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid reference format"),
        ("Busybox", "must be lowercase"),
        ("a//b", "invalid reference format"),
        ("busybox:", "invalid reference format"),
        ("busybox:la test", "invalid reference format"),
        ("busybox:" + "x" * 129, "invalid reference format"),
        ("busybox@sha256:short", "invalid reference format"),
        ("-busybox", "invalid reference format"),
        ("../etc/passwd", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("busybox\n", "invalid reference format"),
        ("f" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("x/" + "y" * 255, "must not be more than 255 characters"),
    ],
)
def test_what_is_no_reference_is_refused_with_dockers_words(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_reference(text)
