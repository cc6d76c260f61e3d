"""`longshore update`."""

from __future__ import annotations

from typing import Any

import click

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client, each, warn
from longshore.cli.create_request import nano_cpus, restart_policy
from longshore.cli.flags import command, invalid, number, several, text
from longshore.cli.output import items
from longshore.errors import InvalidArgument
from longshore.oci.units import parse_size

_NUMBERS = {
    "blkio_weight": "BlkioWeight",
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpu_rt_period": "CpuRealtimePeriod",
    "cpu_rt_runtime": "CpuRealtimeRuntime",
    "cpu_shares": "CpuShares",
    "pids_limit": "PidsLimit",
    "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems",
}
_SIZES = {"memory": "Memory", "memory_reservation": "MemoryReservation", "memory_swap": "MemorySwap"}


@command("update")
@number("--blkio-weight", help="Share of block IO, 10 to 1000; 0 is none.")
@number("--cpu-period", help="Period of the CPU quota in microseconds.")
@number("--cpu-quota", help="Microseconds of CPU in every period.")
@number("--cpu-rt-period", help="Real-time period in microseconds.")
@number("--cpu-rt-runtime", help="Real-time runtime in microseconds.")
@number("-c", "--cpu-shares", help="Relative weight of CPU time.")
@text("--cpus", help="Number of CPUs, such as 1.5.", metavar="decimal")
@text("--cpuset-cpus", help="CPUs to run on, such as 0-3 or 0,1.", default=None)
@text("--cpuset-mems", help="Memory nodes to use, such as 0-3 or 0,1.", default=None)
@text("-m", "--memory", help="Limit of memory, such as 512m.", metavar="bytes")
@text("--memory-reservation", help="Memory to fall back to when it gets scarce.", metavar="bytes")
@text("--memory-swap", help="Limit of memory and swap together; -1 is none.", metavar="bytes")
@number("--pids-limit", help="Number of processes; -1 is any.")
@text("--restart", help="When to start again: no, always, unless-stopped, on-failure[:max].")
@several("containers", "CONTAINER", complete=completers.containers)
def update_command(containers: tuple[str, ...], **given: Any) -> None:
    """Change the limits of containers, running ones too."""
    body = update_request(given)
    if not body:
        raise click.UsageError("you must provide one or more flags when using this command")
    api = client()

    def update(name: str) -> None:
        for warning in items(api.post(f"/containers/{segment(name)}/update", body), "Warnings"):
            warn(warning)

    each(containers, update)


def update_request(given: dict[str, Any]) -> dict[str, Any]:
    """Only what was given. Pure. Raises FlagError."""
    body = {key: given[name] for name, key in _NUMBERS.items() if given[name] is not None}
    for name, key in _SIZES.items():
        if given[name]:
            body[key] = -1 if given[name] == "-1" and name == "memory_swap" else _size(name, given[name])
    if given["cpus"]:
        body["NanoCpus"] = nano_cpus(given["cpus"])
    if given["restart"]:
        body["RestartPolicy"] = restart_policy(given["restart"])
    return body


def _size(name: str, given: str) -> int:
    try:
        return parse_size(given)
    except InvalidArgument as cause:
        raise invalid(f"--{name.replace('_', '-')}", given, cause.hint) from cause
