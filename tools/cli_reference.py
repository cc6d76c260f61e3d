"""Write docs/reference/cli.md: every command of `longshore` with its flags, read from the commands themselves.

`--check` only compares (tests/unit/test_docs.py does the same).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from longshore.cli.flags import LazyGroup
from longshore.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/cli.md"
HEAD = """\
# The command line, command by command

<!-- Written by tools/cli_reference.py; change that, or the code, and run `.venv/bin/python tools/cli_reference.py`. -->

What is common to all commands, exit codes and templates: [cli.md](../cli.md). A flag of kind *list* may be repeated;
truths may be written `--flag=false`.
"""


def commands(group: LazyGroup, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, in the order of its help."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield f"{path} {name}", found
        if isinstance(found, LazyGroup):
            yield from commands(found, f"{path} {name}")


def cell(text: str) -> str:
    return " ".join(text.replace("\b", "").split()).replace("|", "\\|")


def flag_rows(command: click.Command) -> list[str]:
    rows: list[str] = []
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len))
            kind = "" if option.is_flag else (option.metavar or "string").lower()
            rows.append(f"| {names} | {kind} | {cell(option.help or '')} |")
    return rows


def section(paths: list[str], command: click.Command) -> list[str]:
    """One command, under all the names it has."""
    context = click.Context(command, info_name=paths[0])
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece)
    lines = ["", f"## {paths[0]}", "", f"`{paths[0]} {usage}`".replace(" `", "`"), ""]
    about, _, shell = (command.help or "").partition("\n\n")
    lines.append(cell(about))
    if shell:
        lines += ["", "```", *(line.strip() for line in shell.replace("\b", "").strip().splitlines()), "```"]
    if len(paths) > 1:
        lines += ["", "Also " + ", ".join(f"`{path}`" for path in paths[1:]) + "."]
    if rows := flag_rows(command):
        lines += ["", "| flag | kind | |", "|---|---|---|", *rows]
    if isinstance(command, LazyGroup):
        lines += ["", "| command | |", "|---|---|"]
        lines += [f"| `{name}` | {cell(text)} |" for name, (_, text) in command.table.items()]
    return lines


def page() -> str:
    """The whole page. A command that has several names is described once, under the shortest."""
    assert isinstance(cli, LazyGroup)
    names: dict[int, tuple[list[str], click.Command]] = {}
    for path, command in commands(cli, "longshore"):
        names.setdefault(id(command), ([], command))[0].append(path)
    lines = [
        HEAD.rstrip(),
        "",
        "Before the command:",
        "",
        "| flag | kind | |",
        "|---|---|---|",
        *flag_rows(cli),
    ]
    for paths, command in sorted(names.values(), key=lambda each: sorted(each[0], key=len)[0]):
        lines += section(sorted(paths, key=len), command)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="only compare")
    if options.parse_args().check:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
