"""`pymachine kill`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import change, machines


@click.command("kill")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Stop machines at once."""
    change(session, names, "kill", lambda machine: machine.kill())
