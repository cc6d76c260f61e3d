"""Names of machines. They become folder names, host names and container names, so they are checked once, here."""

import re

from pymachine.errors import InvalidInput

DEFAULT = "default"

# The label part is RFC 1123; docker-machine's rule (letters, digits, dots, dashes) without its dangerous ends.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_LONGEST = 63  # HOST_NAME_MAX is 64


def parse_name(text: str) -> str:
    """Return the name, or raise InvalidInput."""
    if len(text) > _LONGEST:
        raise InvalidInput(f"machine name {text[:20]!r}… is too long", hint=f"at most {_LONGEST} characters")
    if not _NAME.fullmatch(text) or ".." in text:
        raise InvalidInput(
            f"invalid machine name {text!r}",
            hint="letters, digits, '-' and '.' are allowed, with a letter or digit at both ends",
        )
    return text
