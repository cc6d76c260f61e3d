"""--publish and --expose as the API wants them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from longshore.cli.flags import invalid
from longshore.cli.mounts import fields

_PROTOCOLS = ("tcp", "udp", "sctp")
_FORM = "write [ip:][host-port:]container-port[/protocol]"

Binding = dict[str, str]


def parse_port(text: str) -> list[tuple[str, Binding]]:
    """One --publish, ranges allowed: [("80/tcp", {"HostIp", "HostPort"})]. Raises FlagError."""
    if "=" in text:
        text = _short_form(text)
    rest, _, proto = text.partition("/")
    proto = _protocol(proto, text)
    address = ""
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]")
        rest = rest.removeprefix(":")
    parts = rest.split(":")
    if len(parts) > 3 or (len(parts) == 3 and address):
        raise invalid("--publish", text, _FORM)
    inside = parts.pop()
    host = parts.pop() if parts else ""
    address = parts.pop() if parts else address
    if address:
        try:
            ip_address(address)
        except ValueError:
            raise invalid("--publish", text, f"invalid IP address: {address}") from None
    inner, outer = _range(inside, text), _range(host, text) if host else []
    if not outer:
        return [(f"{port}/{proto}", {"HostIp": address, "HostPort": ""}) for port in inner]
    if len(inner) == 1 < len(outer):  # any one port of the range
        return [(f"{inner[0]}/{proto}", {"HostIp": address, "HostPort": host})]
    if len(inner) != len(outer):
        raise invalid("--publish", text, "the two ranges differ in length")
    return [
        (f"{a}/{proto}", {"HostIp": address, "HostPort": str(b)}) for a, b in zip(inner, outer, strict=True)
    ]


def _short_form(text: str) -> str:
    """`published=8080,target=80,protocol=udp` as 8080:80/udp."""
    known = {"published": "", "target": "", "protocol": "tcp"}
    for key, value, _ in fields(text, "--publish"):
        if key not in known:
            raise invalid("--publish", text, f"unknown key {key!r}")
        known[key] = value
    published = f"{known['published']}:" if known["published"] else ""
    return f"{published}{known['target']}/{known['protocol']}"


def _protocol(text: str, whole: str) -> str:
    name = (text or "tcp").lower()
    if name not in _PROTOCOLS:
        raise invalid("--publish", whole, f"the protocol is one of {', '.join(_PROTOCOLS)}")
    return name


def _range(text: str, whole: str, flag: str = "--publish") -> list[int]:
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last if dash else first)
    except ValueError:
        raise invalid(flag, whole, f"{text!r} is no port") from None
    least = 1 if flag == "--publish" else 0
    if not least <= low <= high < 65536:
        raise invalid(flag, whole, f"{text!r} is out of range")
    return list(range(low, high + 1))


def port_bindings(
    publish: Sequence[str], expose: Sequence[str]
) -> tuple[dict[str, list[Binding]], dict[str, Any]]:
    """(HostConfig.PortBindings, Config.ExposedPorts). Raises FlagError."""
    bindings: dict[str, list[Binding]] = {}
    for text in publish:
        for inside, binding in parse_port(text):
            bindings.setdefault(inside, []).append(binding)
    exposed: dict[str, Any] = {inside: {} for inside in bindings}
    for text in expose:
        numbers, _, proto = text.partition("/")
        if ":" in text:
            raise invalid("--expose", text, "write port[-port][/protocol]")
        exposed |= {f"{port}/{_protocol(proto, text)}": {} for port in _range(numbers, text, "--expose")}
    return bindings, exposed
