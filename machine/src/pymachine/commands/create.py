"""`pymachine create`."""

import os
from pathlib import Path
from typing import Any

import click

from pymachine import drivers, machine
from pymachine.commands import Session
from pymachine.drivers.base import Flag
from pymachine.names import parse_name
from pymachine.record import BUNDLE_CACHE, ENGINE_PORT, EngineOptions

DEFAULT_DRIVER = "local"
_FLAGS = "pymachine.driver-flags"


class CreateCommand(click.Command):
    """Takes further flags from the driver that the command line names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_FLAGS] = [_option(flag) for flag in drivers.find(asked_driver(args)).flags]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        common = super().get_params(ctx)
        return [*common[:-1], *ctx.meta.get(_FLAGS, []), common[-1]]  # --help stays the last


def asked_driver(args: list[str]) -> str:
    """The value of --driver, before click can parse: the driver decides what else is a flag. Pure but for the environment."""
    for index, word in enumerate(args):
        if word in ("-d", "--driver") and index + 1 < len(args):
            return args[index + 1]
        if word.startswith("--driver="):
            return word.removeprefix("--driver=")
        if word.startswith("-d") and len(word) > 2 and not word.startswith("--"):
            return word[2:].removeprefix("=")
        if word == "--":
            break
    return os.environ.get("PYMACHINE_DRIVER") or DEFAULT_DRIVER


def _option(flag: Flag) -> click.Option:
    return click.Option(
        [f"--{flag.name}", _variable(flag)],
        default=flag.default,
        show_default=bool(flag.default),
        envvar=flag.env or None,
        show_envvar=bool(flag.env),
        help=f"{flag.help[0].upper()}{flag.help[1:]}.",
        metavar=flag.metavar,
        is_flag=isinstance(flag.default, bool),
    )


def _variable(flag: Flag) -> str:
    return "driver_" + flag.name.replace("-", "_")


@click.command("create", cls=CreateCommand)
@click.option(
    "-d",
    "--driver",
    default=DEFAULT_DRIVER,
    show_default=True,
    envvar="PYMACHINE_DRIVER",
    metavar="DRIVER",
    help="What kind of machine: local (a container on this host's engine), generic (any SSH host), none (a URL). "
    "'create --driver DRIVER --help' shows the driver's flags.",
)
@click.option("--no-engine", is_flag=True, help="Only a host with SSH, without the engine.")
@click.option(
    "--engine-bundle",
    default="",
    metavar="FILE",
    help="The engine's bundle. [env: PYMACHINE_ENGINE_BUNDLE; default: newest in ./build]",
)
@click.option(
    "--engine-opt", multiple=True, metavar="KEY=VALUE", help="Setting for the engine's daemon.json."
)
@click.option("--engine-label", multiple=True, metavar="KEY=VALUE", help="Label of the engine.")
@click.option("--engine-insecure-registry", multiple=True, metavar="HOST", help="Registry without TLS.")
@click.option("--engine-registry-mirror", multiple=True, metavar="URL", help="Mirror to pull from.")
@click.option(
    "--engine-cache",
    default=BUNDLE_CACHE,
    show_default=True,
    metavar="DIR",
    help="Where the host keeps the bundle.",
)
@click.option(
    "--tls-san", multiple=True, metavar="NAME", help="Further name or address for the server certificate."
)
@click.argument("name", metavar="MACHINE", default="default")
@click.pass_obj
def command(session: Session, driver: str, name: str, **flags: Any) -> None:
    """Create a machine and put the engine on it.

    When it stops half way, the same command goes on from there.
    """
    kind = drivers.find(driver)
    values = {flag.name: flags.pop(_variable(flag)) for flag in kind.flags}
    settings = kind.configure(values)
    options = EngineOptions(
        install=not flags["no_engine"] and kind.has_ssh,
        port=int(settings.get("EnginePort", ENGINE_PORT)),
        bundle=str(Path(flags["engine_bundle"]).expanduser().absolute()) if flags["engine_bundle"] else "",
        cache=flags["engine_cache"],
        options=tuple(flags["engine_opt"]),
        labels=tuple(flags["engine_label"]),
        insecure_registries=tuple(flags["engine_insecure_registry"]),
        registry_mirrors=tuple(flags["engine_registry_mirror"]),
        sans=tuple(flags["tls_san"]),
    )
    machine.create(session.store, parse_name(name), driver, settings, options, session.progress)
    prefix = f"pymachine -s {session.storage_flag}" if session.storage_flag else "pymachine"
    if options.install:
        session.progress.say(f"Machine {name!r} is ready. To use its engine: eval $({prefix} env {name})")
    elif kind.has_ssh:
        session.progress.say(f"Machine {name!r} is ready. To log in: {prefix} ssh {name}")
