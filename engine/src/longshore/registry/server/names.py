"""What clients may write as repository, tag and digest. Pure.

Everything that becomes a path or a key passes here: components begin with a letter or digit, so no name can be `..`,
hidden or absolute.
"""

import re

from longshore.errors import InvalidArgument
from longshore.oci.digest import Digest, parse_digest
from longshore.registry.server.refusals import Code, Refused

MAX_NAME = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def check_name(text: str) -> str:
    """A repository's name. Raises Refused NAME_INVALID."""
    if len(text) > MAX_NAME:
        raise Refused(Code.NAME_INVALID, f"a name has at most {MAX_NAME} characters")
    if not _NAME.fullmatch(text):
        raise Refused(Code.NAME_INVALID, f"{text[:100]!r} is not made of lower-case components and slashes")
    return text


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def check_digest(text: str) -> Digest:
    """sha256 or sha512. Raises Refused DIGEST_INVALID."""
    try:
        return parse_digest(text)
    except InvalidArgument as cause:
        raise Refused(Code.DIGEST_INVALID, cause.detail or cause.what) from cause


def check_reference(text: str, *, writing: bool) -> Digest | str:
    """The digest or the tag at the end of a manifest's path.

    Raises Refused: DIGEST_INVALID; for what cannot be a tag MANIFEST_INVALID when `writing`, else MANIFEST_UNKNOWN.
    """
    if ":" in text:
        return check_digest(text)
    if not is_tag(text):
        code = Code.MANIFEST_INVALID if writing else Code.MANIFEST_UNKNOWN
        raise Refused(code, f"{text[:140]!r} cannot be a tag")
    return text
