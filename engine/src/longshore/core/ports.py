"""Ports as clients write them ("80/tcp", "8000-8005", "127.0.0.1") and as the network wants them. Pure."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence

from longshore.core.model import PortBinding
from longshore.errors import InvalidArgument
from longshore.network.model import PortMapping

PROTOCOLS = ("tcp", "udp", "sctp")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/([a-zA-Z]+))?")


def parse_port(text: str) -> tuple[int, int, str]:
    """ "8000-8005/udp" as (first, last, protocol). Raises InvalidArgument."""
    match = _PORT.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    protocol = (match[3] or "tcp").lower() if match else ""
    if not 1 <= first <= last <= 65535 or protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return first, last, protocol


def expand_exposed(ports: Mapping[str, object] | None) -> list[str]:
    """Every exposed port by itself ("80/tcp"), ranges expanded, in the order of their numbers."""
    found: set[tuple[int, str]] = set()
    for text in ports or ():
        first, last, protocol = parse_port(text)
        found.update((number, protocol) for number in range(first, last + 1))
    return [f"{number}/{protocol}" for number, protocol in sorted(found)]


def expand_bindings(bindings: Mapping[str, Sequence[PortBinding]] | None) -> dict[str, list[PortBinding]]:
    """One key per container port. A range on both sides pairs up when both are as long as each other."""
    result: dict[str, list[PortBinding]] = {}
    for text, wanted in (bindings or {}).items():
        first, last, protocol = parse_port(text)
        for binding in wanted or [PortBinding()]:
            _check_address(binding.host_ip)
            for offset in range(last - first + 1):
                host = _host_port(binding.host_port, offset, last - first + 1)
                key = f"{first + offset}/{protocol}"
                result.setdefault(key, []).append(PortBinding(host_ip=binding.host_ip, host_port=host))
    return result


def _host_port(text: str, offset: int, length: int) -> str:
    if text in ("", "0"):
        return text
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise InvalidArgument(f"invalid HostPort {text!r} in HostConfig.PortBindings")
    if length == 1:
        return text
    if last - first + 1 != length:
        raise InvalidArgument(
            f"invalid ranges specified for container and host ports: {length} ports and {text!r}"
        )
    return str(first + offset)


def _check_address(text: str) -> None:
    if text:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as cause:
            raise InvalidArgument(f"invalid HostIp {text!r} in HostConfig.PortBindings") from cause
        if address.version == 6:
            raise InvalidArgument(
                "publishing on IPv6 addresses is not supported yet", detail=f"HostIp {text} in PortBindings"
            )


def plan_mappings(
    bindings: Mapping[str, Sequence[PortBinding]] | None,
    exposed: Mapping[str, object] | None,
    *,
    publish_all: bool,
) -> tuple[PortMapping, ...]:
    """What the network is asked to publish; `publish_all` adds every exposed port that has no binding."""
    wanted = expand_bindings(bindings)
    if publish_all:
        for port in expand_exposed(exposed):
            wanted.setdefault(port, [PortBinding()])
    return tuple(_mappings(wanted))


def _mappings(wanted: Mapping[str, Sequence[PortBinding]]) -> Iterator[PortMapping]:
    for port, bindings in wanted.items():
        number, _, protocol = parse_port(port)
        for binding in bindings:
            first, _, last = binding.host_port.partition("-")
            yield PortMapping(
                container_port=number,
                proto=protocol,
                ip=binding.host_ip,
                host_port=0 if last else int(first or 0),
                host_range=(int(first), int(last)) if last else None,
            )
