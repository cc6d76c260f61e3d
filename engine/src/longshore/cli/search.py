"""`longshore search`."""

from __future__ import annotations

from typing import Any

from longshore.cli.context import client, filter_option, format_option
from longshore.cli.flags import command, flag, number, one
from longshore.cli.output import ellipsis, parse_filters, show
from longshore.cli.pull import registry_login

COLUMNS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}


@command("search")
@filter_option
@format_option
@number("--limit", help="How many results at most, 25 otherwise.")
@flag("--no-trunc", help="Do not shorten.")
@one("term", "TERM")
def search_command(term: str, filters: tuple[str, ...], format: str, limit: int, no_trunc: bool) -> None:
    """Search a registry for images: REGISTRY/TEXT, or Docker Hub without a registry."""
    query = {"term": term, "limit": limit or None, "filters": parse_filters(filters) or None}
    found = client().request("GET", "/images/search", query, headers=registry_login(term)).json()
    show(
        [_row(one, truncate=not no_trunc) for one in found],
        COLUMNS,
        format=format,
        default="Name Description StarCount IsOfficial",
    )


def _row(found: dict[str, Any], *, truncate: bool) -> dict[str, Any]:
    description = found["description"].replace("\n", " ").replace("\r", " ")
    return {
        "Name": found["name"],
        "Description": ellipsis(description, 45) if truncate else description,
        "StarCount": found["star_count"],
        "IsOfficial": "[OK]" if found["is_official"] else "",
        "IsAutomated": "[OK]" if found["is_automated"] else "",
    }
