"""`longshore image why`."""

from __future__ import annotations

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import client, format_option
from longshore.cli.flags import command, one
from longshore.cli.output import emit, json_row, show_object, table
from longshore.oci.units import human_size


@command("why")
@one("id", "IMAGE|DIGEST", complete=completers.images)
@format_option
def why_command(id: str, format: str) -> None:
    """Show what holds an image, a blob or a layer, by name, id or digest."""
    found = client().get(f"/longshore/v1/images/{segment(id)}/why")
    if format == "json":
        emit(json_row(found))
        return
    if format:
        show_object(found, format)
        return
    emit(f"{found['kind']} {found['id']}, {human_size(found['size'])}")
    if not found["held_by"]:
        emit("nothing holds it: the next collection takes it")
        return
    emit("")
    table(
        ["HELD BY", "NAME", ""], [[each["kind"], each["name"], each["detail"]] for each in found["held_by"]]
    )
