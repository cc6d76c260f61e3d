"""When a container that was just started counts as ready, and when a replaced one has nothing left to do.

Sockets are counted in /proc/<pid>/net/tcp, which shows the network namespace of that process (proc(5)), so
nobody has to enter it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

from longshore.errors import Unavailable

ESTABLISHED, SYN_RECV, LISTEN = 1, 3, 10  # include/net/tcp_states.h
_POLL = 0.05
_SETTLE = 0.3  # a program that cannot start usually says so at once
_LISTEN_GRACE = 10.0  # without a health check nobody knows whether a program will ever listen


@dataclass(frozen=True, slots=True)
class Condition:
    """A container at one moment. `health` is none, starting, healthy or unhealthy."""

    running: bool
    health: str = "none"
    pid: int = 0
    exit_code: int = 0
    restarts: int = 0
    output: str = ""  # of the last health check


class Watch(Protocol):
    def condition(self, id: str) -> Condition: ...


def count_sockets(table: str, ports: Iterable[int], states: Iterable[int]) -> int:
    """How many sockets of a /proc/net/tcp table have one of the local ports and states."""
    wanted_ports, wanted_states = set(ports), set(states)
    found = 0
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and int(fields[3], 16) in wanted_states:
            found += int(fields[1].rpartition(":")[2], 16) in wanted_ports
    return found


def sockets_of(pid: int, ports: Iterable[int], states: Iterable[int]) -> int:
    """The same for the namespace of a process; 0 once it is gone."""
    ports, states = tuple(ports), tuple(states)
    found = 0
    for name in ("tcp", "tcp6"):
        try:
            table = Path(f"/proc/{pid}/net/{name}").read_text()
        except OSError:  # ended meanwhile, or no IPv6
            continue
        found += count_sockets(table, ports, states)
    return found


async def until_ready(watch: Watch, id: str, *, timeout: float, ports: Iterable[int], strict: bool) -> None:
    """Return when it is healthy or, without a health check, runs for a moment and listens on its TCP ports.

    strict: an end with code 0 and a port that nobody listens on are failures as well. Raises Unavailable
    that says what the container did instead.
    """
    begin = monotonic()
    ports = tuple(ports)
    while True:
        now = watch.condition(id)
        spent = monotonic() - begin
        if now.restarts > 0:
            raise Unavailable(f"it ended with code {now.exit_code} and was restarted {now.restarts} times")
        if not now.running:
            if now.exit_code == 0 and not strict:
                return  # a job that was quicker than us
            raise Unavailable(f"it ended with code {now.exit_code}")
        if now.health == "unhealthy":
            raise Unavailable(f"its health check fails{': ' + now.output.strip() if now.output else ''}")
        if now.health == "healthy" or (now.health == "none" and _settled(now, spent, ports)):
            return
        if now.health == "none" and not strict and spent >= min(timeout, _LISTEN_GRACE):
            return
        if spent >= timeout:
            what = (
                f"nothing listens on port {', '.join(map(str, ports))}"
                if now.health == "none"
                else f"its health is {now.health}"
            )
            raise Unavailable(f"{what} after {timeout:g} seconds{': ' + now.output if now.output else ''}")
        await asyncio.sleep(_POLL)


def _settled(now: Condition, spent: float, ports: tuple[int, ...]) -> bool:
    if spent < _SETTLE:
        return False
    return not ports or all(sockets_of(now.pid, (port,), (LISTEN,)) for port in ports)


async def until_drained(watch: Watch, id: str, *, timeout: float, ports: Iterable[int]) -> int:
    """Wait for the last connection to end; returns how many are left at the timeout."""
    deadline = monotonic() + timeout
    ports = tuple(ports)
    quiet = 0
    while True:
        now = watch.condition(id)
        left = sockets_of(now.pid, ports, (ESTABLISHED, SYN_RECV)) if now.running else 0
        quiet = 0 if left else quiet + 1
        # seen twice in a row: a SYN that was on its way while the port changed hands may still arrive
        if not now.running or quiet >= 4 or monotonic() >= deadline:
            return left
        await asyncio.sleep(_POLL)
