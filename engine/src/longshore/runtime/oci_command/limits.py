"""pause, resume, update."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from longshore.errors import Conflict, InvalidArgument, Unsupported
from longshore.oci.runtime_spec import BlockIo, Cpu, Memory, Pids, Resources
from longshore.runtime import cgroups
from longshore.runtime.oci_command.arguments import Given
from longshore.runtime.oci_command.context import Context

_MULTIPLES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def pause(context: Context) -> None:
    held = context.load()
    status = context.store.status(held)
    if status not in ("running", "created"):
        raise Conflict(f'container not running or created: {status}: "{held.id}"')
    cgroups.freeze(held.cgroup)


def resume(context: Context) -> None:
    held = context.load()
    if context.store.status(held) != "paused":
        raise Conflict(f'container not paused: "{held.id}"')
    cgroups.thaw(held.cgroup)


def update(context: Context) -> None:
    held = context.load()
    if context.store.status(held) == "stopped":
        raise Conflict(f'container not running: "{held.id}"')
    resources = resources_of(context.given)
    try:
        context.warn(cgroups.update(held.cgroup, resources))
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid configuration: {error.what}", detail=error.detail) from error


def resources_of(given: Given) -> Resources:
    """From the file of --resources, or from the options. Raises InvalidArgument."""
    if given.has("l3-cache-schema") or given.has("mem-bw-schema"):
        raise Unsupported("linux.intelRdt: resource director technology is not supported")
    if path := given.text("resources"):
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return msgspec.json.decode(data, type=Resources)

    def number(name: str) -> int | None:
        return given.number(name) if given.has(name) else None

    def size(name: str) -> int | None:
        return parse_size(name, given.text(name)) if given.has(name) else None

    memory = Memory(
        limit=size("memory"),
        reservation=size("memory-reservation"),
        swap=size("memory-swap"),
        kernel_tcp=size("kernel-memory-tcp"),
    )
    if memory.limit == -1 and memory.swap is None:
        memory = msgspec.structs.replace(
            memory, swap=-1
        )  # a limit of both above none of the first makes no sense
    cpu = Cpu(
        shares=number("cpu-share"),
        quota=number("cpu-quota"),
        burst=number("cpu-burst"),
        period=number("cpu-period"),
        realtime_runtime=number("cpu-rt-runtime"),
        realtime_period=number("cpu-rt-period"),
        cpus=given.text("cpuset-cpus"),
        mems=given.text("cpuset-mems"),
        idle=number("cpu-idle"),
    )
    return Resources(
        memory=memory,
        cpu=cpu,
        pids=Pids(given.number("pids-limit")) if given.has("pids-limit") else None,
        block_io=BlockIo(weight=number("blkio-weight")),
    )


def parse_size(name: str, text: str) -> int:
    """67108864, 50M, 1g; -1 for no limit. Raises InvalidArgument."""
    if text == "-1":
        return -1
    digits = text.lower().removesuffix("b").removesuffix("i")
    unit = digits[-1:] if not digits[-1:].isdecimal() else ""
    digits = digits.removesuffix(unit) if unit else digits
    if not digits.isdecimal() or unit not in _MULTIPLES:
        raise InvalidArgument(f'invalid value for {name}: "{text}"')
    return int(digits) << _MULTIPLES[unit]
