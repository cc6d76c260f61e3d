"""How a command line is taken apart: Docker's rules of flags on top of click's commands.

Docker's flags are those of Go's pflag: `--rm=false`, `-e=A=1`, `-itd`, `-n5`, flags after arguments unless the rest
belongs to a program. click knows only a part of that, so its parser is replaced and everything else is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

# Spellings that Docker still takes and no longer shows.
ALIASES = {
    "--net": "--network",
    "--net-alias": "--network-alias",
    "--dns-opt": "--dns-option",
    "--time": "--timeout",
    "--security-opts": "--security-opt",
}
_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}

Callback = Callable[..., Any]


class FlagError(click.UsageError):
    """A flag that is not there or has a bad value: exit code 125, as docker's."""

    exit_code = 125


def invalid(flag: str, value: str, why: str) -> FlagError:
    """The one shape of "this value does not do for that flag"."""
    return FlagError(f"invalid argument {value!r} for {flag}: {why}")


class FlagParser:
    """What click asks a parser for: `parse_args` and the prefixes of options."""

    def __init__(self, command: click.Command, ctx: click.Context) -> None:
        self._opt_prefixes = {"-", "--"}  # read by click's completion
        parameters = command.get_params(ctx)
        self._command, self._lenient = command, ctx.resilient_parsing
        self._interspersed = ctx.allow_interspersed_args
        self._arguments = [each for each in parameters if isinstance(each, click.Argument)]
        self._options: dict[str, click.Option] = {}
        for each in parameters:
            if isinstance(each, click.Option):
                self._options |= dict.fromkeys(each.opts, each)
        self._found: dict[str, Any] = {}
        self._order: list[click.Parameter] = []

    def parse_args(self, args: list[str]) -> tuple[dict[str, Any], list[str], list[click.Parameter]]:
        """(values by parameter, words left over, parameters in order). Raises FlagError."""
        words: list[str] = []
        queue = list(args)
        try:
            while queue:
                word = queue.pop(0)
                if word == "--":
                    break
                if word.startswith("--"):
                    self._long(word, queue)
                elif word.startswith("-") and word != "-":
                    self._short(word, queue)
                else:
                    words.append(word)
                    if not self._interspersed:
                        break
        except click.UsageError:
            if not self._lenient:
                raise
        rest = self._place([*words, *queue])
        return self._found, rest, self._order + list(self._arguments)

    def _long(self, word: str, queue: list[str]) -> None:
        name, equals, value = word.partition("=")
        name = name if name in self._options else ALIASES.get(name, name)
        option = self._options.get(name)
        if option is None:
            raise self._unknown(name)
        self._take(option, name, value if equals else None, queue)

    def _short(self, word: str, queue: list[str]) -> None:
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            option = self._options.get(name)
            if option is None:
                raise FlagError(f"unknown shorthand flag: {name[1]!r} in {word}")
            if letters.startswith("=") or (letters and not option.is_flag):
                self._take(option, name, letters.removeprefix("="), queue)
                return
            self._take(option, name, None, queue)

    def _take(self, option: click.Option, name: str, value: str | None, queue: list[str]) -> None:
        key = str(option.name)
        self._order.append(option)
        if option.is_flag:
            truth = True if value is None else _TRUTH.get(value.lower())
            if truth is None:
                raise invalid(name, str(value), "write true or false")
            self._found[key] = truth
            return
        if value is None:
            if not queue:
                raise FlagError(f"flag needs an argument: {name}")
            value = queue.pop(0)
        if option.multiple:
            self._found.setdefault(key, []).append(value)
        else:
            self._found[key] = value

    def _unknown(self, name: str) -> FlagError:
        shown = [flag for flag, option in self._options.items() if not option.hidden]
        return FlagError(f"unknown flag: {name}{suggestion(name, shown)}")

    def _place(self, words: list[str]) -> list[str]:
        """Give the words to the arguments; one argument may take any number."""
        after = 0  # how many words the single ones behind the greedy one want
        for each in reversed(self._arguments):
            if each.nargs < 0:
                break
            after += 1
        for argument in self._arguments:
            if argument.nargs < 0:
                count = max(0, len(words) - after)
                if count:
                    self._found[str(argument.name)] = tuple(words[:count])
                words = words[count:]
            elif words:
                self._found[str(argument.name)] = words.pop(0)
        return words


