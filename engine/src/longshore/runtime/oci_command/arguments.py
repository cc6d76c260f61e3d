"""The command line in runc's manner: options before the container's name or after it, one dash or two.

Our own little reader instead of argparse, whose import costs more than most commands here. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from longshore.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Option:
    """`names` without dashes, the first is the one to ask for. `kind` is "flag", "text", "list" or "number"."""

    names: tuple[str, ...]
    kind: str
    text: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """`run` is "module.function" below this package. `stops`: what follows the first word is not for us."""

    name: str
    run: str
    text: str
    options: tuple[Option, ...] = ()
    words: str = "<container-id>"
    least: int = 1
    most: int | None = 1
    stops: bool = False


@dataclass(slots=True)
class Given:
    """What was given: values by the option's first name, and the words."""

    values: dict[str, str] = field(default_factory=dict[str, str])
    lists: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    words: list[str] = field(default_factory=list[str])

    def text(self, name: str) -> str:
        return self.values.get(name, "")

    def flag(self, name: str) -> bool:
        return self.values.get(name) == "true"

    def has(self, name: str) -> bool:
        return name in self.values

    def number(self, name: str) -> int:
        """0 when it was not given."""
        return int(self.values.get(name, "0"))

    def list(self, name: str) -> list[str]:
        return self.lists.get(name, [])


def parse(options: Sequence[Option], words: Sequence[str], *, stops: bool) -> Given:
    """Read options and words. With `stops` all that follows the first word is a word. Raises InvalidArgument."""
    by_name = {name: option for option in options for name in option.names}
    given = Given({option.names[0]: option.default for option in options if option.default})
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            given.words += rest
            break
        if not word.startswith("-") or word == "-":
            given.words.append(word)
            if stops:
                given.words += rest
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        option = by_name.get(name)
        if option is None:
            raise InvalidArgument(f"flag provided but not defined: -{name}")
        if option.kind == "flag":
            value = (value if equals else "true").lower()
            if value not in ("true", "false"):
                raise InvalidArgument(f'--{name}: "{value}" is neither true nor false')
        elif not equals:
            if not rest:
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        _keep(given, option, name, value)
    return given


def _keep(given: Given, option: Option, name: str, value: str) -> None:
    if option.kind == "number" and not value.removeprefix("-").isdecimal():
        raise InvalidArgument(f'--{name}: "{value}" is not a number')
    if option.kind == "list":
        given.lists.setdefault(option.names[0], []).append(value)
    else:
        given.values[option.names[0]] = value


def check_words(command: Command, given: Given) -> None:
    """Raises InvalidArgument for too few or too many of them."""
    count = len(given.words)
    if count < command.least or (command.most is not None and count > command.most):
        wanted = f"exactly {command.least}" if command.least == command.most else f"at least {command.least}"
        if command.most is not None and count > command.most:
            wanted = f"at most {command.most}" if command.least != command.most else wanted
        raise InvalidArgument(f"longshore-oci {command.name}: {wanted} argument(s) needed, not {count}")


def help_text(commands: Sequence[Command], options: Sequence[Option]) -> str:
    """The program's own help."""
    width = max(len(command.name) for command in commands) + 2
    return "\n".join(
        [
            "NAME:",
            "   longshore-oci, in the place of runc - Open Container Initiative runtime",
            "",
            "USAGE:",
            "   longshore-oci [global options] command [command options] [arguments...]",
            "",
            "COMMANDS:",
            *(f"   {command.name:{width}}{command.text}" for command in commands),
            "",
            "GLOBAL OPTIONS:",
            *_option_lines(options),
        ]
    )


def command_help(command: Command) -> str:
    lines = [
        "NAME:",
        f"   longshore-oci {command.name}, as runc {command.name} - {command.text}",
        "",
        "USAGE:",
        f"   longshore-oci {command.name} [command options] {command.words}".rstrip(),
    ]
    if command.options:
        lines += ["", "OPTIONS:", *_option_lines(command.options)]
    return "\n".join(lines)


def _option_lines(options: Sequence[Option]) -> list[str]:
    heads: list[str] = []
    for option in options:
        value = "" if option.kind == "flag" else " value"
        heads.append(", ".join(f"{'--' if len(name) > 1 else '-'}{name}{value}" for name in option.names))
    width = max(map(len, heads), default=0) + 2
    return [
        f"   {head:{width}}{option.text}" + (f" (default: {option.default})" if option.default else "")
        for head, option in zip(heads, options, strict=True)
    ]
