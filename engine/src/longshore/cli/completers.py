"""What the shell offers for a word: names of containers, images, volumes and networks, from the daemon.

Each is a `shell_complete` of click: it must not fail, so without a daemon it offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from longshore.errors import EngineError

Completer = Callable[[click.Context, click.Parameter, str], list[str]]
_SECONDS = 3.0  # a shell that waits longer is a nuisance


def _ask(ctx: click.Context, path: str, **query: Any) -> Any:
    from longshore.cli.client import from_environment

    given = ctx.find_root().params
    try:
        api = from_environment(given.get("host"), given)
        api.timeout = _SECONDS
        return api.get(path, **query)
    except (EngineError, OSError, ValueError):
        return []


def _matching(names: list[str], incomplete: str, ctx: click.Context, parameter: click.Parameter) -> list[str]:
    given: object = ctx.params.get(str(parameter.name))
    used = set(cast("tuple[str, ...]", given)) if isinstance(given, tuple) else set[str]()
    return sorted({name for name in names if name.startswith(incomplete)} - used)


def _containers(states: str) -> Completer:
    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        filters = {"status": states.split()} if states else None
        found = _ask(ctx, "/containers/json", all=True, filters=filters)
        names = [name.removeprefix("/") for view in found for name in view["Names"]]
        if incomplete:  # ids too, once somebody begins to write one
            names += [view["Id"][:12] for view in found]
        return _matching(names, incomplete, ctx, parameter)

    return complete


containers = _containers("")
running = _containers("running paused restarting")
stopped = _containers("exited created dead")
paused = _containers("paused")


def images(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    names = [
        tag
        for view in _ask(ctx, "/images/json")
        for tag in view.get("RepoTags") or ()
        if tag != "<none>:<none>"
    ]
    names += [name.rpartition(":")[0] for name in names if name.endswith(":latest")]
    return _matching(names, incomplete, ctx, parameter)


def volumes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from longshore.cli.output import items

    found = _ask(ctx, "/volumes")
    names = [view["Name"] for view in items(found, "Volumes")] if found else []
    return _matching(names, incomplete, ctx, parameter)


def networks(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return _matching([view["Name"] for view in _ask(ctx, "/networks")], incomplete, ctx, parameter)


def anything(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    kinds = (containers, images, volumes, networks)
    return sorted({name for kind in kinds for name in kind(ctx, parameter, incomplete)})


def container_paths(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """For `cp`: `name:` of containers, and files of this machine."""
    from click.shell_completion import CompletionItem

    names = [f"{name}:" for name in containers(ctx, parameter, incomplete)]
    return [*map(CompletionItem, names), CompletionItem(incomplete, type="file")]
