"""`pymachine start`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import change, machines


@click.command("start")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Start machines and wait until they can be used."""
    change(session, names, "start", lambda machine: machine.start())
