"""`pymachine rm`."""

import click

from pymachine import machine
from pymachine.commands import Session
from pymachine.commands._common import for_each
from pymachine.errors import MachineError
from pymachine.names import parse_name
from pymachine.progress import Progress


@click.command("rm")
@click.option(
    "-f", "--force", is_flag=True, help="Forget the machine even if it cannot be removed; do not ask."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("names", metavar="MACHINE...", nargs=-1, required=True)
@click.pass_obj
def command(session: Session, force: bool, yes: bool, names: tuple[str, ...]) -> None:
    """Remove machines, with everything on them.

    Hosts of the driver 'generic' are only forgotten: the engine stays on them.
    """
    chosen = list(dict.fromkeys(parse_name(name) for name in names))
    if not (force or yes):
        click.echo(f"About to remove {', '.join(chosen)} with all data on them.", err=True)
        click.confirm("Are you sure?", abort=True, err=True)

    def remove(name: str, progress: Progress) -> None:
        try:
            if machine.remove(session.store, name, progress, force=force):
                click.echo(f"Removed {name}")
            else:
                progress.say(f"machine {name!r} does not exist")
        except MachineError as error:
            error.hint = error.hint or f"'pymachine rm -f {name}' forgets it in any case"
            raise

    for_each(session, chosen, remove)
