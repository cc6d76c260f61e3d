"""Reading a container's entries from the journal, through journalctl(1)."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import msgspec

from longshore.errors import Unsupported
from longshore.runtime.logdrivers import Wanted
from longshore.runtime.logentries import LogLine, format_time
from longshore.runtime.messages import LogSource

JOURNALCTL = ("journalctl",)
QUIET_ROUNDS = 3
"""After a container has ended: so many looks, 0.1 s apart, that bring nothing more end a `logs --follow`."""

_OWN_FIELDS = frozenset(
    [
        "MESSAGE",
        "MESSAGE_ID",
        "PRIORITY",
        "CODE_FILE",
        "CODE_LINE",
        "CODE_FUNC",
        "ERRNO",
        "SYSLOG_FACILITY",
        "SYSLOG_IDENTIFIER",
        "SYSLOG_PID",
        "SYSLOG_TIMESTAMP",
        "CONTAINER_NAME",
        "CONTAINER_ID",
        "CONTAINER_ID_FULL",
        "CONTAINER_TAG",
        "IMAGE_NAME",
        "CONTAINER_PARTIAL_MESSAGE",
        "CONTAINER_PARTIAL_ID",
        "CONTAINER_PARTIAL_ORDINAL",
        "CONTAINER_PARTIAL_LAST",
        "CONTAINER_LOG_EPOCH",
        "CONTAINER_LOG_ORDINAL",
    ]
)


def command(source: LogSource, wanted: Wanted, *, cursor: str = "", follow: bool = False) -> list[str]:
    """The journalctl(1) call for what is wanted. Pure."""
    words = [*JOURNALCTL, "--quiet", "--no-pager", "--all", "--output=json"]
    if wanted.since:
        words.append(f"--since=@{wanted.since / 1e9:.6f}")
    if wanted.until and not follow:
        words.append(f"--until=@{wanted.until / 1e9:.6f}")
    if cursor:
        words.append(f"--after-cursor={cursor}")
    elif wanted.tail is not None:
        words.append(f"--lines={wanted.tail}")
    else:
        words.append("--lines=all")
    if follow:
        words.append("--follow")
    return [*words, f"CONTAINER_ID_FULL={source.id}"]


_decoder = msgspec.json.Decoder(dict[str, Any])


def parse_entry(line: bytes) -> tuple[LogLine, str] | None:
    """One line of journalctl's JSON and its cursor; None for one that is not ours. Pure."""
    try:
        entry = _decoder.decode(line)
    except msgspec.MsgspecError:
        return None
    priority = entry.get("PRIORITY")
    if priority not in ("3", "6"):
        return None
    data = _bytes(entry.get("MESSAGE"))
    if entry.get("CONTAINER_PARTIAL_MESSAGE") != "true":
        data += b"\n"
    stamp = entry.get("SYSLOG_TIMESTAMP") or format_time(int(entry.get("__REALTIME_TIMESTAMP", 0)) * 1000)
    attributes = {
        name: _bytes(value).decode(errors="replace")
        for name, value in entry.items()
        if not name.startswith("_") and name not in _OWN_FIELDS
    }
    stream = "stderr" if priority == "3" else "stdout"
    return LogLine(stream, str(stamp), data, attributes or None), str(entry.get("__CURSOR", ""))


def _bytes(value: Any) -> bytes:
    """journalctl writes what is not text as a list of numbers, and a field that occurs twice as a list of values."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if all(isinstance(item, int) for item in items):
            return bytes(items)
        return _bytes(items[0]) if items else b""
    return b""


async def read_journal(source: LogSource, wanted: Wanted) -> AsyncGenerator[list[LogLine]]:
    """Raises Unsupported without journalctl."""
    streams = {name for name, on in (("stdout", wanted.stdout), ("stderr", wanted.stderr)) if on}
    last = format_time(wanted.until) if wanted.until else ""
    cursor, quiet = "", 0
    following = wanted.follow is not None and not wanted.follow.is_set()
    while quiet < (1 if wanted.follow is None else QUIET_ROUNDS):
        quiet += 1
        end = asyncio.create_task(_end(wanted)) if following else None
        try:
            async for entries in _run(command(source, wanted, cursor=cursor, follow=following), end):
                cursor, quiet = entries[-1][1], 0
                lines = [line for line, _ in entries if line.stream in streams]
                if lines := [line for line in lines if not last or line.time_text <= last]:
                    yield lines
        finally:
            if end:
                end.cancel()
        if wanted.follow is None:
            return
        # What the container wrote last is still on its way through the helper and the journal
        following = False
        await asyncio.sleep(0.1)


async def _end(wanted: Wanted) -> None:
    """The container has ended or `until` is over."""
    assert wanted.follow is not None
    left = max(0.0, wanted.until / 1e9 - time.time()) if wanted.until else None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(left):
            await wanted.follow.wait()


async def _run(words: list[str], end: asyncio.Task[None] | None) -> AsyncGenerator[list[tuple[LogLine, str]]]:
    """The entries that one journalctl prints, until it ends or is told to by `end`."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as cause:
        raise Unsupported(
            "cannot read the journal", detail="there is no journalctl here", hint="install systemd's tools"
        ) from cause
    assert process.stdout is not None
    if end:
        end.add_done_callback(lambda _done: _terminate(process))
    try:
        rest = b""
        while data := await process.stdout.read(1 << 18):
            *complete, rest = (rest + data).split(b"\n")
            if entries := [entry for line in complete if (entry := parse_entry(line))]:
                yield entries
    finally:
        _terminate(process)
        await process.wait()


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
