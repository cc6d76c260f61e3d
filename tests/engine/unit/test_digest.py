import pytest

from longshore.errors import InvalidArgument
from longshore.oci.digest import Digest, parse_digest, sha256_of

HEX = "a" * 64


def test_a_digest_survives_parsing_and_printing() -> None:
    digest = parse_digest(f"sha256:{HEX}")
    assert digest == Digest("sha256", HEX)
    assert str(digest) == f"sha256:{HEX}"
    assert digest.short == "a" * 12


def test_sha256_of_known_bytes() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_of(b"") == Digest("sha256", empty)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"md5:{HEX}",
        "sha256:",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}a",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX}\n",
        f"sha256:{'../' * 21}a",
        f"sha512:{HEX}",
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_digest(text)
