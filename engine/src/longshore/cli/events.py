"""`longshore events`."""

from __future__ import annotations

import sys
from typing import Any

from longshore.cli.context import client, filter_option
from longshore.cli.flags import command, text
from longshore.cli.output import emit, parse_filters, point_in_time


@command("events")
@filter_option
@text("--format", help="json, or a Go template such as {{.Action}}.")
@text("--since", help="Also what happened since: 2026-01-02T13:23:37Z, a Unix time, or 42m ago.")
@text("--until", help="Stop at this time.")
def events_command(since: str, until: str, filters: tuple[str, ...], format: str) -> None:
    """Show what happens, as it happens."""
    from longshore.cli.template import Template
    from longshore.cli.template_functions import to_json

    template = Template(format) if format and format != "json" else None
    query = {
        "since": point_in_time(since, "--since"),
        "until": point_in_time(until, "--until"),
        "filters": parse_filters(filters),
    }
    for event in client().request("GET", "/events", query).lines():
        attributes: dict[str, str] = event["Actor"].get("Attributes") or {}
        event["Actor"]["Attributes"] = dict(sorted(attributes.items()))
        if template:
            emit(template.render(event | _go_names(event)))
        else:
            emit(to_json(event) if format else event_line(event))
        sys.stdout.flush()


def _go_names(event: dict[str, Any]) -> dict[str, Any]:
    """The names that templates know those fields by whose JSON names are lower case."""
    names = {
        "id": "ID",
        "status": "Status",
        "from": "From",
        "scope": "Scope",
        "time": "Time",
        "timeNano": "TimeNano",
    }
    return {name: event.get(key, "") for key, name in names.items()}


def event_line(event: dict[str, Any]) -> str:
    """One event as docker writes it: time, type, action, id, (attributes)."""
    from datetime import datetime

    seconds, nanoseconds = divmod(int(event["timeNano"]), 10**9)
    zone = datetime.fromtimestamp(seconds).astimezone().strftime("%z")
    at = datetime.fromtimestamp(seconds).strftime("%Y-%m-%dT%H:%M:%S")
    shown = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    attributes: dict[str, str] = event["Actor"].get("Attributes") or {}
    pairs = ", ".join(f"{key}={value}" for key, value in attributes.items())
    line = f"{at}.{nanoseconds:09d}{shown} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{line} ({pairs})" if pairs else line
