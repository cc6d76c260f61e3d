"""References: any text is refused in words, or means the same however it is written again."""

from collections import Counter

from hypothesis import strategies as st

from longshore.errors import InvalidArgument
from longshore.oci.reference import parse_reference

_PARTS = st.sampled_from(
    ["a", "library", "docker.io", "index.docker.io", "localhost", "[::1]", ":5000", "/", ":", "@", "sha256:", "sha512:",
     "0" * 64, "f" * 128, "latest", "A", "_", "__", "..", "-", "--", ".", " ", "\n", "\0", "é", "x" * 120, "1.2", "%2f", "//"]
)  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    return st.one_of(st.lists(_PARTS, max_size=10).map("".join), st.text(max_size=60))


def check(text: str, seen: Counter[str]) -> None:
    """Raises AssertionError, or whatever should not come out."""
    try:
        found = parse_reference(text)
    except InvalidArgument as error:
        assert "\n" not in str(error)
        seen["refused"] += 1
        return
    seen["parsed"] += 1
    assert len(found.path) <= 255
    for form in (str(found), found.familiar):
        assert parse_reference(form) == found, form
        assert form.isprintable()
        assert " " not in form
    canonical = parse_reference(found.canonical)
    assert (canonical.name, canonical.canonical) == (found.name, found.canonical)
    assert found.path == found.path.lower()
    assert not {"", ".", ".."} & set(found.path.split("/"))
