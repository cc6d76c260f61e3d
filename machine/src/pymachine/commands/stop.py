"""`pymachine stop`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import change, machines


@click.command("stop")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Stop machines gracefully."""
    change(session, names, "stop", lambda machine: machine.stop())
