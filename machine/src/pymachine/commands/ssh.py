"""`pymachine ssh`."""

import os
import shlex
import shutil

import click

from pymachine.commands import Session
from pymachine.commands._common import get, one_machine
from pymachine.machine import Machine
from pymachine.ssh_command import Login, ssh_argv


@click.command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@one_machine
@click.argument("arguments", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, name: str, arguments: tuple[str, ...]) -> None:
    """Log in to a machine, or run a command on it. The exit code is the command's."""
    session: Session = context.obj
    machine = get(session, name)
    target = login(machine)
    program = shutil.which("ssh")
    if program and not os.environ.get("PYMACHINE_NATIVE_SSH"):
        os.execv(program, ssh_argv(target, arguments, program=program))
    transport = machine.connect()
    try:
        # ssh(1) joins its arguments by blanks for the far shell too; one word is taken as it is.
        context.exit(transport.shell(arguments[0] if len(arguments) == 1 else shlex.join(arguments)))
    finally:
        transport.close()


def login(machine: Machine) -> Login:
    """How the system's ssh reaches a machine. Raises when it has no SSH or does not run."""
    machine.need_ssh()
    machine.need_running()
    target = machine.driver.target()
    return Login(machine.name, target.host, target.port, target.user, target.key, machine.files.known_hosts)
