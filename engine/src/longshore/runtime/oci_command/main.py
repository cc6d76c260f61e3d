"""From the command line to a command, and from an error to a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import msgspec

from longshore.errors import EngineError, InvalidArgument
from longshore.runtime.oci_command.arguments import Command, check_words, command_help, help_text, parse
from longshore.runtime.oci_command.commands import COMMANDS, GLOBAL
from longshore.runtime.oci_command.context import Context
from longshore.runtime.oci_command.log import Log
from longshore.runtime.oci_command.store import Store

_FAILED = 1
_EXEC_FAILED = 255  # as runc: codes below may be the program's own


def main(words: Sequence[str] | None = None) -> int:
    """Errors are one line on standard error, and in the log of --log; the code is 1, with `exec` 255. `run` and
    `exec` give the program's code, 128 and the number of the signal that ended it.
    """
    words = sys.argv[1:] if words is None else words
    try:
        given = parse(GLOBAL, words, stops=True)
    except InvalidArgument as error:
        print(f"longshore-oci: {error}", file=sys.stderr)
        return _FAILED
    if given.flag("version"):
        return _print_version()
    if not given.words or given.words[0] in ("help", "h") or (given.flag("help") and not given.words):
        print(help_text(COMMANDS, GLOBAL))
        return 0
    name, *rest = given.words
    command = next((each for each in COMMANDS if each.name == name), None)
    if command is None:
        print(f"No help topic for '{name}'", file=sys.stderr)
        return 3
    if _asks_help(command, rest):
        print(command_help(command))
        return 0
    try:
        log = Log(given.text("log"), given.text("log-format"), debug=given.flag("debug"))
    except InvalidArgument as error:
        print(f"longshore-oci: {error}", file=sys.stderr)
        return _FAILED
    try:
        own = parse(command.options, rest, stops=command.stops)
        check_words(command, own)
        store = Store(given.text("root"), systemd=given.flag("systemd-cgroup"))
        module, _dot, function = command.run.partition(".")
        run = getattr(import_module(f"longshore.runtime.oci_command.{module}"), function)
        return run(Context(store, log, own, command.name)) or 0
    except EngineError as error:
        log.error(str(error))
    except (OSError, msgspec.MsgspecError) as error:
        log.error(f"{str(error)[:1].lower()}{str(error)[1:]}")
    except KeyboardInterrupt:
        pass
    return _EXEC_FAILED if command.name == "exec" else _FAILED


def _asks_help(command: Command, words: list[str]) -> bool:
    for word in words:
        if word in ("-h", "-help", "--help"):
            return True
        if command.stops and not word.startswith("-"):
            break
    return False


def _print_version() -> int:
    from longshore import __version__
    from longshore.oci.runtime_spec import VERSION

    print(f"longshore-oci {__version__}, with the command line of runc version 1.1.15")
    print(f"commit: longshore {__version__}")
    print(f"spec: {VERSION}")
    return 0
