"""`pymachine version`."""

import click

from pymachine import __version__
from pymachine.commands import Session
from pymachine.commands._common import get, wanted


@click.command("version")
@click.argument("name", metavar="[MACHINE]", default="")
@click.pass_obj
def command(session: Session, name: str) -> None:
    """Print the version of pymachine, or of the engine on a machine."""
    if not name:
        click.echo(f"pymachine version {__version__}")
        return
    (name,) = wanted(session, [name])
    click.echo(get(session, name).engine_version())
