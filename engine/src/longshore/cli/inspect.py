"""`longshore inspect`, and that of every group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import ApiError, client, complain, inspect_format_option
from longshore.cli.flags import command, flag, invalid, several, text, words
from longshore.cli.output import show_objects
from longshore.errors import EngineError, NotFound

PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


def show_all(names: tuple[str, ...], find: Callable[[str], Any], format: str) -> None:
    """Show what is there, complain of what is not; exits with 1 then."""
    found: list[Any] = []
    failures: list[EngineError] = []
    for name in names:
        try:
            found.append(find(name))
        except ApiError as error:
            failures.append(error)
        except NotFound as error:
            failures.append(error)
    if found or not format:
        show_objects(found, format)
    for failure in failures:
        complain(failure)
    if failures:
        raise click.exceptions.Exit(1)


def _one_kind(kind: str, name: str, **query: Any) -> Any:
    return client().request("GET", PATHS[kind].format(segment(name)), query).json()


@command("inspect")
@inspect_format_option
@flag("-s", "--size", help="Also the sizes of containers.")
@text("--type", "kind", help=f"Only one kind: {', '.join(PATHS)}.", complete=words(*PATHS))
@several("names", "NAME|ID", complete=completers.anything)
def inspect_command(names: tuple[str, ...], format: str, size: bool, kind: str) -> None:
    """Show everything about containers, images, volumes or networks."""
    if kind and kind not in PATHS:
        raise invalid("--type", kind, f"write one of {', '.join(PATHS)}")

    def find(name: str) -> Any:
        for each in [kind] if kind else list(PATHS):
            try:
                return _one_kind(each, name, **({"size": size} if each == "container" else {}))
            except ApiError as error:
                if error.status != 404 or kind:
                    raise
        raise NotFound(f"no such object: {name}")

    show_all(names, find, format)


@command("inspect")
@inspect_format_option
@flag("-s", "--size", help="Also their sizes.")
@several("names", "CONTAINER", complete=completers.containers)
def inspect_container(names: tuple[str, ...], format: str, size: bool) -> None:
    """Show everything about containers."""
    show_all(names, lambda name: _one_kind("container", name, size=size), format)


@command("inspect")
@inspect_format_option
@text("--platform", help="os/arch[/variant] of an image that has several.")
@several("names", "IMAGE", complete=completers.images)
def inspect_image(names: tuple[str, ...], format: str, platform: str) -> None:
    """Show everything about images."""
    show_all(names, lambda name: _one_kind("image", name, platform=platform), format)


@command("inspect")
@inspect_format_option
@flag("-v", "--verbose", help="Also what a cluster knows.")
@several("names", "NETWORK", complete=completers.networks)
def inspect_network(names: tuple[str, ...], format: str, verbose: bool) -> None:
    """Show everything about networks."""
    show_all(names, lambda name: _one_kind("network", name, verbose=verbose), format)


@command("inspect")
@inspect_format_option
@several("names", "VOLUME", complete=completers.volumes)
def inspect_volume(names: tuple[str, ...], format: str) -> None:
    """Show everything about volumes."""
    show_all(names, lambda name: _one_kind("volume", name), format)
