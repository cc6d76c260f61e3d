"""What every command shares: the client that the global options chose, names, and one way to fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from longshore.cli.client import ApiError, Client, Unreachable
from longshore.cli.flags import many, text
from longshore.errors import EngineError


def client() -> Client:
    """The client of this invocation."""
    return click.get_current_context().find_root().obj


def each(names: Sequence[str], act: Callable[[str], Any], *, echo: bool = True) -> None:
    """Do it for every name, go on after a failure, exit 1 in the end if any failed; prints each done name.

    Raises Unreachable at once: the next name would not fare better.
    """
    failed = False
    for name in names:
        try:
            act(name)
        except Unreachable:
            raise
        except EngineError as error:
            complain(error)
            failed = True
        else:
            if echo:
                click.echo(name)
    if failed:
        raise click.exceptions.Exit(1)


def complain(error: object) -> None:
    """The one shape of an error: a line on standard error."""
    click.echo(f"Error: {error}", err=True)


def warn(text: object) -> None:
    click.echo(f"WARNING: {text}", err=True)


def confirmed(question: str, *, force: bool) -> bool:
    """Whether to go on with what cannot be undone; without a terminal only `force` says yes."""
    if force:
        return True
    click.echo(f"WARNING! {question}\nAre you sure you want to continue? [y/N] ", nl=False)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        click.echo()
        return False


format_option = text("--format", help="json, table, table TEMPLATE, or a Go template such as {{.Names}}.")
inspect_format_option = text("-f", "--format", help="json, or a Go template such as {{.Id}}.")
filter_option = many("-f", "--filter", "filters", help="Only what matches name=value.", metavar="filter")

__all__ = [
    "ApiError",
    "Unreachable",
    "client",
    "complain",
    "confirmed",
    "each",
    "filter_option",
    "format_option",
    "inspect_format_option",
    "warn",
]
