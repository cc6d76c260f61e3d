"""`longshore pull` and `push`."""

from __future__ import annotations

from typing import Any

from longshore.cli import completers
from longshore.cli.client import Client, segment
from longshore.cli.context import client
from longshore.cli.flags import command, flag, one, text
from longshore.cli.output import emit
from longshore.cli.progress import Progress
from longshore.cli.references import registry_of, split_reference


def registry_login(name: str) -> dict[str, str]:
    """The stored login of an image's registry, as the header to send; {} without one."""
    from longshore.cli.config import auth_header
    from longshore.cli.login import config_file

    return auth_header(config_file().get(registry_of(name)))


def pull_image(
    api: Client,
    reference: str,
    *,
    platform: str = "",
    quiet: bool = False,
    every: bool = False,
    stream: Any = None,
) -> None:
    """Pull with progress on `stream`. Raises EngineError."""
    name, tag = split_reference(reference)
    query = {"fromImage": name, "tag": "" if every else tag, "platform": platform}
    progress = Progress(quiet=quiet, stream=stream)
    for message in api.request("POST", "/images/create", query, headers=registry_login(name)).lines():
        progress.feed(message)


def familiar_name(reference: str) -> str:
    """The whole name of an image, as docker prints it after a quiet pull: with its registry. Pure."""
    name, tag = split_reference(reference)
    host = registry_of(name)
    rest = name
    if host == "docker.io":
        rest = name.removeprefix("docker.io/")
        rest = f"docker.io/{rest if '/' in rest else f'library/{rest}'}"
    return f"{rest}{'@' if ':' in tag else ':'}{tag}"


@command("pull")
@flag("-a", "--all-tags", help="All tags of the repository.")
@flag("--disable-content-trust", help="Has no meaning here: signatures are not looked at.", default=True)
@text("--platform", help="os/arch[/variant]")
@flag("-q", "--quiet", help="No progress.")
@one("reference", "NAME[:TAG|@DIGEST]", complete=completers.images)
def pull_command(
    reference: str, all_tags: bool, disable_content_trust: bool, platform: str, quiet: bool
) -> None:
    """Pull an image from a registry."""
    name, tag = split_reference(reference)
    if not quiet and not all_tags and tag == "latest" and name == reference:
        emit("Using default tag: latest")
    pull_image(client(), reference, platform=platform, quiet=quiet, every=all_tags)
    emit(name if all_tags else familiar_name(reference))


@command("push")
@flag("-a", "--all-tags", help="All tags of the repository.")
@flag("--disable-content-trust", help="Has no meaning here: nothing is signed.", default=True)
@text("--platform", help="Only this os/arch[/variant] of an image that has several.")
@flag("-q", "--quiet", help="No progress.")
@one("reference", "NAME[:TAG]", complete=completers.images)
def push_command(
    reference: str, all_tags: bool, disable_content_trust: bool, platform: str, quiet: bool
) -> None:
    """Push an image to a registry."""
    from longshore.cli.config import auth_header

    name, tag = split_reference(reference)
    query = {"tag": "" if all_tags else tag, "platform": platform}
    # Docker's daemon wants the header even of those who are not logged in
    headers = registry_login(name) or auth_header({"username": "", "password": ""})
    progress = Progress(quiet=quiet)
    for message in client().request("POST", f"/images/{segment(name)}/push", query, headers=headers).lines():
        progress.feed(message)
    if quiet:
        emit(familiar_name(reference))
