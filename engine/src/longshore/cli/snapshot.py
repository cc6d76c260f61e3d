"""A container's files as an image or an archive: `longshore commit` and `export`."""

from __future__ import annotations

from longshore.cli import completers
from longshore.cli.archives import write_archive
from longshore.cli.client import segment
from longshore.cli.context import client
from longshore.cli.flags import command, flag, many, one, text
from longshore.cli.output import emit
from longshore.cli.references import split_reference


@command("commit")
@text("-a", "--author", help="Who made it.")
@many("-c", "--change", "changes", help="Dockerfile instruction to apply to the image.")
@text("-m", "--message", help="Why it was made.")
@flag("-p", "--pause", help="Pause the container meanwhile.", default=True)
@one("container", "CONTAINER", complete=completers.containers)
@one("reference", "[REPOSITORY[:TAG]]", required=False)
def commit_command(
    container: str, reference: str, author: str, changes: tuple[str, ...], message: str, pause: bool
) -> None:
    """Make an image of a container's files."""
    repository, tag = split_reference(reference) if reference else ("", "")
    query = {
        "container": container,
        "repo": repository,
        "tag": tag,
        "comment": message,
        "author": author,
        "changes": list(changes),
        "pause": pause,
    }
    emit(client().request("POST", "/commit", query, {}).json()["Id"])


@command("export")
@text("-o", "--output", help="File instead of standard output.")
@one("container", "CONTAINER", complete=completers.containers)
def export_command(container: str, output: str) -> None:
    """Write a container's files to a tar archive."""
    write_archive(
        lambda: client().request("GET", f"/containers/{segment(container)}/export"), output, "exported"
    )