def suggestion(word: str, known: Sequence[str]) -> str:
    """ " (did you mean …?)", or nothing when nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


class Command(click.Command):
    """A command whose flags are read as Docker reads them."""

    def make_parser(self, ctx: click.Context) -> Any:
        return FlagParser(self, ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            wanted = _usage_words(self, ctx)
            raise click.UsageError(f"{ctx.command_path} needs {wanted or 'arguments'}", ctx) from error
        except click.BadParameter as error:
            name = getattr(error.param, "opts", [""])[-1]
            raise FlagError(f"invalid argument for {name}: {error.message.rstrip('.')}", ctx) from error
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # whose --help is to be seen
            raise

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", _usage_words(self, ctx)]


def _usage_words(command: click.Command, ctx: click.Context) -> str:
    arguments = [each for each in command.get_params(ctx) if isinstance(each, click.Argument)]
    return " ".join(word for each in arguments for word in each.get_usage_pieces(ctx))


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, from a table of `name: (module:attribute, help)`."""

    table: Mapping[str, tuple[str, str]] = {}
    aliases: Mapping[str, str] = {}  # other names of the same, not shown

    def make_parser(self, ctx: click.Context) -> Any:
        return FlagParser(self, ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.table.get(self.aliases.get(cmd_name, cmd_name))
        if entry is None:
            return None
        from importlib import import_module

        module, _, attribute = entry[0].partition(":")
        return getattr(import_module(f"longshore.cli.{module}"), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = self.get_command(ctx, args[0])
        if found is None:
            if ctx.resilient_parsing:
                return None, None, args[1:]
            near = suggestion(args[0], list(self.table))
            raise click.UsageError(f"unknown command: {ctx.command_path} {args[0]}{near}", ctx)
        return args[0], found, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table instead of importing every module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]" if len(self.params) > 0 else "", "COMMAND"]


def lazy_group(
    name: str, about: str, table: Mapping[str, tuple[str, str]], aliases: Mapping[str, str] | None = None
) -> LazyGroup:
    """A group of lazily imported commands; without a command it shows its help, as docker does."""

    @click.pass_context
    def show_help(ctx: click.Context) -> None:
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())

    group = LazyGroup(name, callback=show_help, help=about, invoke_without_command=True)
    group.table, group.aliases = table, aliases or {}
    return group


def command(name: str, *, program_follows: bool = False) -> Callable[[Callback], click.Command]:
    """A command; `program_follows` says that words after its first arguments belong to another program."""
    settings = {"allow_interspersed_args": False} if program_follows else {}
    return click.command(name, cls=Command, context_settings=settings)


def flag(*names: str, help: str = "", default: bool = False, hidden: bool = False) -> Callable[[Any], Any]:
    """A boolean flag: `--x`, `--x=false`."""
    shown = f"{help} (default true)" if default else help
    return click.option(*names, is_flag=True, default=default, help=shown, hidden=hidden)


def text(
    *names: str, help: str = "", default: str | None = "", metavar: str = "string", complete: Any = None
) -> Callable[[Any], Any]:
    return click.option(*names, default=default, metavar=metavar, help=help, shell_complete=complete)


def number(*names: str, help: str = "", default: int | None = None) -> Callable[[Any], Any]:
    return click.option(*names, type=int, default=default, metavar="int", help=help)


def many(*names: str, help: str = "", metavar: str = "list", complete: Any = None) -> Callable[[Any], Any]:
    """A flag that may be repeated."""
    return click.option(*names, multiple=True, metavar=metavar, help=help, shell_complete=complete)


def one(name: str, metavar: str, *, required: bool = True, complete: Any = None) -> Callable[[Any], Any]:
    """An argument; "" when it may be left out and is."""
    default: dict[str, Any] = {} if required else {"default": ""}
    return click.argument(name, metavar=metavar, required=required, shell_complete=complete, **default)


def several(
    name: str, metavar: str, *, required: bool = True, complete: Any = None, raw: bool = False
) -> Callable[[Any], Any]:
    """The rest of the words; `raw` ones belong to a program and are not completed."""
    kind = click.UNPROCESSED if raw else None
    return click.argument(
        name, nargs=-1, metavar=metavar, required=required, shell_complete=complete, type=kind
    )


def words(*offered: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A completion of fixed words."""

    def complete(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in offered if word.startswith(incomplete)]

    return complete
