"""`pymachine ls`."""

import click

from pymachine import gotemplate
from pymachine.commands import Session
from pymachine.listing import columns, filter_names, matches, parse_filters, survey

_HEADINGS = {
    "Name": "NAME",
    "Active": "ACTIVE",
    "DriverName": "DRIVER",
    "State": "STATE",
    "URL": "URL",
    "DockerVersion": "DOCKER",
    "Error": "ERRORS",
    "ActiveHost": "ACTIVE_HOST",
    "ResponseTime": "RESPONSE",
}
_TABLE = "{{.Name}}\t{{.Active}}\t{{.DriverName}}\t{{.State}}\t{{.URL}}\t{{.DockerVersion}}\t{{.Error}}"


@click.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="driver=, state=, name= (a pattern) or label=.",
)
@click.option(
    "-t", "--timeout", default=10.0, show_default=True, metavar="SECONDS", help="Wait at most so long."
)
@click.option(
    "-f",
    "--format",
    "template",
    default="",
    metavar="TEMPLATE",
    help="Go template; 'table TEMPLATE' adds headings.",
)
@click.pass_obj
def command(session: Session, quiet: bool, filters: tuple[str, ...], timeout: float, template: str) -> None:
    """List machines.

    All machines are asked at the same time; one that does not answer in time is in state Timeout.
    """
    wanted = parse_filters(filters)
    names = filter_names(session.store, session.store.names(), wanted)
    if quiet and "state" not in wanted:
        click.echo("".join(f"{name}\n" for name in names), nl=False)  # nobody needs to be asked
        return
    rows = [
        row
        for row in survey(session.store, names, timeout=timeout, ask_engine=not quiet)
        if matches(row, wanted)
    ]
    if quiet:
        click.echo("".join(f"{row.name}\n" for row in rows), nl=False)
        return
    as_table = not template or template.startswith("table")
    body = template.removeprefix("table").lstrip() or _TABLE
    lines = [gotemplate.render(body, row.values()) for row in rows]
    if as_table:
        lines = columns([gotemplate.render(body, _HEADINGS), *lines])
    click.echo("".join(f"{line}\n" for line in lines), nl=False)
