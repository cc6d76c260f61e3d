"""`pymachine upgrade`."""

import dataclasses

import click

from pymachine.commands import Session
from pymachine.commands._common import change, machines
from pymachine.machine import Machine


@click.command("upgrade")
@click.option(
    "--engine-bundle", default="", metavar="FILE", help="The bundle to install. [default: newest in ./build]"
)
@machines
@click.pass_obj
def command(session: Session, engine_bundle: str, names: tuple[str, ...]) -> None:
    """Install another bundle of the engine on machines. Containers keep running."""

    def upgrade(machine: Machine) -> None:
        # What create was told to install is old now.
        machine.record.engine = dataclasses.replace(machine.record.engine, bundle="")
        done = machine.provision(engine_bundle)
        machine.save()
        what = f"{done.release} already" + (", with other settings" if done.changed else "")
        if done.switched:
            what = f"{done.previous or 'nothing'} -> {done.release}"
        machine.progress.say(f"{machine.name!r}: {what}")

    change(session, names, "upgrade", upgrade)
