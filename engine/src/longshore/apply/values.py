"""The spellings people use for sizes, durations, ports and volumes. Pure; all raise InvalidArgument."""

import re
from collections.abc import Iterable
from typing import Any

from longshore.errors import InvalidArgument
from longshore.oci import units

_PROTOCOLS = ("tcp", "udp", "sctp")

Published = tuple[str, str, str]  # host address, host port, "80/tcp"


def text_of(value: object) -> str:
    """YAML's scalars as environment variables and labels want them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def parse_size(value: str | int) -> int:
    """As `docker run --memory` reads sizes, in bytes; -1 is "unlimited"."""
    text = str(value).strip()
    return -1 if text in ("-1", "unlimited") else units.parse_size(text)


def parse_duration(value: str | float) -> int:
    """ "1m30s", "2d" or a number of seconds, in nanoseconds."""
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    return units.parse_duration(text, days=True)


def _numbers(text: str, whole: str) -> range:
    first, _, last = text.partition("-")
    try:
        low, high = int(first), int(last or first)
    except ValueError as cause:
        raise InvalidArgument(f"invalid port {whole!r}", detail=f"{text!r} is not a number") from cause
    if not 0 < low <= high < 65536:
        raise InvalidArgument(f"invalid port {whole!r}", detail=f"{text} is not within 1-65535")
    return range(low, high + 1)


def _protocol(text: str, whole: str) -> str:
    name = (text or "tcp").lower()
    if name not in _PROTOCOLS:
        raise InvalidArgument(f"invalid port {whole!r}", detail=f"unknown protocol {text}")
    return name


def parse_exposed(entry: str | int) -> list[str]:
    """ "8000-8002/udp" as Docker's keys "8000/udp", …"""
    text = str(entry)
    numbers, _, proto = text.partition("/")
    return [f"{number}/{_protocol(proto, text)}" for number in _numbers(numbers, text)]


def parse_ports(entries: Iterable[str | int]) -> dict[str, list[dict[str, str]]]:
    """`[ip:][host:]container[/proto]`, ranges included, as Docker's PortBindings, sorted."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for entry in entries:
        text = str(entry)
        rest, _, proto = text.partition("/")
        address, host, container = _split_port(rest)
        inner = _numbers(container, text)
        outer = _numbers(host, text) if host else None
        if outer is not None and len(outer) != len(inner):
            raise InvalidArgument(f"invalid port {text!r}", detail="the two ranges have different lengths")
        for index, number in enumerate(inner):
            binding = {"HostIp": address, "HostPort": str(outer[index]) if outer is not None else ""}
            found = bindings.setdefault(f"{number}/{_protocol(proto, text)}", [])
            if binding not in found:
                found.append(binding)
    return {key: sorted(found, key=lambda b: sorted(b.items())) for key, found in sorted(bindings.items())}


def _split_port(text: str) -> tuple[str, str, str]:
    """IPv6 addresses are in brackets: "[::1]:8080:80"."""
    address = ""
    if text.startswith("["):
        address, _, text = text[1:].partition("]")
        text = text.removeprefix(":")
    parts = text.split(":")
    if len(parts) > 3 or (len(parts) == 3 and address):
        raise InvalidArgument(
            f"invalid port {text!r}", hint="write [ip:][host port:]container port[/protocol]"
        )
    if len(parts) == 3:
        address = parts[0]
    return ("" if address == "0.0.0.0" else address), (parts[-2] if len(parts) > 1 else ""), parts[-1]


def parse_volume(entry: str) -> tuple[str, str]:
    """(bind, path in the container): bind is "" for an anonymous volume ("/data")."""
    parts = entry.split(":")
    if len(parts) == 1 and entry.startswith("/"):
        return "", entry
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise InvalidArgument(f"invalid volume {entry!r}", hint="write source:/path/in/container[:ro]")
    options = parts[2] if len(parts) == 3 else "rw"
    return f"{parts[0]}:{parts[1]}" + ("" if options == "rw" else f":{options}"), parts[1]


def fixed_ports(bindings: dict[str, Any] | None) -> list[Published]:
    """The fixed host ports of PortBindings."""
    return [
        (binding.get("HostIp") or "", str(binding["HostPort"]), port)
        for port, found in (bindings or {}).items()
        for binding in found or ()
        if binding.get("HostPort") not in (None, "", "0", 0)
    ]
