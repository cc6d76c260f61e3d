"""Content digests: `sha256:<hex>` as in the OCI image spec (descriptor.md, section Digests)."""

import hashlib
import re
from dataclasses import dataclass

from longshore.errors import InvalidArgument

_HEX_LENGTHS = {"sha256": 64, "sha512": 128}
ALGORITHMS = tuple(_HEX_LENGTHS)
_HEX = re.compile(r"[0-9a-f]+\Z")  # \Z: a trailing newline is no digest


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A checked digest; `str()` gives the wire form. Make it with `parse_digest` or `sha256_of`."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def short(self) -> str:
        """The 12 characters that people see."""
        return self.hex[:12]


def parse_digest(text: str) -> Digest:
    """Check and split `sha256:…`. Raises InvalidArgument; the hex part has to be lower-case and complete."""
    algorithm, separator, hexadecimal = text.partition(":")
    if not separator or algorithm not in _HEX_LENGTHS:
        raise InvalidArgument("invalid digest", detail=f"{text[:100]!r} is not sha256:<hex>")
    if len(hexadecimal) != _HEX_LENGTHS[algorithm] or not _HEX.match(hexadecimal):
        raise InvalidArgument("invalid checksum digest length or characters", detail=repr(text[:150]))
    return Digest(algorithm, hexadecimal)


def sha256_of(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def digest_like(known: Digest, data: bytes) -> Digest:
    """The digest of `data` by the algorithm of another one, to compare with it."""
    return Digest(known.algorithm, hashlib.new(known.algorithm, data).hexdigest())
