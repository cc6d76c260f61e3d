"""Where a registry's images are asked for: the registry itself, mirrors, TLS or not, trusted or not. Pure.

The rules are dockerd's (--insecure-registry, --registry-mirror) and, per registry, those of a hosts.toml as
containerd reads it: see `hosts_toml`.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from longshore.errors import InvalidArgument
from longshore.oci.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"  # Docker Hub's API lives under another name than its references
PULL, RESOLVE, PUSH = "pull", "resolve", "push"
EVERYTHING = frozenset({PULL, RESOLVE, PUSH})


@dataclass(frozen=True, slots=True)
class Tls:
    """How a host proves who it is, and how we do. Paths of PEM files."""

    ca: tuple[str, ...] = ()  # besides the system's
    client: tuple[tuple[str, str], ...] = ()  # certificate, and key ("": in the same file)
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host that may answer for a registry."""

    host: str  # with its port
    schemes: tuple[str, ...] = ("https",)  # in the order they are tried
    root: str = "/v2"  # of the API's paths
    capabilities: frozenset[str] = EVERYTHING
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()  # sent to this host only
    rewrites: tuple[tuple[str, str], ...] = ()  # of repository names: pattern and replacement with \1
    namespace: str = ""  # the registry that this host stands in for, sent as ?ns=
    is_mirror: bool = False  # gets no credentials, and fewer attempts: the registry itself is waiting
    dial_timeout: float = 15.0  # seconds

    def repository(self, path: str) -> str:
        """The name of a repository on this host: the first pattern that fits decides."""
        for pattern, replacement in self.rewrites:
            renamed, count = re.subn(pattern, replacement, path)
            if count:
                return renamed
        return path


@dataclass(frozen=True, slots=True)
class Mirror:
    """A registry that is asked before Docker Hub, without credentials."""

    scheme: str  # https, or http where `may_be_plain` allows it
    host: str  # with its port
    prefix: str = ""  # of the path before /v2/

    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, (self.scheme,), f"{self.prefix}/v2", is_mirror=True)


@dataclass(frozen=True, slots=True)
class RegistryRules:
    """What the daemon's flags say about registries."""

    insecure: tuple[str, ...] = ()  # hosts with or without port, or networks (CIDR)
    mirrors: tuple[Mirror, ...] = ()
    config_path: tuple[str, ...] = ()  # folders like /etc/longshore/certs.d
    hub: str = field(default=HUB)

    def endpoints(self, domain: str) -> list[Endpoint]:
        """Without hosts.toml: the mirrors of Docker Hub, then the registry itself."""
        mirrors = [mirror.endpoint() for mirror in self.mirrors] if domain == DEFAULT_DOMAIN else []
        return [*mirrors, self.own(domain)]

    def own(self, domain: str, tls: Tls = Tls()) -> Endpoint:
        """The registry itself. An insecure one may have any certificate, or speak plain HTTP."""
        host = self.hub if domain in (DEFAULT_DOMAIN, HUB) else domain
        if may_be_plain(domain, self.insecure):
            return Endpoint(host, ("https", "http"), tls=Tls(tls.ca, tls.client, skip_verify=True))
        return Endpoint(host, tls=tls)


def may_be_plain(domain: str, insecure: Collection[str]) -> bool:
    """Loopback and what the settings name, with or without the port; a network means the addresses in it."""
    name = domain.rpartition(":")[0] if ":" in domain.rpartition("]")[2] else domain
    if domain in insecure or name in insecure or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in map(_network, insecure) if network)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


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
