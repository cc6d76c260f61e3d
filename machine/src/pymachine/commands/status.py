"""`pymachine status`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import get, one_machine, wanted
from pymachine.drivers.base import State
from pymachine.errors import MachineError


@click.command("status")
@one_machine
@click.pass_obj
def command(session: Session, name: str) -> None:
    """Print the state of a machine: Running, Stopped, Error, …

    A machine that cannot be asked is in state Error; why goes to standard error.
    """
    (name,) = wanted(session, [name])
    try:
        state = get(session, name).driver.state()
    except MachineError as error:
        session.progress.say(str(error))
        state = State.ERROR
    click.echo(state.value)
