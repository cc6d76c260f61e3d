"""`pymachine`: the command tree is the folder `commands`, one file for each command."""

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from pymachine import __version__, commands
from pymachine.errors import MachineError, one_line
from pymachine.progress import Progress
from pymachine.store import Store, default_root

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class CommandTree(click.Group):
    """Loads a command's file when the command is asked for: what is not used is not imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = (module.name for module in pkgutil.iter_modules(commands.__path__))
        return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"pymachine.commands.{cmd_name.replace('-', '_')}")
        return module.command


@click.group(
    cls=CommandTree,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Create Linux hosts and put the Longshore engine on them.",
)
@click.option("-D", "--debug", is_flag=True, envvar="PYMACHINE_DEBUG", help="Show tracebacks of errors.")
@click.option(
    "-s",
    "--storage-path",
    metavar="DIR",
    help="Where machines are stored. [env: PYMACHINE_STORAGE_PATH; default: ~/.pymachine]",
)
@click.version_option(
    __version__, "-v", "--version", prog_name="pymachine", message="%(prog)s version %(version)s"
)
@click.pass_context
def cli(context: click.Context, debug: bool, storage_path: str | None) -> None:
    os.umask(0o077)  # everything this tool writes is its user's only
    context.obj = commands.Session(
        Store(Path(storage_path) if storage_path else default_root()), Progress(), storage_path or ""
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit: 0 done, 1 an error with one line on standard error, 2 wrong usage, 130 interrupted."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("PYMACHINE_DEBUG")) or bool({"-D", "--debug"} & set(argv[:3]))
    sys.exit(_run(argv, debug=debug))


def _run(argv: list[str], *, debug: bool) -> int:
    try:
        result = cli.main(args=argv, prog_name="pymachine", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return _INTERRUPTED
    except MachineError as error:
        if debug:
            traceback.print_exc()
        _say(str(error))
        return 1
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        name = f"{error.filename}: " if error.filename else ""
        _say(f"{name}{error.strerror or error}")
        return 1
    except Exception as error:  # the last door: a defect of ours, told in one line as well
        if debug:
            traceback.print_exc()
        _say(f"internal error: {type(error).__name__}: {error} (run again with --debug and report it)")
        return 1


def _say(text: str) -> None:
    print(f"pymachine: {one_line(text)}", file=sys.stderr)
