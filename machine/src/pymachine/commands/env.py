"""`pymachine env`."""

import os
import shlex

import click

from pymachine import shells
from pymachine.commands import Session
from pymachine.commands._common import get, one_machine
from pymachine.errors import Conflict
from pymachine.names import DEFAULT


@click.command("env")
@click.option(
    "--shell", default="", metavar="SHELL", help=f"Syntax: {', '.join(shells.SHELLS)}. [default: $SHELL]"
)
@click.option("-u", "--unset", is_flag=True, help="Take the variables back.")
@one_machine
@click.pass_obj
def command(session: Session, shell: str, unset: bool, name: str) -> None:
    """Print what points Docker clients at a machine: eval $(pymachine env web1)."""
    chosen = shells.detect(shell, os.environ)
    words = ["pymachine", *(["-s", session.storage_flag] if session.storage_flag else []), "env"]
    if shell:
        words += ["--shell", shell]
    if unset:
        text = shells.assignments(chosen, shells.unset())
        click.echo(text + shells.usage(chosen, shlex.join([*words, "-u"])), nl=False)
        return
    machine = get(session, name)
    machine.need_running()
    if not machine.url():
        raise Conflict(f"machine {name!r} has no engine")
    machine.engine_version()
    folder = machine.certificates
    values = {
        "DOCKER_TLS_VERIFY": "1" if folder else "",
        "DOCKER_HOST": machine.url(),
        "DOCKER_CERT_PATH": str(folder) if folder else "",
        "DOCKER_MACHINE_NAME": name,
    }
    if name != DEFAULT:
        words.append(name)
    click.echo(shells.assignments(chosen, values) + shells.usage(chosen, shlex.join(words)), nl=False)
