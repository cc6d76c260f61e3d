"""`pymachine ip`."""

import click

from pymachine.commands import Session
from pymachine.commands._common import get, machines, wanted


@click.command("ip")
@machines
@click.pass_obj
def command(session: Session, names: tuple[str, ...]) -> None:
    """Print the IP addresses of machines."""
    for name in wanted(session, names):
        machine = get(session, name)
        machine.need_running()
        click.echo(machine.driver.address())
