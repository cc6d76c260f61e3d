"""`longshore`, the command line: docker's commands and flags over the same API.

Command modules are imported when their command is called, so that a short command stays short.
"""

import importlib
import sys
from typing import Any

import click

from longshore import __version__
from longshore.cli.client import ApiError, Unreachable, from_environment

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Create a container and run it"),
    "create": ("run", "Create a container"),
    "ps": ("containers", "List containers"),
    "logs": ("containers", "Show a container's output"),
    "start": ("containers", "Start containers"),
    "stop": ("containers", "Stop containers"),
    "restart": ("containers", "Restart containers"),
    "kill": ("containers", "Send a signal to containers"),
    "rm": ("containers", "Remove containers"),
    "rename": ("containers", "Rename a container"),
    "wait": ("containers", "Wait for containers to end and print their exit codes"),
    "inspect": ("containers", "Show everything about containers and images"),
    "exec": ("exec", "Run a command in a running container"),
    "attach": ("exec", "Attach to a running container"),
    "images": ("images", "List images"),
    "pull": ("images", "Pull an image from a registry"),
    "load": ("images", "Load images from an archive"),
    "import": ("images", "Make an image from a root filesystem's tar"),
    "save": ("images", "Save images to an archive"),
    "tag": ("images", "Give an image another name"),
    "rmi": ("images", "Remove images"),
    "history": ("images", "Show an image's history"),
    "build": ("build", "Build an image from a Dockerfile"),
    "apply": ("apply", "Bring containers, networks and volumes to a desired state"),
    "info": ("system", "Show the engine and its machine"),
    "version": ("system", "Show versions"),
    "doctor": ("system", "Check what the machine lacks"),
    "events": ("system", "Show what happens, as it happens"),
    "system": ("system", "Manage the engine"),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"longshore.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, f"{cmd_name}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table above instead of importing every module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["--help"]})
@click.option(
    "-H", "--host", default=None, help="Daemon's socket; LONGSHORE_HOST, then DOCKER_HOST otherwise."
)
@click.option("--tls", is_flag=True, help="Use TLS.")
@click.option("--tlsverify", is_flag=True, help="Use TLS and check the daemon's certificate.")
@click.option("--tlscacert", default=None, help="Authority that signed the daemon's certificate.")
@click.option("--tlscert", default=None, help="Our certificate.")
@click.option("--tlskey", default=None, help="Our key.")
@click.version_option(__version__, "-v", "--version", message="Longshore version %(version)s")
@click.pass_context
def cli(ctx: click.Context, host: str | None, **tls: Any) -> None:
    """Containers on plain Linux hosts."""
    ctx.obj = from_environment(host, tls)


def main() -> None:
    """Exit code 1 for what failed, 2 for a wrong command line; 125, 126, 127 as documented at `run`."""
    try:
        code: object = cli.main(standalone_mode=False, prog_name="longshore")
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(125 if isinstance(error, click.UsageError) and _runs() else error.exit_code)
    except (ApiError, Unreachable) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(125 if _runs() else 1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # `longshore logs | head`: nobody wants our complaint either
        sys.exit(141)


def _runs() -> bool:
    """Whether this is `run`: there the codes below 125 belong to the container's program."""
    return next((word for word in sys.argv[1:] if word in COMMANDS), "") == "run"
