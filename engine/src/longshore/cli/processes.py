"""Looking into a container: `longshore top`, `port`, `diff`."""

from __future__ import annotations

import sys
from typing import Any

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client
from longshore.cli.flags import command, one, several
from longshore.cli.output import aligned, emit, items
from longshore.errors import NotFound

_CHANGES = {0: "C", 1: "A", 2: "D"}


@command("top", program_follows=True)
@one("container", "CONTAINER", complete=completers.running)
@several("arguments", "ps OPTIONS", required=False, raw=True)
def top_command(container: str, arguments: tuple[str, ...]) -> None:
    """Show the processes of a container; what follows its name are options of ps(1)."""
    found = client().get(f"/containers/{segment(container)}/top", ps_args=" ".join(arguments))
    lines = ["\t".join(row) for row in (found["Titles"], *items(found, "Processes"))]
    sys.stdout.write(aligned(lines, least=20))


@command("port")
@one("container", "CONTAINER", complete=completers.running)
@one("port", "PRIVATE_PORT[/PROTO]", required=False)
def port_command(container: str, port: str) -> None:
    """Show where a container's ports are published."""
    view = client().get(f"/containers/{segment(container)}/json")
    published: dict[str, list[dict[str, str]]] = view["NetworkSettings"]["Ports"] or {}
    if port:
        wanted = port if "/" in port else f"{port}/tcp"
        bindings = published.get(wanted)
        if not bindings:
            raise NotFound(f"no public port {wanted!r} published for {container}")
        lines = [_address(binding) for binding in bindings]
    else:
        lines = [
            f"{inside} -> {_address(binding)}"
            for inside, bindings in sorted(published.items(), key=lambda item: _natural(item[0]))
            for binding in bindings or ()
        ]
    for line in lines:
        emit(line)


def _address(binding: dict[str, Any]) -> str:
    address = binding["HostIp"]
    return f"{f'[{address}]' if ':' in address else address}:{binding['HostPort']}"


def _natural(port: str) -> tuple[int, str]:
    number, _, kind = port.partition("/")
    return int(number), kind


@command("diff")
@one("container", "CONTAINER", complete=completers.containers)
def diff_command(container: str) -> None:
    """Show what changed in a container's files: A added, C changed, D deleted."""
    for change in client().get(f"/containers/{segment(container)}/changes") or ():
        emit(f"{_CHANGES[change['Kind']]} {change['Path']}")
