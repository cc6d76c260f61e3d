"""`pymachine url`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import get, machines, wanted
from pymachine.errors import Conflict


@click.command("url")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Print where the engines of machines listen."""
    for name in wanted(session, names):
        machine = get(session, name)
        machine.need_running()
        if not machine.url():
            raise Conflict(f"machine {name!r} has no engine")
        click.echo(machine.url())
