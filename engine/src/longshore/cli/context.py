"""What every command shares: the client that the global options chose, and one way to fail."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from longshore.cli.client import ApiError, Client, Unreachable

Function = TypeVar("Function", bound=Callable[..., Any])


def client() -> Client:
    """The client of this invocation."""
    return click.get_current_context().find_root().obj


def each(names: tuple[str, ...], act: Callable[[str], Any], *, echo: bool = True) -> None:
    """Do it for every name, go on after a failure, exit 1 in the end if any failed; prints each done name."""
    failed = False
    for name in names:
        try:
            act(name)
        except ApiError as error:
            click.echo(f"Error: {error}", err=True)
            failed = True
        else:
            if echo:
                click.echo(name)
    if failed:
        raise click.exceptions.Exit(1)


def format_option(function: Function) -> Function:
    return click.option("--format", default="", help="`json`, `table …` or a template such as {{.Names}}.")(
        function
    )


def filter_option(function: Function) -> Function:
    return click.option("-f", "--filter", "filters", multiple=True, help="name=value; may be repeated.")(
        function
    )


__all__ = ["ApiError", "Unreachable", "client", "each", "filter_option", "format_option"]
