"""Image references: `[domain/]path[:tag][@digest]` with Docker's short forms.

The grammar is the one of the distribution project's reference package
(https://pkg.go.dev/github.com/distribution/reference); "busybox" means "docker.io/library/busybox:latest".
"""

import re
from dataclasses import dataclass, replace

from longshore.errors import InvalidArgument
from longshore.oci.digest import Digest, parse_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_MAX_NAME = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference: `domain` and `path` are always complete ("docker.io", "library/busybox")."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The repository without tag and digest: "docker.io/library/busybox"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: "busybox"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        # "library/a/b" is no official image: without the prefix it would mean another one
        return self.path if "/" in rest else rest

    @property
    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    @property
    def familiar(self) -> str:
        """As people write it, tag and digest as given: "busybox:latest"."""
        return self.familiar_name + self._suffix

    @property
    def canonical(self) -> str:
        """The database key: one image has one key per name. A digest makes the tag meaningless."""
        if self.digest:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag or DEFAULT_TAG}"

    def __str__(self) -> str:
        return self.name + self._suffix

    def with_default_tag(self) -> "Reference":
        """The same with ":latest" where neither tag nor digest is given."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)


def parse_reference(text: str) -> Reference:
    """Normalise what a user or a peer wrote. Raises InvalidArgument "invalid reference format…"."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    name, at, digest_text = text.partition("@")
    digest = _digest(digest_text) if at else None
    name, tag = _split_tag(name)
    domain, path = _split_domain(name)
    if path != path.lower() and _PATH.fullmatch(path.lower()):
        raise InvalidArgument(f"invalid reference format: repository name ({path}) must be lowercase")
    if not (_DOMAIN.fullmatch(domain) and _PATH.fullmatch(path)):
        raise _invalid(text)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _invalid(text)
    if len(path) > _MAX_NAME:
        raise InvalidArgument("repository name must not be more than 255 characters", detail=path[:40] + "…")
    return Reference(domain, path, tag, digest)


def _invalid(text: str) -> InvalidArgument:
    return InvalidArgument("invalid reference format", detail=repr(text[:300]))


def _digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except InvalidArgument as cause:
        raise _invalid("@" + text) from cause


def _split_tag(name: str) -> tuple[str, str | None]:
    colon = name.rfind(":")
    if colon > name.rfind("/"):  # otherwise the colon belongs to a port
        return name[:colon], name[colon + 1 :]
    return name, None


def _split_domain(name: str) -> tuple[str, str]:
    """Docker's rule: the first part is a host if it looks like one, else it belongs to Docker Hub."""
    first, slash, rest = name.partition("/")
    is_host = slash and (any(c in first for c in ".:") or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_host else (DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path
