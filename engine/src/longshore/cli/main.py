"""`longshore`, the command line: docker's commands and flags over the same API.

Command modules are imported when their command is called, so that a short command stays short.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from longshore import __version__
from longshore.cli.client import from_environment
from longshore.cli.commands import ALIASES, COMMANDS
from longshore.cli.flags import FlagError, LazyGroup
from longshore.errors import EngineError

RUNS = frozenset({"run", "create"})  # below 125 the exit codes of `run` belong to the container's program


@click.command(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
)
@click.option(
    "-H",
    "--host",
    default=None,
    metavar="string",
    help="Daemon to talk to: unix://, tcp:// or ssh://; LONGSHORE_HOST, then DOCKER_HOST otherwise.",
)
@click.option(
    "--config",
    default=None,
    metavar="string",
    help="Folder of config.json; DOCKER_CONFIG, then ~/.docker otherwise.",
)
@click.option("--tls", is_flag=True, help="Use TLS.")
@click.option("--tlsverify", is_flag=True, help="Use TLS and check the daemon's certificate.")
@click.option(
    "--tlscacert", default=None, metavar="string", help="Authority that signed the daemon's certificate."
)
@click.option("--tlscert", default=None, metavar="string", help="Our certificate.")
@click.option("--tlskey", default=None, metavar="string", help="Our key.")
@click.version_option(__version__, "-v", "--version", message="Longshore version %(version)s")
@click.pass_context
def cli(ctx: click.Context, host: str | None, config: str | None, **tls: Any) -> None:
    """Containers on plain Linux hosts."""
    ctx.obj = from_environment(host, tls)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


assert isinstance(cli, LazyGroup)
cli.table, cli.aliases = COMMANDS, ALIASES


def main() -> None:
    """Runs the command line and exits: see docs/cli.md for the exit codes."""
    try:
        code: object = cli.main(standalone_mode=False, prog_name="longshore")
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        sys.exit(_told(error))
    except EngineError as error:
        _say(str(error))
        sys.exit(125 if _runs() else 1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if os.environ.get("LONGSHORE_DEBUG"):
            raise
        _say(f"cannot make sense of the daemon's answer: {error!r} (LONGSHORE_DEBUG=1 shows where)")
        sys.exit(125 if _runs() else 1)
    except BrokenPipeError:
        sys.stderr.close()  # `longshore logs | head`: nobody wants our complaint either
        sys.exit(141)


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"Error: {text}\n")


def _told(error: click.ClickException) -> int:
    """One line on standard error; the exit code."""
    if not isinstance(error, click.UsageError):
        _say(error.format_message())
        return 125 if _runs() else error.exit_code
    where = error.ctx.command_path if error.ctx else "longshore"
    _say(f"{error.format_message().rstrip('.')}; see '{where} --help'")
    return FlagError.exit_code if error.exit_code == FlagError.exit_code else 1


def _runs() -> bool:
    """Whether this is `run` or `create`."""
    words = [word for word in sys.argv[1:] if word in COMMANDS or word in RUNS]
    return bool(words) and (
        words[0] in RUNS or (words[0] == "container" and words[1:2] != [] and words[1] in RUNS)
    )
