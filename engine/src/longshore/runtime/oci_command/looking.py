"""state, list, ps, events, features."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import Any

from longshore.errors import Conflict, InvalidArgument, NotFound, Unsupported
from longshore.runtime.oci_command.context import Context
from longshore.runtime.oci_command.store import State, is_alive, open_process

_OOM_PAUSE = 0.1  # seconds between two looks at the kernel's counter


def _public(context: Context, held: State) -> dict[str, Any]:
    status = context.store.status(held)
    public: dict[str, Any] = {
        "ociVersion": held.oci_version,
        "id": held.id,
        "pid": 0 if status == "stopped" else held.pid,
        "status": status,
        "bundle": held.bundle,
        "rootfs": held.rootfs,
        "created": held.created,
    }
    if held.annotations:
        public["annotations"] = held.annotations
    public["owner"] = held.owner
    return public


def state(context: Context) -> None:
    print(json.dumps(_public(context, context.load()), indent=2))


def list_all(context: Context) -> None:
    form = context.given.text("format")
    if form not in ("table", "json"):
        raise InvalidArgument(f'invalid format option "{form}"')
    found = [_public(context, held) for held in context.store.all()]
    if context.given.flag("quiet"):
        for each in found:
            print(each["id"])
    elif form == "json":
        print(json.dumps(found, separators=(",", ":")))
    else:
        names = ("id", "pid", "status", "bundle", "created", "owner")
        rows = [
            tuple(name.upper() for name in names),
            *(tuple(str(each[name]) for name in names) for each in found),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def processes(context: Context) -> None:
    """The container's lines of the host's ps, or the numbers as JSON."""
    from longshore.runtime import cgroups

    form = context.given.text("format")
    if form not in ("table", "json"):
        raise InvalidArgument(f'invalid format option "{form}"')
    pids = cgroups.processes(context.load().cgroup)
    if form == "json":
        print(json.dumps(sorted(pids)))
        return
    arguments = context.given.words[1:] or ["-ef"]
    try:
        listed = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unsupported("this machine has no ps", hint="install procps, or use --format json") from None
    if listed.returncode:
        raise InvalidArgument("ps failed", detail=listed.stderr.strip())
    head, *lines = listed.stdout.splitlines()
    if "PID" not in head.split():
        raise InvalidArgument("couldn't find PID field in ps output")
    column = head.split().index("PID")
    print(head)
    for line in lines:
        fields = line.split()
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            print(line)


def events(context: Context) -> None:
    """One line of JSON per event: statistics each interval, and each time the kernel kills for memory."""
    held = context.load()
    interval = _seconds(context.given.text("interval"))
    if not is_alive(held):
        raise Conflict(f'container with id "{held.id}" is not running')
    _print_event(held, "stats")
    if context.given.flag("stats"):
        return
    pidfd = open_process(held)
    if pidfd is None:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    seen, due = _oom_kills(held), time.monotonic() + interval
    while not poll.poll(min(_OOM_PAUSE, interval) * 1000):
        killed = _oom_kills(held)
        for _each in range(killed - seen):
            _print_event(held, "oom")
        seen = max(seen, killed)
        if time.monotonic() >= due:
            due = time.monotonic() + interval
            _print_event(held, "stats")
    os.close(pidfd)


def _print_event(held: State, kind: str) -> None:
    event: dict[str, Any] = {"type": kind, "id": held.id}
    if kind == "stats":
        from longshore.runtime.oci_command.statistics import statistics

        try:
            event["data"] = statistics(held.cgroup)
        except NotFound:
            return  # deleted meanwhile
    print(json.dumps(event, separators=(",", ":")), flush=True)


def _oom_kills(held: State) -> int:
    from longshore.kernel import cgroups as files
    from longshore.runtime.cgroup_layout import layout

    hierarchy = layout().find("memory")
    if hierarchy is None:
        return 0
    file = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
    try:
        return files.read_pairs(f"{hierarchy.path(held.cgroup)}/{file}").get("oom_kill", 0)
    except OSError:
        return 0


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    """100ms, 1.5s, 1m30s: a duration of Go. Raises InvalidArgument."""
    import re

    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f'--interval: "{text}" is not a duration like 5s')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    return seconds


def features(_context: Context) -> None:
    from longshore.runtime.bundle import features as known

    print(json.dumps(known(), indent=2))
