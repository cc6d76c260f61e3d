"""`pymachine inspect`."""

import json

import click

from pymachine import gotemplate, record
from pymachine.commands import Session
from pymachine.commands._common import one_machine


@click.command("inspect")
@click.option("-f", "--format", "template", default="", metavar="TEMPLATE", help="Go template of the output.")
@one_machine
@click.pass_obj
def command(session: Session, template: str, name: str) -> None:
    """Print what the store knows of a machine, as JSON."""
    value = record.encode(session.store.load(name), session.store.root)
    click.echo(gotemplate.render(template, value) if template else json.dumps(value, indent=4))
