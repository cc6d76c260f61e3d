"""`pymachine provision`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import change, machines


@click.command("provision")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Bring engine, settings and certificates of machines in order again."""
    change(session, names, "provision", lambda machine: machine.provision())
