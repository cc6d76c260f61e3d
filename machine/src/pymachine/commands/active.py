"""`pymachine active`."""

import os

import click

from pymachine.commands import Session
from pymachine.errors import NotFound
from pymachine.listing import survey


@click.command("active")
@click.option(
    "-t", "--timeout", default=10.0, show_default=True, metavar="SECONDS", help="Wait at most so long."
)
@click.pass_obj
def command(session: Session, timeout: float) -> None:
    """Print which machine DOCKER_HOST points to."""
    host = os.environ.get("DOCKER_HOST", "")
    if host:
        for row in survey(session.store, session.store.names(), timeout=timeout, ask_engine=False):
            if row.active:
                click.echo(row.name)
                return
    raise NotFound("no active machine", hint="'eval $(pymachine env MACHINE)' makes one active")
