"""`longshore logs`."""

from __future__ import annotations

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client
from longshore.cli.flags import command, flag, one, text
from longshore.cli.output import point_in_time


@command("logs")
@flag("--details", help="Also what the log driver adds to a line.")
@flag("-f", "--follow", help="Go on until the container ends.")
@text("--since", help="Only from this time on: 2026-01-02T13:23:37Z, a Unix time, or 42m ago.")
@text("-n", "--tail", help="Only the last N lines.", default="all")
@flag("-t", "--timestamps", help="A time before every line.")
@text("--until", help="Only before this time.")
@one("container", "CONTAINER", complete=completers.containers)
def logs_command(
    container: str, details: bool, follow: bool, since: str, tail: str, timestamps: bool, until: str
) -> None:
    """Show a container's output."""
    from longshore.cli.terminal import write_all
    from longshore.oci.frames import Demultiplexer

    query = {
        "stdout": True,
        "stderr": True,
        "details": details,
        "follow": follow,
        "timestamps": timestamps,
        "tail": tail,
        "since": point_in_time(since, "--since"),
        "until": point_in_time(until, "--until"),
    }
    api = client()
    path = f"/containers/{segment(container)}"
    if api.get(f"{path}/json")["Config"]["Tty"]:
        for data in api.request("GET", f"{path}/logs", query).chunks():
            write_all(1, data)
        return
    frames = Demultiplexer()
    for data in api.request("GET", f"{path}/logs", query).chunks():
        for stream, payload in frames.feed(data):
            write_all(2 if stream == 2 else 1, payload)
