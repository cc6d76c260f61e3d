"""Which registries may be spoken to without TLS, and which stand in for Docker Hub. Pure, no client needed."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from longshore.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Mirror:
    """A registry that is asked before Docker Hub, without credentials."""

    scheme: str  # https, or http where `may_be_plain` allows it
    host: str  # with its port
    prefix: str = ""  # of the path before /v2/


def may_be_plain(domain: str, insecure: Collection[str]) -> bool:
    """Loopback and what the settings name, with or without the port."""
    name = domain.rpartition(":")[0] if ":" in domain.rpartition("]")[2] else domain
    if domain in insecure or name in insecure or name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_mirror(text: str, insecure: Collection[str]) -> Mirror:
    """A setting like "https://mirror.example/hub". Raises InvalidArgument."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  raises ValueError
    except ValueError as cause:
        raise InvalidArgument(f"invalid registry mirror {text!r}", detail=str(cause)) from cause
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(
            f"invalid registry mirror {text!r}", hint="write it like https://mirror.example"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidArgument(f"invalid registry mirror {text!r}", detail="only host, port and path count")
    if parts.scheme == "http" and not may_be_plain(parts.netloc, insecure):
        raise InvalidArgument(
            f"insecure registry mirror {text!r}",
            hint=f"use https, or add {parts.netloc} to insecure-registries",
        )
    return Mirror(parts.scheme, parts.netloc, parts.path.rstrip("/"))
