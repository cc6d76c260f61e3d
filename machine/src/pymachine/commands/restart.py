"""`pymachine restart`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import change, machines


@click.command("restart")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Stop and start machines."""
    change(session, names, "restart", lambda machine: machine.restart())
