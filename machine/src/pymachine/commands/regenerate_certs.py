"""`pymachine regenerate-certs`."""

import click

from pymachine import certs
from pymachine.commands import Session
from pymachine.commands._common import change, machines, wanted


@click.command("regenerate-certs")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--client-certs", is_flag=True, help="Make a new client certificate too.")
@machines
@click.pass_obj
def command(session: Session, force: bool, client_certs: bool, names: tuple[str, ...]) -> None:
    """Make new TLS certificates for machines. Containers keep running."""
    chosen = wanted(session, names)
    if not force:
        click.echo(
            "About to replace the TLS certificates. Clients with copies of the old ones lose access.",
            err=True,
        )
        click.confirm("Are you sure?", abort=True, err=True)
    if client_certs:
        store = session.store
        with store.lock_shared("certificates"):
            authority = certs.ensure_authority(store.certificates, store.root.name)
            certs.write_client(store.certificates, authority, store.root.name)
    change(
        session,
        chosen,
        "regenerate-certs",
        lambda machine: machine.provision(keep_bundle=True, new_certificate=True),
    )
