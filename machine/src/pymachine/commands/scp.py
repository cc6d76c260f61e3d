"""`pymachine scp`."""

import os
import shutil

import click

from pymachine.commands import Session
from pymachine.commands._common import get
from pymachine.commands.ssh import login
from pymachine.errors import Unsupported
from pymachine.ssh_command import Place, parse_place, scp_argv


@click.command("scp")
@click.option("-r", "--recursive", is_flag=True, help="Copy folders with what is in them.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.argument("source", metavar="[MACHINE:]PATH")
@click.argument("target", metavar="[MACHINE:]PATH")
@click.pass_obj
def command(session: Session, recursive: bool, quiet: bool, source: str, target: str) -> None:
    """Copy files to, from and between machines. A remote path is relative to the home folder."""
    argv = scp_argv(_place(session, source), _place(session, target), recursive=recursive, quiet=quiet)
    program = shutil.which("scp")
    if program is None:
        raise Unsupported("there is no scp here", hint="install openssh-client")
    os.execv(program, argv)


def _place(session: Session, text: str) -> Place:
    name, path = parse_place(text)
    if not name:
        return Place(path)
    return Place(path, login(get(session, name)))
