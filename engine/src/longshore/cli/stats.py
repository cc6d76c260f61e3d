"""`longshore stats`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import click

from longshore.cli import completers
from longshore.cli.client import Client, segment
from longshore.cli.context import client, complain, format_option
from longshore.cli.flags import command, flag, several
from longshore.cli.output import items, show
from longshore.errors import EngineError
from longshore.oci.units import binary_size, human_size

COLUMNS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
TABLE = "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs"
NOTHING: Mapping[str, Any] = {}
_EVERY = 0.5  # seconds between two looks of a screen


def cpu_percent(sample: Mapping[str, Any]) -> float:
    """Share of one CPU, of all CPUs' time between the two readings of a sample."""
    now, before = sample["cpu_stats"], sample["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    count = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ())
    return used / passed * count * 100 if used > 0 and passed > 0 else 0.0


def memory_used(stats: Mapping[str, Any]) -> int:
    """Usage without the page cache that nobody would miss: total_inactive_file (v1) or inactive_file (v2)."""
    usage = stats.get("usage", 0)
    details: Mapping[str, int] = stats.get("stats") or {}
    for name in ("total_inactive_file", "inactive_file"):
        if 0 < details.get(name, 0) < usage:
            return usage - details[name]
    return usage


def stats_row(asked: str, sample: Mapping[str, Any], *, truncate: bool) -> dict[str, Any]:
    """One line of `stats`. Pure."""
    memory: Mapping[str, Any] = sample.get("memory_stats") or {}
    used, limit = memory_used(memory), memory.get("limit", 0)
    networks: Mapping[str, Any] = sample.get("networks") or {}
    received = sum(each["rx_bytes"] for each in networks.values())
    sent = sum(each["tx_bytes"] for each in networks.values())
    blocks = items(sample.get("blkio_stats") or NOTHING, "io_service_bytes_recursive")
    read = sum(entry["value"] for entry in blocks if entry["op"].lower() == "read")
    written = sum(entry["value"] for entry in blocks if entry["op"].lower() == "write")
    identifier = sample.get("id") or ""
    return {
        "Container": asked,
        "ID": identifier[:12] if truncate else identifier,
        "Name": str(sample.get("name") or "").removeprefix("/"),
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human_size(received, digits=3)} / {human_size(sent, digits=3)}",
        "BlockIO": f"{human_size(read, digits=3)} / {human_size(written, digits=3)}",
        "PIDs": str((sample.get("pids_stats") or NOTHING).get("current", 0)),
    }


def empty_row(asked: str, name: str = "--") -> dict[str, Any]:
    """A container that has not told anything yet."""
    row = dict.fromkeys(COLUMNS, "--")
    return row | {"Container": asked, "ID": asked[:12], "Name": name, "MemUsage": "-- / --", "PIDs": "--"}


class Board:
    """The newest sample of every container; filled by one thread each."""

    def __init__(self, api: Client, *, stream: bool) -> None:
        self._api, self._stream = api, stream
        self._lock = threading.Lock()
        self._samples: dict[str, Mapping[str, Any] | None] = {}
        self._threads: dict[str, threading.Thread] = {}
        self.failures: list[EngineError] = []

    def watch(self, name: str) -> None:
        """Begin with a container; twice is fine."""
        with self._lock:
            if name in self._samples:
                return
            self._samples[name] = None
            thread = threading.Thread(target=self._read, args=(name,), daemon=True)
            self._threads[name] = thread
        thread.start()

    def forget(self, name: str) -> None:
        with self._lock:
            self._samples.pop(name, None)

    def _read(self, name: str) -> None:
        path = f"/containers/{segment(name)}/stats"
        try:
            for sample in self._api.request("GET", path, {"stream": self._stream}).lines():
                with self._lock:
                    if name not in self._samples:
                        return
                    self._samples[name] = sample
        except EngineError as error:
            with self._lock:
                self._samples.pop(name, None)
                self.failures.append(error)
        else:
            if self._stream:
                self.forget(name)  # it has been removed

    def wait(self) -> None:
        """Until every thread has ended."""
        for thread in list(self._threads.values()):
            thread.join()

    def rows(self, *, truncate: bool) -> list[dict[str, Any]]:
        with self._lock:
            samples = dict(self._samples)
        return [
            stats_row(name, each, truncate=truncate) if each else empty_row(name)
            for name, each in samples.items()
        ]


@command("stats")
@flag("-a", "--all", help="Also those that do not run.")
@format_option
@flag("--no-stream", help="Show one reading and end.")
@flag("--no-trunc", help="Do not shorten.")
@several("containers", "CONTAINER", required=False, complete=completers.running)
def stats_command(
    containers: tuple[str, ...], all: bool, format: str, no_stream: bool, no_trunc: bool
) -> None:
    """Show what containers use, as it changes."""
    api = client()
    board = Board(api, stream=not no_stream)
    for name in containers or [view["Id"] for view in api.get("/containers/json", all=all)]:
        board.watch(name)
    if no_stream:
        board.wait()
        _print(board, format, truncate=not no_trunc)
        for failure in board.failures:
            complain(failure)
        if board.failures:
            raise click.exceptions.Exit(1)
        return
    if not containers:
        threading.Thread(target=_follow, args=(api, board), kwargs={"all": all}, daemon=True).start()
    _screen(board, format, named=bool(containers), truncate=not no_trunc)


def _follow(api: Client, board: Board, *, all: bool) -> None:
    """New containers join the board, gone ones leave it."""
    wanted = {"type": ["container"], "event": ["create", "start", "die", "destroy"]}
    for event in api.request("GET", "/events", {"filters": wanted}).lines():
        identifier = event["Actor"]["ID"]
        match event["Action"]:
            case "create" if all:
                board.watch(identifier)
            case "start":
                board.watch(identifier)
            case "die" if not all:
                board.forget(identifier)
            case "destroy":
                board.forget(identifier)
            case _:
                pass


def _screen(board: Board, format: str, *, named: bool, truncate: bool) -> None:
    """Show the board again and again; ends when all of the named containers are gone."""
    while True:
        sys.stdout.write("\x1b[H\x1b[2J")
        _print(board, format, truncate=truncate)
        sys.stdout.flush()
        time.sleep(_EVERY)
        if board.failures:
            raise board.failures[0]
        if named and not board.rows(truncate=truncate):
            return


def _print(board: Board, format: str, *, truncate: bool) -> None:
    show(board.rows(truncate=truncate), COLUMNS, format=format, default=TABLE)
